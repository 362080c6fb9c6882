"""The part `linear-sweep`: what `sweep_linear` finds, as rows; the whole of it goes to a file of its own."""

import importlib
import json
from pathlib import Path
from typing import Any

from bench.gpu.child import Say, Setup


def run(setup: Setup, say: Say) -> None:
    """Runs the sweep."""
    if setup.rehearse:
        say("sweep", skipped=True)
        return
    found: dict[str, Any] = importlib.import_module("bench.gpu.sweep_linear").sweep(setup.device)
    (Path(setup.work) / "sweep_linear.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for row in rows_of(found):
        say(**row)
    # Whole, so that a table of tuned configurations can be made from the record alone.
    say("sweep", minor=True, found=found)


def rows_of(found: dict[str, Any], prefix: str = "") -> list[dict[str, Any]]:
    """Each innermost mapping that holds figures, named by the keys above it; structures inside are left out."""
    rows: list[dict[str, Any]] = []
    figures = {key: value for key, value in found.items() if isinstance(value, int | float | str)}
    if figures and prefix:
        rows.append({"name": prefix, **{key: value for key, value in figures.items() if key != "name"}})
    for key, value in found.items():
        if isinstance(value, dict):
            rows += rows_of(value, f"{prefix} {key}".strip())
    return rows
