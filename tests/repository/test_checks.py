"""The tree's own checks find what they are for."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"checks_{name}", ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("MIT/Apache-2.0", True),
        ("GPL-3.0", False),
        ("GPL-3.0 OR MIT", True),
        ("MIT AND GPL-3.0", False),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", True),
        ("(MIT OR GPL-3.0) AND GPL-3.0", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("", False),
    ],
)
def test_licence_expressions(expression: str, expected: bool) -> None:
    assert load("licences").acceptable(expression) is expected


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# One `heading`, two\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#one-heading-two) [c](gone.md) [d](there.md#gone) [e](https://example.org/x)\n"
        "```\n[in code](also-gone.md)\n```\n",
        encoding="utf-8",
    )
    found = load("links").broken(page)
    assert len(found) == 2
    assert "gone.md leads nowhere" in found[0]
    assert "no heading #gone" in found[1]


def test_machine_paths_and_registries_are_found(tmp_path: Path) -> None:
    tree = load("tree")
    file = tmp_path / "file.txt"
    file.write_text(
        "see /ho" + "me/somebody/x\nsee https://py" + "pi.org/simple\nfine /usr/bin\n", encoding="utf-8"
    )
    found = tree.addresses(file, tree.machine_paths())
    assert [line.split(":")[1] for line in found] == ["1", "2"]


def test_the_command_line_without_heavy_imports() -> None:
    code = (
        "import sys, click.testing as t, agentlm.cli as c;"
        "r = t.CliRunner().invoke(c.cli, ['--help']); assert r.exit_code == 0, r.output;"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
