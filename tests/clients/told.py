"""Reads what a client's script told of its cases. Refuses to know clients."""

import json
from typing import Any

Told = dict[str, dict[str, Any]]


def value(told: Told, case: str) -> Any:
    """What a case returned; a case that raised fails the test with its error."""
    outcome = told[case]
    assert "value" in outcome, (case, outcome)
    return outcome["value"]


def raised(told: Told, case: str) -> dict[str, Any]:
    """What a case raised; a case that returned something fails the test."""
    outcome = told[case]
    assert "raised" in outcome, (case, outcome)
    return outcome


def trip(text: str) -> str:
    """The city in an answer of the tests' one schema."""
    answer = json.loads(text)
    assert answer.keys() == {"city"}
    assert answer["city"] in ("Oslo", "Rome")
    return str(answer["city"])
