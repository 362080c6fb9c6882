"""`agentlm tune`: its first word, its flags, what it says and how it ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentlm.cli.tune import command
from agentlm.tuning.config import TuneConfig
from agentlm.tuning.log import events
from tests.tuning.runs import config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "run.toml"
    written.write_text(config(tmp_path, training__steps=2).to_toml(), encoding="utf-8")
    return written


def tune(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_help_names_the_commands_and_loads_nothing_heavy():
    code = (
        "import sys; from agentlm.cli import main\n"
        "sys.argv = ['agentlm', 'tune', {words}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'agentlm._engine') if m in sys.modules])"
    )
    for words, told in (
        ("'--help'", ("train", "merge")),
        ("'train', '--help'", ("--resume", "--print-config")),
    ):
        ran = subprocess.run(
            [sys.executable, "-c", code.format(words=words)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert ran.stdout.splitlines()[-1] == "[]"
        assert all(word in ran.stdout for word in told)


def test_the_first_word_is_a_command_or_a_configuration(file, tmp_path, monkeypatch):
    as_configuration = tune(file, "--print-config")
    assert as_configuration.exit_code == 0
    assert tune("train", file, "--print-config").output == as_configuration.output
    # Flags may come first.
    assert tune("--print-config", file).output == as_configuration.output
    # A file that is called like a command is named with its directory.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "merge").write_bytes(file.read_bytes())
    assert tune("./merge", "--print-config").output == as_configuration.output
    refused = tune("merge", "--print-config")
    assert refused.exit_code == 2
    assert "No such option" in refused.output


def test_flags_change_the_configuration(file):
    printed = tune(
        file, "--epochs", 1.5, "--eta", 0.3, "--seed", 7, "--learning-rate", "2e-4", "--deterministic", "--set",
        "training.clip=false", "--chat-template", "own.jinja", "--set", "data.over_length=split",
        "--set", "checkpoints.every=3", "--print-config",
    )  # fmt: skip
    assert printed.exit_code == 0, printed.output
    changed = file.with_name("changed.toml")
    changed.write_text(printed.output, encoding="utf-8")
    read = TuneConfig.load(changed)
    assert (read.training.steps, read.training.epochs, read.training.clip) == (None, 1.5, None)
    told = "# Not set: model.revision, training.steps, lora, dpo, evaluation.every, evaluation.tasks_every"
    assert printed.output.splitlines()[-1] == told
    assert (read.data.eta, read.seed, read.training.learning_rate) == (0.3, 7, 2e-4)
    assert read.model.chat_template == "own.jinja"
    assert (read.training.deterministic, read.data.over_length, read.checkpoints.every) == (True, "split", 3)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--set", "training.clip"), "is not of the form KEY=VALUE"),
        (("--set", "training.clips=1"), "unknown keys in [training]: clips"),
        (("--eta", "2"), "`data.eta` must be a number from 0 to 1"),
        (("--steps", "2", "--epochs", "1"), "either `training.steps` or `training.epochs`"),
        (("--epochs", "1", "--estimate"), "an estimate needs `training.steps`"),
        (("--model", "./nowhere", "--estimate"), "There is no directory ./nowhere"),
    ],
)
def test_what_is_wrong_is_told(file, flags, told):
    refused = tune(file, *flags)
    assert refused.exit_code != 0
    assert told in refused.output + str(refused.exception)


def test_an_estimate_needs_no_weights(file, tmp_path):
    (tmp_path / "base" / "model.safetensors").unlink()
    told = tune(file, "--estimate", "--gpu", "H100")
    assert told.exit_code == 0, told.output
    assert told.output.startswith("Estimated from shapes, not measured.")
    assert "8 × H100" in told.output


@pytest.mark.slow
def test_a_run_is_interrupted_once_and_goes_on(file, tmp_path):
    command_line = [sys.executable, "-m", "agentlm", "tune", str(file), "--steps", "60"]
    process = subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "out" / "log.jsonl"
    until = time.monotonic() + 90
    while not (log.is_file() and log.stat().st_size):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 130
    # With the file that knows the flags.
    assert f"go on with: agentlm tune {tmp_path / 'out' / 'config.toml'} --resume" in told
    assert "conversations, drawn" in told
    assert out == ""
    (saved,) = (tmp_path / "out" / "checkpoints").iterdir()
    assert int(saved.name[5:]) == len([line for line in events(log) if line["event"] == "step"])
    # The same command again is refused, and --resume goes on.
    again = tune(file, "--steps", "60")
    assert again.exit_code == 1
    assert "go on with --resume" in str(again.exception)


def test_a_run_and_a_merge_from_end_to_end(file, tmp_path):
    done = tune(file, "--set", "lora.rank=2", "--set", "lora.alpha=4.0", "--quiet")
    assert done.exit_code == 0, done.output
    adapter = Path(done.stdout.strip())
    assert adapter == tmp_path / "out" / "adapter"
    merged = tune("merge", tmp_path / "base", adapter, tmp_path / "merged")
    assert merged.exit_code == 0, merged.output
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    again = tune("merge", tmp_path / "base", adapter, tmp_path / "merged")
    assert "is there and not empty" in str(again.exception)


def test_preferences_are_a_table_or_a_command(file, tmp_path):
    plain = config(tmp_path)
    sources = [{"name": source.name, "path": source.path} for source in plain.data.sources]
    values = plain.to_dict() | {"data": {"sources": sources}}
    file.write_text(TuneConfig.from_dict(values).to_toml(), encoding="utf-8")
    assert "[dpo]" not in tune(file, "--print-config").output
    printed = tune("dpo", file, "--beta", 0.5, "--print-config").output
    assert "[dpo]\nbeta = 0.5\nmargin = 0.0\n" in printed
    assert "[dpo]\nbeta = 0.1\n" in tune("dpo", file, "--print-config").output
    refused = tune("dpo", file)
    assert "needs two trajectories of one `task` and `item`" in str(refused.exception)
