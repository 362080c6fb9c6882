"""The load: what counts as a whole answer, what counts as a fault, and a few seconds of it on a live server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.load import served
from bench.load.asked import Ask, WrongAnswerError, streamed_text, whole_text
from bench.load.connection import _joined
from bench.load.report import faults, growth_bytes, quantile
from bench.load.served import TooFewDescriptorsError, Watched, allow_descriptors
from bench.load.traffic import Tally

NATIVE = Ask("/generate_stream", 0, 2)
COMPLETION = Ask("/v1/completions", 0, 2)
BLOCKS = {"free": 7, "cached": 3, "held": 0, "limbo": 0}


def _native(*texts: str, final: str | None) -> bytes:
    events = [
        {
            "index": place,
            "token": {"text": text, "special": text == "</s>"},
            "generated_text": final if place == len(texts) else None,
        }
        for place, text in enumerate(texts, 1)
    ]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def _completion(*reasons: str | None, end: bytes = b"data: [DONE]\n\n") -> bytes:
    events = [{"choices": [{"text": "x", "finish_reason": reason}]} for reason in reasons]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + end


def test_whole_streams_give_their_text() -> None:
    assert streamed_text(_native("a", "b", final="ab"), NATIVE) == "ab"
    assert streamed_text(b":\n\n" + _native("a", "b", final="ab"), NATIVE) == "ab"
    assert streamed_text(_completion(None, "length"), COMPLETION) == "xx"
    # A character that the last token leaves unfinished is no token's text.
    assert streamed_text(_native("a", "", final="a\ufffd"), NATIVE) == "a\ufffd"
    # The end's token, which the last event's text leaves out.
    assert streamed_text(_native("a", "</s>", "b", final="ab"), Ask("/generate_stream", 0, 3)) == "ab"
    assert whole_text(b'{"generated_text":"ab"}', Ask("/generate", 0, 2)) == "ab"


@pytest.mark.parametrize(
    ("ask", "body"),
    [
        pytest.param(NATIVE, _native("a", final="a"), id="a token is missing"),
        pytest.param(NATIVE, _native("a", "b", final=None), id="no final text"),
        pytest.param(NATIVE, _native("a", "b", final="b-a"), id="another text"),
        pytest.param(NATIVE, _native("a", "b", final="ab")[:-1], id="half an event"),
        pytest.param(NATIVE, b"", id="nothing"),
        pytest.param(NATIVE, b'data: {"error":"x"}\n\n', id="an error"),
        pytest.param(COMPLETION, _completion(None, "length", end=b""), id="no mark"),
        pytest.param(COMPLETION, _completion(None, None), id="no finish"),
    ],
)
def test_what_is_missing_from_a_stream_is_told(ask: Ask, body: bytes) -> None:
    with pytest.raises(WrongAnswerError):
        streamed_text(body, ask)


def test_chunks_are_joined() -> None:
    assert _joined(b"3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n") == b"abc0123456789"


def test_faults_are_found() -> None:
    flat = Watched(resident=[100 << 20] * 20)
    good = Tally(whole=3)
    assert faults(good, flat, BLOCKS, 10) == []
    assert faults(good, flat, {**BLOCKS, "held": 1, "free": 6}, 10)
    assert faults(good, flat, BLOCKS, 11)
    assert faults(good, Watched(resident=[(100 + 10 * second) << 20 for second in range(20)]), BLOCKS, 10)
    assert faults(Tally(whole=3, lost=1), flat, BLOCKS, 10)
    assert faults(Tally(whole=3, wrong=1), flat, BLOCKS, 10)
    assert faults(Tally(), flat, BLOCKS, 10)


def test_quantiles_and_growth() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile(list(range(100)), 0.99) == 99
    assert growth_bytes([1, 2]) is None
    assert growth_bytes([0, 0, 5, 5, 9, 9, 8, 8]) == 3


def test_a_hard_limit_that_is_too_low_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.resource, "getrlimit", lambda _which: (256, 1024))
    with pytest.raises(TooFewDescriptorsError, match="the hard limit is 1024"):
        allow_descriptors(2000)


def test_some_seconds_of_load_hold(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "bench.load",
        "--connections",
        "40",
        "--ramp-seconds",
        "0.5",
        "--slow-share",
        "0.3",
    ]
    command += [
        "--mock-seconds",
        "3",
        "--model-seconds",
        "0",
        "--mock-step-time",
        "0.01",
        "--answer-tokens",
        "8",
        "16",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    (written,) = tmp_path.glob("load-*.json")
    (table,) = tmp_path.glob("load-*.md")
    run = json.loads(written.read_text(encoding="utf-8"))["runs"]["mock"]
    assert run["whole"] > 40
    assert run["cut"] > 0
    assert (run["lost"], run["wrong"], run["refused"], run["faults"]) == (0, 0, {}, [])
    assert run["most_open_connections"] > 30
    assert run["blocks_afterwards"]["held"] == run["blocks_afterwards"]["limbo"] == 0
    assert "| lost / wrong / refused | 0 / 0 / 0 |" in table.read_text(encoding="utf-8")
