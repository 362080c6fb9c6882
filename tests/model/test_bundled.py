"""The bundled model: what it must be, how it is found, and that a package without it says so."""

import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

from agentlm.errors import ConfigError
from agentlm.model import bundled, hub
from agentlm.model.config import ModelConfig
from agentlm.model.layout import tensor_shapes
from agentlm.model.weights import Checkpoint


def test_its_size_is_what_a_package_may_carry() -> None:
    directory = bundled.directory()
    config = ModelConfig.load(directory)
    shapes = tensor_shapes(config)
    assert config.tied
    assert config.context_length == 4096
    assert config.vocab <= 4096
    assert sum(prod(shape) for shape in shapes.values()) <= 3_900_000
    assert sum(file.stat().st_size for file in directory.iterdir()) <= 8_000_000
    checkpoint = Checkpoint.open(directory)
    checkpoint.check(shapes, lambda _: False)
    assert {checkpoint.tensor(name).dtype for name in shapes} == {"BF16"}
    assert (
        len(json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
        == config.vocab
    )


def test_it_is_found_by_name_and_without_torch() -> None:
    program = (
        "import sys\n"
        "from agentlm.model import bundled, hub\n"
        "assert hub.resolve(bundled.NAME, offline=True) == bundled.directory()\n"
        "assert not {'torch', 'numpy', 'transformers', 'huggingface_hub'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_directory_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / bundled.NAME).mkdir()
    assert hub.resolve(bundled.NAME) == Path(bundled.NAME)


def test_a_package_without_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "FILES", (*bundled.FILES, "absent.json"))
    with pytest.raises(ConfigError, match=r"lacks absent\.json: install agentlm again"):
        bundled.directory()
