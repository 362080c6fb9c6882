"""The commands `agentlm` offers: help, bench, doctor, and what they say when something is wrong."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from agentlm import LLM, __version__
from agentlm.cli import bench, cli, doctor, generate
from tests.cli.commands import agentlm
from tests.model import families
from tests.model.safetensors_files import read_tensors, write_safetensors
from tests.model.small import make_small

COMMANDS = ("bench", "chat", "doctor", "generate", "serve")
UNSET = {"HF_HUB_OFFLINE": None, "DTYPE": None}
"""The environment without what would answer for the options of these names."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def mock(model):
    return ("--model", model, "--backend", "mock", "--mock-step-time", "0.001")


def test_help_lists_every_command_and_loads_nothing_heavy():
    code = (
        "import sys; from agentlm.cli import main\n"
        "sys.argv = ['agentlm', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ('torch', 'numpy', 'transformers', 'agentlm._engine', 'huggingface_hub', 'agentlm.llm')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    *listing, loaded = ran.stdout.splitlines()
    assert loaded == "[]"
    named = {line.split()[0] for line in listing if line.startswith("  ") and line.strip()}
    assert set(COMMANDS) <= named


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command):
    ran = agentlm(command, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"Usage: agentlm {command} [OPTIONS]")
    assert "--model" in ran.stdout


def test_the_version_is_the_packages():
    assert agentlm("--version").stdout == f"agentlm, version {__version__}\n"


def test_ctrl_c_while_the_command_line_is_loaded_leaves_no_traceback(tmp_path):
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    ran = agentlm("--help", env={"PYTHONPATH": path})
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


def test_an_unknown_command_is_refused():
    ran = agentlm("dance")
    assert ran.returncode == 2
    assert "No such command 'dance'" in ran.stderr


def test_a_command_that_cannot_be_loaded_says_so_only_when_called(tmp_path):
    packaged = tmp_path / "other-1.0.dist-info"
    packaged.mkdir()
    (packaged / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (packaged / "entry_points.txt").write_text("[agentlm.commands]\nfly = missing_wings:command\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    env = {"PYTHONPATH": path}
    listing = agentlm("--help", env=env)
    assert listing.returncode == 0
    assert "fly" in listing.stdout
    ran = agentlm("fly", env=env)
    assert ran.returncode == 1
    assert "missing_wings" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


# bench and doctor


def test_bench_measures_each_batch(mock):
    ran = agentlm("bench", "--batch", 1, "--batch", 3, "--repeat", 1, "--new-tokens", 4, "--json", *mock)
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [row["batch"] for row in rows] == [1, 3]
    assert all(value > 0 for row in rows for value in row.values())
    table = agentlm("bench", "--batch", 2, "--repeat", 1, "--new-tokens", 4, *mock)
    assert table.returncode == 0
    assert len(table.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("given", "lengths"),
    [
        ((), (86, 42)),
        (("--prompt-tokens", "100"), (100, 28)),
        (("--new-tokens", "100"), (28, 100)),
        (("--prompt-tokens", "64", "--new-tokens", "64"), (64, 64)),
    ],
)
def test_bench_gives_way_to_a_short_context(mock, given, lengths):
    ran = agentlm("bench", "--batch", 1, "--repeat", 1, "--json", *given, "--max-total-tokens", 128, *mock)
    assert ran.returncode == 0, ran.stderr
    row = json.loads(ran.stdout)
    assert (row["prompt_tokens"], row["new_tokens"]) == lengths
    told = f"note: requests have at most 128 tokens: {lengths[0]} of the prompt, {lengths[1]} new ones\n"
    assert ran.stderr == (told if len(given) < 4 else "")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--prompt-tokens", "127"), "127 and 2"),
        (("--new-tokens", "128"), "1 and 128"),
        (("--prompt-tokens", "100", "--new-tokens", "64"), "100 and 64"),
    ],
)
def test_bench_names_its_flags_where_lengths_do_not_fit(mock, given, told):
    ran = agentlm("bench", *given, "--max-total-tokens", 128, *mock)
    assert ran.returncode == 2
    assert "--prompt-tokens and --new-tokens must together be at most 128" in ran.stderr.splitlines()[-1]
    assert ran.stderr.splitlines()[-1].endswith(told)


class Watched:
    """An `LLM` that notes how many tokens of each prompt the prefix cache held."""

    def __init__(self, llm):
        self.llm = llm
        self.cached = []

    def generate(self, *arguments, **options):
        completions = self.llm.generate(*arguments, **options)
        self.cached += [completion.usage.cached_tokens for completion in completions]
        return completions


