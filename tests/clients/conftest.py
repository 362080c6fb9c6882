"""Live servers for other people's clients, and a way to run a client's script in an environment of its own."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients import environments
from tests.clients.told import Told
from tests.model.small import make_small
from tests.server.live import served

SCRIPTS = Path(__file__).parent / "scripts"
KEY = "sesame"
SECONDS = 180


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="session")
def live(small_model):
    """A server whose model really computes."""
    with served("--model", small_model, "--threads", "1", "--max-total-tokens", "512") as server:
        yield server


@pytest.fixture(scope="session")
def guarded(small_model):
    """A server that wants a key and has one place."""
    arguments = (
        "--backend",
        "mock",
        "--mock-step-time",
        "0.02",
        "--api-key",
        KEY,
        "--max-concurrent-requests",
        "1",
    )
    with served("--model", small_model, *arguments) as server:
        yield server


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory) -> Callable[..., Told]:
    """Runs a client's script: what came of each of its cases."""

    def run(client: str, script: str, *arguments: object, cwd: Path | None = None) -> Told:
        python = environments.python(client)
        if python is None:
            pytest.skip(f"the client {client} is not installed: `make clients` fetches it")
        command = [python, "-W", "ignore", SCRIPTS / script, *map(str, arguments)]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path_factory.mktemp("home")),
            "NO_PROXY": "127.0.0.1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if client == "lm-eval":
            environment |= {
                "HF_HUB_OFFLINE": "1",
                "HF_DATASETS_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
            }
        ran = subprocess.run(
            command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=SECONDS
        )
        assert ran.returncode == 0, ran.stderr[-4000:]
        return json.loads(ran.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def talk(outcomes, live, guarded) -> Callable[[str, str], Told]:
    """The same for the scripts that take a server, a guarded one and its key."""

    def run(client: str, script: str) -> Told:
        # The client before may still hold the one place.
        guarded.wait_idle()
        return outcomes(
            client, script, *(f"http://127.0.0.1:{server.port}" for server in (live, guarded)), KEY
        )

    return run
