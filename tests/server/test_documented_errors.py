"""The table of errors in docs/api.md has each status and each kind that the API's document tells, and no others."""

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"


def kinds(value: Any) -> set[str]:
    """What `error_type` may be, anywhere in a schema."""
    if isinstance(value, list):
        return set().union(*map(kinds, value))
    if not isinstance(value, dict):
        return set()
    own = value.get("error_type", {})
    own = set(own.get("enum", ())) if isinstance(own, dict) else set()
    return own.union(*map(kinds, value.values()))


def told() -> set[tuple[int, str]]:
    document = json.loads((DOCS / "openapi.json").read_text(encoding="utf-8"))
    responses = document["components"]["responses"]
    found = {(int(name[:3]), kind) for name, response in responses.items() for kind in kinds(response)}
    # A native answer to a wrong key has no body that could tell its kind.
    return found | {(401, "invalid_api_key")}


def test_the_page_lists_what_the_document_tells():
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    section = page.split("\n## Errors\n")[1].split("\n## ")[0]
    listed = set()
    for statuses, names in re.findall(r"^\| ([0-9, ]+) \| (`[^|]*`) \|", section, re.MULTILINE):
        pairs = {
            (int(status), name) for status in statuses.split(", ") for name in re.findall("`([^`]+)`", names)
        }
        known = pairs & told()
        assert {status for status, _ in known} == {int(status) for status in statuses.split(", ")}, statuses
        assert {name for _, name in known} == set(re.findall("`([^`]+)`", names)), names
        listed |= known
    assert listed == told()