def test_bench_computes_every_prompt(model):
    numbers = itertools.count()
    with LLM(model, backend="mock", mock_step_time=0.001, progress=False) as llm:
        watched = Watched(llm)
        for batch in (1, 4, 4, 16):
            bench._run(watched, batch, 64, 2, numbers)
    assert watched.cached == [0] * 25
    assert len({tuple(bench._prompt(number, 16)) for number in range(2000)}) == 2000


def test_doctor_says_what_is_there(model):
    ran = agentlm("doctor", "--json", "--model", model)
    facts = json.loads(ran.stdout)
    assert facts["problems"] == []
    assert ran.returncode == 0
    assert facts["agentlm"] == __version__
    assert "portable" in facts["instruction sets"]
    assert "needed" in facts["fits"]
    words = agentlm("doctor").stdout
    assert "nothing is missing" in words


def test_doctor_exits_with_1_when_a_model_cannot_be_served(tmp_path):
    ran = agentlm("doctor", "--json", "--model", tmp_path)
    assert ran.returncode == 1
    [problem] = json.loads(ran.stdout)["problems"]
    assert str(tmp_path) in problem


def test_doctor_checks_a_checkpoint_as_serving_does(tmp_path):
    directory = families.write(tmp_path, "llama2", seed=0)
    tensors = read_tensors(directory / "model.safetensors")
    del tensors["model.norm.weight"]
    write_safetensors(directory / "model.safetensors", tensors)
    ran = agentlm("doctor", "--json", "--model", directory)
    assert ran.returncode == 1
    [problem] = json.loads(ran.stdout)["problems"]
    assert "lacks tensor 'model.norm.weight'" in problem


def without_tokenizer(directory):
    (directory / "tokenizer.json").unlink()


def with_half_a_tokenizer(directory):
    file = directory / "tokenizer.json"
    file.write_text(file.read_text()[:1000])


def with_a_tokenizer_of_garbage(directory):
    without_tokenizer(directory)
    (directory / "tokenizer.model").write_bytes(b"garbage" * 50)


def ended_by(token):
    def change(directory):
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": token}))

    return change


def ended_by_its_tokenizer(directory):
    """Neither configuration names an end, and the tokenizer's is no row of the embedding table."""
    (directory / "generation_config.json").unlink()
    file = directory / "config.json"
    config = json.loads(file.read_text()) | {"eos_token_id": None, "vocab_size": 200}
    file.write_text(json.dumps(config))


def stretched_by(**scaling):
    def change(directory):
        file = directory / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"rope_scaling": scaling}))

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_tokenizer, "holds neither tokenizer.json nor tokenizer.model"),
        (with_half_a_tokenizer, "tokenizer.json cannot be understood"),
        (with_a_tokenizer_of_garbage, "tokenizer.model cannot be converted"),
        (ended_by(10**12), "eos_token_id = 1000000000000; ids from 0 to 511"),
        (ended_by_its_tokenizer, "ends a sequence with id 257; ids from 0 to 199"),
        (
            stretched_by(rope_type="llama3", factor=8, low_freq_factor=0, high_freq_factor=4),
            "low_freq_factor = 0; a number above 0",
        ),
    ],
    ids=["no tokenizer", "half a tokenizer", "garbage", "end", "tokenizer's end", "rotary embedding"],
)
def test_doctor_tells_what_serving_refuses(model, tmp_path, monkeypatch, change, told):
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = tmp_path / "model"
    shutil.copytree(model, directory)
    change(directory)
    [problem] = json.loads(agentlm("doctor", "--json", "--model", directory).stdout)["problems"]
    assert told in problem
    served = agentlm("serve", "--model", directory, "--backend", "cpu", "--threads", 1, "--port", 0)
    assert served.stderr == f"error: {problem}\n"


@pytest.mark.parametrize("name", ["revision", "cache_dir", "token", "offline", "dtype"])
def test_doctor_takes_a_models_options_as_the_other_commands_do(name):
    [mine] = [option for option in doctor.command.params if option.name == name]
    [theirs] = [option for option in generate.command.params if option.name == name]
    for what in ("opts", "envvar", "help", "default", "is_flag"):
        assert getattr(mine, what) == getattr(theirs, what)


@pytest.fixture
def on_the_hub(model, monkeypatch):
    """The small model's configuration under a hub name; asking for its weights fails."""

    def describe(name, directory, revision, token):
        assert (name, revision, token) == ("me/real", "v2", "secret")
        (directory / "config.json").write_bytes((model / "config.json").read_bytes())
        return {"model.embed_tokens.weight": ("F32", (512, 128)), "model.norm.weight": ("F32", (128,))}

    monkeypatch.setattr("agentlm.model.hub.cached", lambda *_: None)
    monkeypatch.setattr("agentlm.model.hub.describe", describe)
    monkeypatch.setattr("agentlm.model.hub.resolve", lambda *_, **__: pytest.fail("downloads the model"))
    return ("--json", "--model", "me/real", "--revision", "v2", "--token", "secret")


