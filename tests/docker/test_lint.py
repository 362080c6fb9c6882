"""The images and the compose files pass their linters, and the linters would not pass everything."""

import pytest

from tests.docker.linters import COMPOSE, DOCKER, tool

SETTINGS = DOCKER / "compose-lint.yml"


def hadolint(text: str) -> tuple[int, str]:
    return tool("hadolint", "--no-color", "--failure-threshold", "ignore", "-", text=text)


@pytest.fixture(scope="module")
def dockerfile():
    return (DOCKER / "Dockerfile").read_text(encoding="utf-8")


def test_the_dockerfile_has_no_findings(dockerfile):
    assert hadolint(dockerfile) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "finding"),
    [
        ("FROM base AS gpu", "FROM debian:latest AS gpu", "DL3007"),
        ("--no-install-recommends ", "", "DL3015"),
        ("WORKDIR /src", "WORKDIR src", "DL3000"),
        ("FROM base AS cpu", "FROM nowhere:1 AS cpu\nRUN cd /tmp && ls", "DL3003"),
        ("EXPOSE 80", "EXPOSE 80000", "DL3011"),
    ],
)
def test_a_fault_in_the_dockerfile_is_found(dockerfile, right, wrong, finding):
    assert right in dockerfile
    status, told = hadolint(dockerfile.replace(right, wrong))
    assert status != 0
    assert finding in told


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_accepts_the_file(name):
    assert tool("docker-compose", "--file", DOCKER / name, "config", "--quiet") == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("    environment:", "    surroundings:"),
        ("restart: unless-stopped", "restart: [always]"),
        ("interval: 10s", "interval: soon"),
        ("  agentlm-cache:\n", "  another-cache:\n"),
    ],
)
def test_a_fault_in_a_compose_file_is_found(tmp_path, right, wrong):
    text = (DOCKER / "agentlm-7b.yml").read_text(encoding="utf-8")
    assert right in text
    file = tmp_path / "compose.yml"
    file.write_text(text.replace(right, wrong), encoding="utf-8")
    assert tool("docker-compose", "--file", file, "config", "--quiet")[0] != 0


@pytest.mark.parametrize("name", COMPOSE)
def test_a_compose_file_is_as_closed_as_it_can_be(name):
    status, told = tool("compose-lint", "--fail-on", "low", "--config", SETTINGS, DOCKER / name)
    assert status == 0, told


@pytest.mark.parametrize(
    ("right", "wrong", "finding"),
    [
        ("${ADDRESS:-127.0.0.1}:30007:80", "30007:80", "CL-0005"),
        ("cap_drop: [ALL]", "privileged: true", "CL-0002"),
        ("${CACHE:-agentlm-cache}:/data", "/var/run/docker.sock:/var/run/docker.sock", "CL-0001"),
    ],
)
def test_a_compose_file_that_is_open_is_told(tmp_path, right, wrong, finding):
    text = (DOCKER / "agentlm-7b.yml").read_text(encoding="utf-8")
    assert right in text
    file = tmp_path / "compose.yml"
    file.write_text(text.replace(right, wrong), encoding="utf-8")
    status, told = tool("compose-lint", "--fail-on", "low", "--config", SETTINGS, file)
    assert status != 0
    assert finding in told
