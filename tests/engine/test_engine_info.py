"""What an opened engine says of its model: whether it is the bundled one, and whether somebody chose it."""

import shutil
from pathlib import Path

import pytest

from agentlm import LLM
from agentlm.errors import ConfigError
from agentlm.model import bundled
from tests.model.small import make_small


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small(tmp_path_factory.mktemp("cache"))


def info(model: str | Path | None) -> tuple[bool, bool]:
    with LLM(model, backend="mock", progress=False) as llm:
        return llm.info.is_bundled, llm.info.is_chosen


def test_the_bundled_model_is_known_by_its_place(model: Path) -> None:
    assert info(None) == (True, False)
    assert info("") == (True, False)
    assert info(bundled.NAME) == (True, True)
    assert info(bundled.directory()) == (True, True)
    assert info(model) == (False, True)


def test_a_directory_of_that_name_is_another_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model, tmp_path / bundled.NAME)
    monkeypatch.chdir(tmp_path)
    assert info(bundled.NAME) == (False, True)
    # Who names none asks for no directory.
    with LLM(backend="mock", progress=False) as llm:
        assert llm.info.directory == bundled.directory()


def test_another_model_needs_no_bundled_one(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "FILES", (*bundled.FILES, "absent.json"))
    assert info(model) == (False, True)
    with pytest.raises(ConfigError, match=r"lacks absent\.json"):
        info(None)