def test_doctor_judges_a_model_that_is_not_here_without_its_weights(on_the_hub):
    ran = CliRunner(env=UNSET).invoke(doctor.command, on_the_hub)
    facts = json.loads(ran.stdout)
    assert (ran.exit_code, facts["problems"]) == (0, [])
    assert "MiB in float16 or " in facts["fits"]
    assert "MiB in float32 needed" in facts["fits"]
    assert "weights to fetch" in facts
    ran = CliRunner(env=UNSET).invoke(doctor.command, [*on_the_hub, "--dtype", "bfloat16"])
    assert "float" not in json.loads(ran.stdout)["fits"].replace("bfloat16", "")


def test_doctor_says_when_the_memory_lacks(on_the_hub, monkeypatch):
    monkeypatch.setattr("agentlm.runtime.memory.available", lambda: 1 << 20)
    ran = CliRunner(env=UNSET).invoke(doctor.command, on_the_hub)
    [problem] = json.loads(ran.stdout)["problems"]
    assert ran.exit_code == 1
    assert problem.startswith("me/real needs about ")
    assert problem.endswith("1.0 MiB are free")


def test_doctor_keeps_off_the_network_where_told(tmp_path):
    ran = agentlm("doctor", "--json", "--offline", "--model", "me/real", "--huggingface-hub-cache", tmp_path)
    assert ran.returncode == 1
    [problem] = json.loads(ran.stdout)["problems"]
    assert "local cache" in problem


# what goes wrong is one clear line


def test_a_model_directory_that_is_not_there(tmp_path):
    ran = agentlm("generate", "x", "--model", tmp_path / "nowhere")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: There is no directory {tmp_path / 'nowhere'}")
    assert len(ran.stderr.splitlines()) == 1


def test_a_directory_of_another_format(tmp_path):
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    ran = agentlm("generate", "x", "--model", tmp_path)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "GGUF" in ran.stderr
    assert "safetensors" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--dtype", "int3"), "int3"),
        (("--kv-cache-memory", "lots"), "lots"),
        (("--threads", "0"), "--threads"),
        (("--step-timeout", "0"), "--step-timeout"),
        (("--mock-step-time", "nan"), "nan is not in the range 0<=x<1000000000"),
    ],
)
def test_an_option_out_of_range_is_a_usage_error(mock, arguments, named):
    ran = agentlm("generate", "x", *mock, *arguments)
    assert ran.returncode == 2
    assert named in ran.stderr.splitlines()[-1]


ENDLESS = "99999999999999999999"


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        *[("serve", option, ENDLESS) for option in (
            "--max-concurrent-requests", "--max-client-batch-size", "--payload-limit", "--max-best-of",
            "--max-stop-sequences", "--max-top-n-tokens", "--max-input-tokens", "--threads",
        )],
        ("serve", "--http-workers", "100000"),
        ("serve", "--validation-workers", "257"),
        *[("serve", option, value) for value in ("nan", "1e300") for option in (
            "--graceful-termination-timeout", "--read-timeout", "--write-timeout", "--step-timeout",
            "--watermark-gamma", "--watermark-delta", "--mock-step-time",
        )],
        *[("data contamination", option, "nan") for option in ("--ignore-shared", "--fail-above")],
        *[("data contamination", option, ENDLESS) for option in (
            "--ngram", "--skip-budget", "--threads", "--overlaps",
        )],
        *[("bench", option, ENDLESS) for option in ("--prompt-tokens", "--new-tokens", "--batch", "--repeat")],
    ],
)  # fmt: skip
def test_a_number_beyond_every_use_is_refused_with_its_range(name, option, value):
    given = ("--against", __file__, __file__) if name.startswith("data") else ()
    ran = CliRunner().invoke(cli, [*name.split(), *given, option, value])
    assert ran.exit_code == 2
    assert f"Invalid value for '{option}'" in ran.output
    assert "is not in the range" in ran.output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--temperature", "-1"), "`--temperature`"),
        (("--max-total-tokens", "1"), "`max_total_tokens`"),
        (("--max-new-tokens", "100000"), "max-new-tokens"),
    ],
)
def test_a_value_out_of_range_is_one_line(mock, arguments, named):
    ran = agentlm("generate", "x", *mock, *arguments)
    assert ran.returncode == 1
    assert named in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_full_disk_is_one_line(mock):
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        ran = agentlm("generate", "x", "--max-new-tokens", 2, *mock, stdout=full)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[0].startswith("error: ")
    assert "Traceback" not in ran.stderr
