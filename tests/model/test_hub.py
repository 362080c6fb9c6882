"""Resolving a model's name, against a hub of our own on this machine."""

import hashlib
import json
import re
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from agentlm.errors import (
    AgentLMError,
    CorruptFileError,
    GatedModelError,
    HubError,
    HubUnreachableError,
    ModelNotFoundError,
    TokenizerError,
    WeightsNotFoundError,
)
from agentlm.model import hub

SHA = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": b"weights",
    "chat_template.jinja": b"template",
    "tokenizer.model": b"pieces",
    "pytorch_model.bin": b"pickle",
    "README.md": b"words",
    "consolidated.safetensors": b"weights again",
    "original/model.safetensors": b"and again",
}

HEADER = json.dumps(
    {
        "__metadata__": {"format": "pt"},
        "model.embed_tokens.weight": {"dtype": "BF16", "shape": [1024, 512], "data_offsets": [0, 1 << 20]},
        "model.norm.weight": {"dtype": "F32", "shape": [512], "data_offsets": [1 << 20, (1 << 20) + 2048]},
    }
).encode()
REAL = {
    "config.json": b'{"b": 2}',
    "generation_config.json": b'{"c": 3}',
    "tokenizer.json": b"{}",
    "model.safetensors": struct.pack("<Q", len(HEADER)) + HEADER + bytes((1 << 20) + 2048),
    "consolidated.safetensors": b"weights again",
}
SENT: Counter[tuple[str, str]] = Counter()
"""Bytes of each model's files that went out."""


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that a snapshot needs.

    Models: me/good, me/real (its weights have a header), me/bin (no safetensors), me/mute (no tokenizer), me/gated.
    """

    token = "Bearer letmein"

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        found = re.match(r"^/(?:api/models/)?(me/\w+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.+))?)?$", path)
        if found is None or found[1] == "me/missing":
            return self.reply(404, X_Error_Code="RepoNotFound")
        model, kind, revision, file = found.groups()
        if model == "me/down":
            return self.reply(503)
        if model == "me/private" and self.headers.get("Authorization") != self.token:
            return self.reply(401, X_Error_Code="RepoNotFound")
        if model == "me/forbidden":
            return self.reply(403)
        files = {n: b for n, b in FILES.items() if model != "me/bin" or not n.endswith(".safetensors")}
        if model == "me/real":
            files = REAL
        if model == "me/mute":
            files = {n: b for n, b in FILES.items() if n != "tokenizer.model"}
        if revision not in (None, "main", SHA):
            return self.reply(404, X_Error_Code="RevisionNotFound")
        if kind in (None, "revision"):
            body = {"id": model, "sha": SHA, "siblings": [{"rfilename": name} for name in files]}
            return self.reply(200, json.dumps(body).encode(), Content_Type="application/json")
        if kind == "tree":
            entries = [
                {"type": "file", "path": name, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                for name, b in files.items()
            ]
            return self.reply(200, json.dumps(entries).encode(), Content_Type="application/json")
        if model == "me/gated" and self.headers.get("Authorization") != self.token:
            return self.reply(403, X_Error_Code="GatedRepo")
        data = files[file]
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part is not None and model == "me/real":
            data = data[int(part[1]) : int(part[2]) + 1]
        if self.command == "GET":
            SENT[model, file] += len(data)
        return self.reply(200, data, ETag=etag, X_Repo_Commit=SHA, Accept_Ranges="bytes")

    do_HEAD = do_GET  # noqa: N815 - http.server's name


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_local_directory_is_itself(tmp_path: Path) -> None:
    assert hub.resolve(str(tmp_path)) == tmp_path


def test_the_files_that_are_read_are_fetched_and_no_others(tmp_path: Path, endpoint: str) -> None:
    directory = hub.resolve("me/good", cache_dir=tmp_path, endpoint=endpoint)
    fetched = {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    names = {"config.json", "model.safetensors", "chat_template.jinja", "tokenizer.model"}
    assert fetched == {name: FILES[name] for name in names}


def test_a_fetched_model_is_there_offline(tmp_path: Path, endpoint: str) -> None:
    directory = hub.resolve("me/good", cache_dir=tmp_path, endpoint=endpoint, progress=False)
    assert hub.resolve("me/good", cache_dir=tmp_path, offline=True) == directory


def test_a_model_that_was_not_fetched_is_not_there_offline(tmp_path: Path) -> None:
    with pytest.raises(HubUnreachableError, match=r"me/good is not.*HF_HUB_OFFLINE.*local directory"):
        hub.resolve("me/good", cache_dir=tmp_path, offline=True)


def test_a_gated_model_says_how_to_get_a_token_and_opens_with_one(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(GatedModelError, match=r"gated.*Accept the conditions.*hf auth login.*HF_TOKEN"):
        hub.resolve("me/gated", cache_dir=tmp_path, endpoint=endpoint)
    assert hub.resolve("me/gated", token="letmein", cache_dir=tmp_path, endpoint=endpoint).is_dir()


@pytest.mark.parametrize("model", ["me/missing", "me/private"])
def test_an_unknown_or_private_model_is_not_found(tmp_path: Path, endpoint: str, model: str) -> None:
    with pytest.raises(ModelNotFoundError, match=rf"'{model}' here.*spelling.*HF_TOKEN"):
        hub.resolve(model, cache_dir=tmp_path, endpoint=endpoint)


def test_an_unknown_revision_is_named(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no revision 'v9'"):
        hub.resolve("me/good", revision="v9", cache_dir=tmp_path, endpoint=endpoint)


def test_a_model_without_safetensors_says_how_to_convert(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"me/bin holds no safetensors.*save_pretrained") as caught:
        hub.resolve("me/bin", cache_dir=tmp_path, endpoint=endpoint)
    assert "dtype='auto'" in str(caught.value)
    assert "AutoTokenizer.from_pretrained('me/bin').save_pretrained('converted')" in str(caught.value)


def test_a_model_is_described_without_its_weights(tmp_path: Path, endpoint: str) -> None:
    tensors = hub.describe("me/real", tmp_path, endpoint=endpoint)
    assert tensors == {
        "model.embed_tokens.weight": ("BF16", (1024, 512)),
        "model.norm.weight": ("F32", (512,)),
    }
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == REAL[name]
    assert SENT["me/real", "tokenizer.json"] == 0
    assert 0 < SENT["me/real", "model.safetensors"] < 1 << 18


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("me/missing", ModelNotFoundError, "spelling"),
        ("me/gated", GatedModelError, "Accept the conditions"),
        ("me/bin", WeightsNotFoundError, "holds no safetensors"),
        ("me/down", HubUnreachableError, "could not be fetched"),
        ("me/mute", TokenizerError, "The model me/mute holds neither tokenizer.json nor tokenizer.model"),
        ("me/good", CorruptFileError, "me/good: model.safetensors is not"),
    ],
)
def test_what_cannot_be_described_is_told_as_by_a_download(
    tmp_path: Path, endpoint: str, model: str, error: type[AgentLMError], message: str
) -> None:
    with pytest.raises(error, match=message):
        hub.describe(model, tmp_path, endpoint=endpoint)


def test_only_what_needs_no_download_is_cached(tmp_path: Path, endpoint: str) -> None:
    assert hub.cached("me/good", cache_dir=tmp_path) is None
    directory = hub.resolve("me/good", cache_dir=tmp_path, endpoint=endpoint)
    assert hub.cached("me/good", cache_dir=tmp_path) == directory
    assert hub.cached(str(tmp_path)) == tmp_path
    with pytest.raises(ModelNotFoundError, match="no directory"):
        hub.cached(str(tmp_path / "nowhere"))


def test_a_refusal_without_a_reason_still_says_how_to_get_a_token(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(GatedModelError, match=r"me/forbidden is refused.*403.*HF_TOKEN"):
        hub.resolve("me/forbidden", cache_dir=tmp_path, endpoint=endpoint)


def test_a_hub_that_is_down_is_unreachable(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(HubUnreachableError, match=r"me/down could not be fetched"):
        hub.resolve("me/down", cache_dir=tmp_path, endpoint=endpoint)


def test_no_network_names_the_ways_around(tmp_path: Path) -> None:
    # Port 9 (discard) of this machine: nobody listens.
    with pytest.raises(HubUnreachableError, match=r"did not answer.*local directory.*HF_HUB_OFFLINE=1"):
        hub.resolve("me/good", cache_dir=tmp_path, endpoint="http://127.0.0.1:9")


def test_a_failing_hub_is_unreachable(tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(HubUnreachableError, match=r"reset by peer.*resumed"):
        hub.resolve("me/good", cache_dir=tmp_path, endpoint=endpoint)


def test_a_full_disk_is_not_blamed_on_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(HubError, match=r"No space left.*Free some space") as caught:
        hub.resolve("me/good", cache_dir=tmp_path)
    assert type(caught.value) is HubError


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bars_are_left_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progress: bool
) -> None:
    seen: list[bool] = []
    (tmp_path / "model.safetensors").touch()

    def snapshot(*_: object, **__: object) -> str:
        seen.append(are_progress_bars_disabled())
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    before = are_progress_bars_disabled()
    hub.resolve("me/good", progress=progress)
    assert seen == [not progress]
    assert are_progress_bars_disabled() == before


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/no/such/directory", "no directory /no/such/directory"),
        ("./here", "no directory ./here"),
        ("a/b/c", "no directory a/b/c"),
        ("spaces are wrong", "neither a directory here nor a hub name"),
        ("x" * 5000, r"'xxx\S+… cannot be looked at \(OSError.*too long"),
        ("null\0byte", "'null.*byte' (cannot be looked at|is neither a directory)"),
        ("~nobody-of-this-name/model", r"cannot be looked at \(RuntimeError"),
    ],
)
def test_what_can_only_be_a_path_is_not_looked_up(model: str, message: str) -> None:
    with pytest.raises(ModelNotFoundError, match=message):
        hub.resolve(model)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelNotFoundError, match="is a file"):
        hub.resolve(str(file))
