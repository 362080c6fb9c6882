"""The commands that the pages show for a server do what the pages say."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.model.small import make_small
from tests.server.live import SECONDS, Live, free_port, served

ROOT = Path(__file__).parents[2]


def shown(page: str) -> list[str]:
    """The indented commands of a page; one that goes on in the next line is one."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("cache"))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_each_curl_is_answered(page):
    commands = [command for command in shown(page) if command.startswith("curl localhost:30070/")]
    assert commands
    with served("--threads", "1") as live:
        for command in commands:
            given = shlex.split(command.replace("localhost:30070", f"127.0.0.1:{live.port}"))
            ran = subprocess.run([*given, "--silent"], capture_output=True, text=True, timeout=SECONDS)
            assert ran.returncode == 0, ran.stderr
            answer = json.loads(ran.stdout)
            assert "error" not in answer, answer
            assert "generated_text" in answer or answer["choices"]
            if "Hello!" in command:
                assert "Hello!" in answer["generated_text"]


def test_the_server_for_people_from_tgi_starts(model):
    [command] = [command for command in shown("docs/from-tgi.md") if command.startswith("agentlm serve")]
    port = free_port()
    given = command.partition("#")[0].replace("8080", str(port)).replace("MODEL", str(model))
    live = Live(*shlex.split(given)[2:], "--backend", "mock")
    try:
        assert live.wait_ready().port == port
        assert live.call("GET", "/health")[0] == 200
    finally:
        live.stop()
