"""The container and its shell, where a Docker daemon and an image with Python are: $AGENTLM_TEST_IMAGE names one."""

import asyncio
import os
import subprocess
import time

import pytest

from agentlm_evals.errors import RequirementError
from agentlm_evals.harness.doctor import examine
from agentlm_evals.protocols import AGENTLM, Protocol
from agentlm_evals.sandbox import docker
from agentlm_evals.sandbox.docker import Container, ContainerShell
from agentlm_evals.sandbox.limits import Limits
from agentlm_evals.task import Setting, Source, resolve_options
from agentlm_evals.tasks.os import TASK


@pytest.fixture(scope="module")
def image() -> str:
    name = os.environ.get("AGENTLM_TEST_IMAGE")
    if why := docker.why_not():
        pytest.skip(f"no Docker: {why}")
    if not name:
        pytest.skip("AGENTLM_TEST_IMAGE is not set: it names a Docker image with bash and Python")
    return name


@pytest.fixture
def container(image):
    opened = Container(image, Limits())
    yield opened
    opened.close()


def containers(name: str) -> str:
    command = ["docker", "ps", "-q", "--filter", f"name={name}"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def test_programs_run_and_time_is_up_when_it_is(container):
    done = container.run(["bash", "-c", 'echo "$1"; echo err >&2; exit 3', "--", "a b"], timeout=20)
    assert (done.status, done.text) == (3, "a b\nerr\n")
    stopped = container.run(["sleep", "60"], timeout=1)
    assert stopped.timed_out
    assert container.run(["echo", "alive"], timeout=20).text == "alive\n"


def test_a_shell_keeps_its_state_and_survives_what_is_stopped(container):
    with ContainerShell(container) as shell:
        shell.run("cd /tmp; X=3", 20)
        assert shell.run("pwd; echo $X; (exit 4)", 20).text == "/tmp\n3\n"
        assert shell.run("(exit 4)", 20).status == 4
        assert not shell.run('echo "unbalanced', 20).timed_out
        assert shell.run("echo begun; sleep 60", 1).timed_out
        assert shell.run("echo $X", 20).text.endswith("3\n")
        assert shell.run("while :; do :; done", 1).exited
        assert shell.run("echo new; exit 3", 20).exited
        assert shell.run("yes", 20).flooded
        assert shell.run("echo alive", 20).text.endswith("alive\n")


def test_a_container_has_no_network_and_ends_with_us(image):
    opened = Container(image, Limits())
    assert opened.run(["cat", "/proc/net/route"], timeout=20).text.count("\n") <= 1
    assert containers(opened.name)
    opened._process.stdin.close()
    deadline = time.monotonic() + 20
    while containers(opened.name) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not containers(opened.name)
    opened.close()


def test_an_image_that_is_not_there_is_a_missing_requirement(image):
    with pytest.raises(RequirementError, match="did not start"):
        Container("agentlm-no-such-image:none", Limits())


def test_the_operating_system_task_runs_in_a_container(image):
    options = resolve_options(TASK, {"sandbox": "docker", "image": image})
    finding = asyncio.run(examine(TASK, Setting(Source(), Protocol(AGENTLM), options), 4))
    assert (finding.solved, finding.wrong, finding.nothing_solved) == (4, [], 0)


def test_docker_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(docker.shutil, "which", lambda _: None)
    options = resolve_options(TASK, {"sandbox": "docker"})
    missing = TASK.requirements(Setting(Source(), Protocol(AGENTLM), options))
    assert [one.what for one in missing] == ["Docker", "a Docker image"]
    assert "docker is not installed" in missing[0].how
