"""A checkpoint that we serve ourselves: ready, gone afterwards, and clear about what went wrong."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentlm_evals.errors import ModelError
from agentlm_evals.models.child import bundled_directory, serve, weights_digest
from agentlm_evals.models.choice import ModelChoice, served_urls


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_there(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_server_is_gone_after_the_block() -> None:
    # Other tests may have left children of their own.
    before = set(_children(os.getpid()))
    with serve(None, ["--backend", "mock"]) as url:
        assert url.startswith("http://127.0.0.1:")
        (child,) = set(_children(os.getpid())) - before
    assert not _is_there(child)


def test_a_server_does_not_outlive_a_parent_that_was_killed() -> None:
    code = (
        "from agentlm_evals.models.child import serve\n"
        "with serve(None, ['--backend', 'mock']) as url: print(url, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith("http")
        (child,) = _children(parent.pid)
        parent.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while _is_there(child):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_model_that_is_not_there_is_said_in_the_servers_words(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"ended with code 1: .*{tmp_path.name}"), serve(str(tmp_path)):
        pass


def test_the_digest_is_of_what_decides_answers(tmp_path: Path) -> None:
    notes = tmp_path / "notes.json"
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "config.json").write_text("{}")
    first = weights_digest(model, notes)
    assert first == weights_digest(model, notes)
    (model / "README.md").write_text("more words")
    assert first == weights_digest(model, notes)
    (model / "model.safetensors").write_bytes(b"changed")
    os.utime(model / "model.safetensors", ns=(1, 1))
    assert first != weights_digest(model, notes)
    assert weights_digest(tmp_path / "org" / "name", notes) is None
    changed = weights_digest(model, notes)
    (model / "pytorch_model.bin").write_bytes(b"weights of an older form")
    assert changed != weights_digest(model, notes) == weights_digest(model, None)


def test_the_bundled_models_weights_are_known(tmp_path: Path) -> None:
    directory = bundled_directory()
    assert directory is not None
    assert (directory / "config.json").is_file()
    digest = weights_digest(directory, None)
    with served_urls(ModelChoice(serve_arguments=("--backend", "mock"))) as (urls, weights):
        assert (len(urls), weights) == (1, digest)
