"""TGI's launcher flags: each is taken by `agentlm serve`, and what cannot be had is refused with the reason."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agentlm.cli.launcher import FLAGS, judge, launcher_options
from agentlm.cli.serve import command as serve
from agentlm.errors import ConfigError
from tests.cli.commands import agentlm

TGI = """
    model-id revision validation-workers sharded num-shard quantize speculate dtype kv-cache-dtype trust-remote-code
    max-concurrent-requests max-best-of max-stop-sequences max-top-n-tokens max-input-tokens max-input-length
    max-total-tokens waiting-served-ratio max-batch-prefill-tokens max-batch-total-tokens max-waiting-tokens
    max-batch-size cuda-graphs hostname port prometheus-port shard-uds-path master-addr master-port
    huggingface-hub-cache weights-cache-override disable-custom-kernels cuda-memory-fraction rope-scaling rope-factor
    json-output otlp-endpoint otlp-service-name cors-allow-origin api-key watermark-gamma watermark-delta ngrok
    ngrok-authtoken ngrok-edge tokenizer-config-path disable-grammar-support env max-client-batch-size lora-adapters
    usage-stats payload-limit enable-prefill-logprobs graceful-termination-timeout max-image-fetch-size
"""
"""Every flag of its launcher, and the one that only its router has."""
GUIDE = Path(__file__).parents[2] / "docs" / "from-tgi.md"


def names() -> list[str]:
    return [name for parameter in serve.params for name in parameter.opts]


@pytest.mark.parametrize("flag", TGI.split())
def test_each_flag_of_tgi_is_taken_and_explained(flag):
    assert f"--{flag}" in names()
    assert f"`--{flag}`" in GUIDE.read_text(encoding="utf-8")


def test_no_option_is_there_twice():
    assert len(names()) == len(set(names()))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("num-shard", 1, None),
        ("num-shard", 4, "`--num-shard` must be 1. Given: 4. Here "),
        ("sharded", False, None),
        ("sharded", True, "`--sharded` must be false. Given: true. Here "),
        ("rope-factor", 2.0, "`--rope-factor` must be left out. Given: 2.0. Here "),
        ("speculate", 0, None),
        ("speculate", 2, "--speculate has no effect: no token is guessed ahead; answers are the same"),
        ("usage-stats", "off", None),
        ("usage-stats", "on", "--usage-stats has no effect: nothing is reported to anyone"),
        (
            "trust-remote-code",
            True,
            "--trust-remote-code has no effect: no code that comes with a checkpoint",
        ),
    ],
)
def test_what_is_said_about_a_flag(name, value, told):
    flag = next(flag for flag in FLAGS if flag.name == name)
    try:
        said = judge(flag, value)
    except ConfigError as refusal:
        said = str(refusal)
    assert said == told or (told is not None and said is not None and said.startswith(told))


@click.command()
@launcher_options
def nothing() -> None:
    """Takes the flags and does nothing."""


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ([], {}, []),
        ([], {"NUM_SHARD": "1", "SHARDED": "false", "CUDA_GRAPHS": "0", "NUM_SHARDS": "9"}, []),
        ([], {"NUM_SHARD": "", "ENV": "production", "TRUST_REMOTE_CODE": "false"}, []),
        (["--waiting-served-ratio", "0.3"], {}, ["--waiting-served-ratio"]),
        ([], {"MAX_WAITING_TOKENS": "20", "TRUST_REMOTE_CODE": "true"}, ["--max-waiting-tokens", "--trust-remote-code"]),
        (["-e"], {}, ["agentlm"]),
    ],
)  # fmt: skip
def test_flags_and_variables_are_heard(arguments, variables, said):
    ran = CliRunner().invoke(nothing, arguments, env=variables)
    assert ran.exit_code == 0, ran.output
    assert sorted(line.split()[0] for line in ran.stderr.splitlines()) == sorted(said)


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_what_cannot_be_had_ends_the_start_in_one_line(how):
    arguments, env = (["--num-shard", "2"], {}) if how == "flag" else ([], {"NUM_SHARD": "2"})
    ran = agentlm("serve", "--backend", "mock", *arguments, env=env)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(
        "error: `--num-shard` must be 1. Given: 2. Here a server computes on one device"
    )
    assert len(ran.stderr.splitlines()) == 1


def test_tgis_name_of_narrow_keys_and_values_is_ours():
    (option,) = (parameter for parameter in serve.params if "--kv-cache-dtype" in parameter.opts)
    context = click.Context(serve)
    assert option.process_value(context, "fp8_e4m3fn") == option.process_value(context, "fp8") == "fp8"
    with pytest.raises(click.BadParameter, match="fp8_e5m2"):
        option.process_value(context, "fp8_e5m2")
