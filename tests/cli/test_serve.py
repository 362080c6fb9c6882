"""What `agentlm serve` reads from its flags, before any model is loaded; and what it loads beside the model."""

import click
import pytest

from agentlm.cli.serve import _Adapters
from tests.cli.commands import agentlm
from tests.engine.adapters import write_adapter
from tests.model.small import make_small
from tests.server.live import served


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("", ()),
        ("owner/name", (("owner/name", "owner/name"),)),
        ("one=/a/b, other=/c ,owner/name,", (("one", "/a/b"), ("other", "/c"), ("owner/name", "owner/name"))),
        ("one=/a=b", (("one", "/a=b"),)),
    ],
)
def test_adapters_are_listed_as_tgi_does(given, read):
    assert _Adapters().convert(given, None, None) == read


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("=/a", "'=/a' is not an adapter such as"),
        ("one=", "'one=' is not an adapter such as"),
        ("one=/a,one=/b", "'one' names two adapters"),
    ],
)
def test_a_list_of_adapters_that_makes_no_sense_is_refused(given, told):
    with pytest.raises(click.BadParameter, match=told):
        _Adapters().convert(given, None, None)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--otlp-endpoint", "https://collector:4318"], "error: `otlp_endpoint` must be http://HOST:PORT"),
        (["--lora-adapters", "one=/nowhere/at/all"], "error: There is no directory /nowhere/at/all"),
        (
            ["--lora-adapters", "tgi=/somewhere"],
            "error: an adapter's name must be neither empty nor the model's own",
        ),
    ],
)
def test_what_cannot_be_had_ends_the_start_with_the_reason(tmp_path, arguments, told):
    model = make_small(tmp_path)
    ran = agentlm("serve", "--model", model, "--backend", "mock", "--port", "0", *arguments)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith(told), ran.stderr


def test_adapters_of_the_start_are_there_when_the_port_opens(tmp_path):
    model = make_small(tmp_path / "model")
    write_adapter(model, tmp_path / "one", 1)
    write_adapter(model, tmp_path / "two", 2)
    adapters = f"poet={tmp_path / 'one'},{tmp_path / 'two'}"
    with served("--model", model, "--backend", "cpu", "--lora-adapters", adapters) as live:
        models = [entry["id"] for entry in live.call("GET", "/v1/models")[1]["data"]]
        assert models == [str(model), "poet", str(tmp_path / "two")]
        texts = {
            live.generate("The quick brown fox", max_new_tokens=12, ignore_eos=True, **chosen)[1][
                "generated_text"
            ]
            for chosen in ({}, {"adapter_id": "poet"}, {"adapter_id": str(tmp_path / "two")})
        }
        assert len(texts) == 3, "each adapter makes a difference"
