"""What the compose files ask of the server it takes, and they keep TGI's ports and variables."""

import json
from pathlib import Path

import pytest

from agentlm.cli.serve import command as serve
from tests.docker.linters import COMPOSE, DOCKER, tool

SIZES = {"7b": "30007", "13b": "30013", "70b": "30070"}
ELSEWHERE = {"COMPUTE_TYPE"}
"""Variables that the server reads without an option."""


def resolved(name: str) -> dict:
    """A compose file as Docker Compose understands it."""
    status, text = tool("docker-compose", "--file", DOCKER / name, "config", "--format", "json")
    assert status == 0, text
    return json.loads(text)


@pytest.mark.parametrize(("size", "port"), SIZES.items())
def test_ports_variables_and_device_are_those_of_agenttuning(size, port):
    [server] = resolved(f"agentlm-{size}.yml")["services"].values()
    environment = server["environment"]
    assert environment["MODEL_ID"] == f"THUDM/agentlm-{size}"
    assert {"MAX_INPUT_LENGTH", "MAX_TOTAL_TOKENS", "DTYPE", "NUM_SHARD"} <= environment.keys()
    assert environment["NUM_SHARD"] == "1", "more than one is refused until there is tensor parallelism"
    assert int(environment["MAX_INPUT_LENGTH"]) < int(environment["MAX_TOTAL_TOKENS"])
    assert ("QUANTIZE" in environment) == (size == "70b"), "70 billion weights of 16 bits fit no single GPU"
    [mapping] = server["ports"]
    assert (mapping["target"], mapping["published"]) == (80, port)
    [device] = server["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert [volume["target"] for volume in server["volumes"]] == ["/data"]
    assert server["healthcheck"]["test"] == ["CMD", "python", "/opt/agentlm/healthcheck.py"]


@pytest.mark.parametrize("name", COMPOSE)
def test_the_server_takes_every_variable(name):
    known = set(ELSEWHERE)
    for option in serve.params:
        given = option.envvar or ()
        known.update([given] if isinstance(given, str) else given)
    for service in resolved(name)["services"].values():
        assert service.get("environment", {}).keys() <= known


def test_replicas_have_a_device_each_and_share_a_balancer():
    services = resolved("replicas.yml")["services"]
    balancer = services.pop("balancer")
    devices = [
        device["device_ids"]
        for service in services.values()
        for device in service["deploy"]["resources"]["reservations"]["devices"]
    ]
    assert len(devices) == len({tuple(ids) for ids in devices}) == len(services) == 2
    assert balancer["depends_on"].keys() == services.keys()
    assert {condition["condition"] for condition in balancer["depends_on"].values()} == {"service_healthy"}
    assert not any("ports" in service for service in services.values())
    caddyfile = (DOCKER / "Caddyfile").read_text(encoding="utf-8")
    assert all(f"{name}:80" in caddyfile for name in services)


def test_the_images_are_tgis_in_what_can_be_seen_from_outside():
    stages: dict[str, str] = {}
    for stage in (DOCKER / "Dockerfile").read_text(encoding="utf-8").split("\nFROM ")[1:]:
        name, _, body = stage.partition("\n")
        stages[name.rpartition(" AS ")[2]] = body
    base = stages["base"]
    for said in ("PORT=80", "HUGGINGFACE_HUB_CACHE=/data", "EXPOSE 80", 'ENTRYPOINT ["agentlm", "serve"]'):
        assert said in base
    assert list(stages)[-2:] == ["cpu", "gpu"]
    for name in ("cpu", "gpu"):
        said = [line for line in stages[name].splitlines() if line and not line.startswith("#")]
        assert said[-1] == "USER 1000:1000"
    assert " gcc " in stages["gpu"], "Triton compiles its launchers at run time"


def test_what_the_images_are_built_from_is_there():
    root = Path(DOCKER).parent
    kept = [
        line[1:]
        for line in (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    ]
    assert all((root / name).exists() for name in kept)
    assert {"Cargo.toml", "Cargo.lock", "constraints.txt", "engine", "kernels", "python"} <= set(kept)
