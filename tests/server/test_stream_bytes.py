"""Streams on the wire, byte for byte as TGI's: head, frames, the comment that keeps a silent one alive, the end."""

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentlm import __version__
from tests.model.small import make_small
from tests.server.live import SECONDS, Live, served

NATIVE = (
    "/generate_stream",
    {"inputs": "byte by byte", "parameters": {"max_new_tokens": 3, "details": True}},
)
CHAT = (
    "/v1/chat/completions",
    {
        "messages": [{"role": "user", "content": "byte by byte"}],
        "max_tokens": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def quick(model):
    arguments = ("--backend", "mock", "--mock-step-time", "0.001", "--api-dialect", "tgi")
    with served("--model", model, *arguments) as live:
        yield live


def raw(live: Live, path: str, body: dict) -> tuple[list[str], bytes]:
    """The lines of an answer's head, and its body freed of the chunks' framing."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
    with socket.create_connection(("127.0.0.1", live.port), timeout=SECONDS) as connection:
        connection.sendall(f"{head}connection: close\r\n\r\n".encode() + data)
        with connection.makefile("rb") as answer:
            lines = []
            while line := answer.readline().decode().rstrip("\r\n"):
                lines.append(line)
            text = b""
            while size := int(answer.readline(), 16):
                text += answer.read(size)
                assert answer.read(2) == b"\r\n"
            assert answer.read() == b"\r\n", "nothing follows the last chunk"
    return lines, text


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize(("path", "body"), [NATIVE, CHAT])
def test_the_head_is_that_of_an_event_stream(quick, path, body):
    status, *lines = raw(quick, path, body)[0]
    headers = dict(line.split(": ", 1) for line in lines)
    assert status == "HTTP/1.1 200 OK"
    assert all(name == name.lower() for name in headers)
    wanted = {
        "content-type": "text/event-stream",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "transfer-encoding": "chunked",
        "access-control-allow-origin": "*",
        "vary": "origin, access-control-request-method, access-control-request-headers",
    }
    assert wanted.items() <= headers.items()
    assert {"x-compute-type", "x-compute-characters"} <= headers.keys()
    assert not {"x-compute-time", "x-total-time", "content-length"} & headers.keys()


def test_a_native_stream_is_tgis_to_the_byte(quick):
    path, body = NATIVE
    status, whole = quick.call("POST", "/generate", body)
    assert status == 200
    details = whole["details"]
    wanted = ""
    for index, token in enumerate(details["tokens"], start=1):
        last = index == len(details["tokens"])
        # The mock backend gives every token this log-probability.
        said = f'{{"id":{token["id"]},"text":{compact(token["text"])},"logprob":-1.0,"special":false}}'
        text = compact(whole["generated_text"]) if last else "null"
        end = (
            '{"finish_reason":"length","generated_tokens":3,"seed":null,"input_length":13}'
            if last
            else "null"
        )
        wanted += f'data: {{"index":{index},"token":{said},"generated_text":{text},"details":{end}}}\n\n'
    assert raw(quick, path, body)[1].decode() == wanted


def test_a_chat_stream_is_tgis_to_the_byte(quick, model):
    path, body = CHAT
    text = raw(quick, path, body)[1].decode()
    created = re.search('"created":([0-9]+),', text)
    assert created is not None
    head = (
        f'"object":"chat.completion.chunk","id":"","created":{created[1]},"model":{compact(str(model))},'
        f'"system_fingerprint":"{__version__}-native"'
    )
    said = re.findall('"content":("(?:[^"\\\\]|\\\\.)*")', text)
    assert len(said) == 3
    wanted = ""
    for index, content in enumerate(said, start=1):
        finish = '"length"' if index == 3 else "null"
        delta = f'{{"role":"assistant","content":{content}}}'
        choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}'
        wanted += f'data: {{{head},"choices":[{choice}],"usage":null}}\n\n'
    usage = re.search('"usage":({[^}]+})', text)
    assert usage is not None
    counts = json.loads(usage[1])
    assert compact(counts) == usage[1]
    assert list(counts) == ["prompt_tokens", "completion_tokens", "total_tokens"]
    assert (counts["completion_tokens"], counts["total_tokens"]) == (3, counts["prompt_tokens"] + 3)
    wanted += f'data: {{{head},"choices":[],"usage":{usage[1]}}}\n\ndata: [DONE]\n\n'
    assert text == wanted
    assert (
        "".join(map(json.loads, said))
        == quick.call("POST", path, {**body, "stream": False})[1]["choices"][0]["message"]["content"]
    )


@pytest.mark.slow
def test_a_silent_stream_is_kept_alive_by_a_comment(model):
    one = {"max_new_tokens": 1, "max_tokens": 1}
    native = (NATIVE[0], {**NATIVE[1], "parameters": one})
    chat = (CHAT[0], {**CHAT[1], **one})
    with (
        served("--model", model, "--backend", "mock", "--mock-step-time", "15.5") as live,
        ThreadPoolExecutor() as pool,
    ):
        for answer in [pool.submit(raw, live, *request) for request in (native, chat)]:
            text = answer.result()[1]
            # Whichever comes second may have to wait for the other's step too.
            assert re.fullmatch(rb"(:\n\n){1,2}data: \{.*\}\n\n(data: \[DONE\]\n\n)?", text, re.DOTALL)
