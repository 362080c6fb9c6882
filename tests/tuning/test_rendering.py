"""Conversations as tokens and masks: what fits, how the rest is divided, and what a cache may be taken for."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentlm._engine import ChatTemplate, Tokenizer
from agentlm.tuning.config import SourceSection
from agentlm.tuning.rendering import Rendered, render
from tests.tuning.runs import sums, write_base, write_records


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("rendering") / "base")


def rendered(base: Path, place: Path, records: list[dict[str, Any]], **changes: Any) -> Rendered:
    source = SourceSection(name="sums", path=str(write_records(place / "sums.jsonl", records)))
    settings: dict[str, Any] = {"template": None, "length": 512, "over_length": "drop"} | changes
    return render([source], base, cache=place / "kept", **settings)


def long(turns: int, system: str | None = "Be brief.") -> dict[str, Any]:
    """Turns of one length, up to nine."""
    messages = [{"role": "system", "content": system}] if system else []
    for number in range(turns):
        messages += [
            {"role": "user", "content": f"What is {chr(97 + number)}?"},
            {"role": "assistant", "content": f"Letter {number + 1}, and no more than that."},
        ]
    return {"id": "long", "source": "sums", "messages": messages}


def tokens(base: Path, messages: list[dict[str, Any]]) -> tuple[list[int], list[bool]]:
    _, ids, mask = ChatTemplate(base, Tokenizer(base)).conversation(json.dumps(messages))
    return ids, mask


def test_as_many_tokens_as_a_pack_has_are_not_too_many(base: Path, tmp_path: Path) -> None:
    record = long(3)
    size = len(tokens(base, record["messages"])[0])
    short = sums(1, "short", turns=1)
    found = rendered(base, tmp_path, [record, *short], length=size)
    assert (len(found), found.left_out) == (2, ({},))
    found = rendered(base, tmp_path, [record, *short], length=size - 1)
    assert (len(found), found.left_out) == (1, ({"too long": 1},))
    # Divided where it has to be, and only there.
    assert len(rendered(base, tmp_path, [record], length=size, over_length="split")) == 1
    assert len(rendered(base, tmp_path, [record], length=size - 1, over_length="split")) == 2


@pytest.mark.parametrize("system", ["Be brief.", None])
def test_pieces_are_whole_turns_under_the_system_message(
    base: Path, tmp_path: Path, system: str | None
) -> None:
    record = long(9, system)
    messages = record["messages"]
    head = messages[:1] if system else []
    turns = messages[len(head) :]
    length = len(tokens(base, [*head, *turns[:6]])[0])
    found = rendered(base, tmp_path, [record], length=length, over_length="split")
    assert len(found) == 3
    for piece in range(3):
        ids, mask = found.tokens(piece)
        expected = tokens(base, [*head, *turns[6 * piece : 6 * piece + 6]])
        assert (ids.tolist(), mask.tolist()) == expected


def test_a_turn_that_fits_in_no_piece_is_lost_alone_and_told(base: Path, tmp_path: Path) -> None:
    record = long(5)
    record["messages"][5]["content"] = "Why? " * 80
    found = rendered(base, tmp_path, [record], length=200, over_length="split")
    kept = [record["messages"][:5], [record["messages"][0], *record["messages"][7:]]]
    assert [found.tokens(piece)[0].tolist() for piece in range(len(found))] == [
        tokens(base, messages)[0] for messages in kept
    ]
    assert found.left_out == ({"left out in part: turns that are too long even alone": 1},)
    assert "1 turns did not fit even alone" in found.examples[0]
    assert found.conversations == (1,)
    # A conversation of which nothing is left is another matter.
    record["messages"] = record["messages"][5:7]
    found = rendered(base, tmp_path, [record, *sums(1, "sums")], length=200, over_length="split")
    assert (found.left_out, found.conversations) == (({"too long": 1},), (1,))


def test_a_first_token_is_not_counted_as_trained(base: Path, tmp_path: Path) -> None:
    template = tmp_path / "everything.jinja"
    template.write_text(
        "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}"
        "{{ message.content }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}",
        encoding="utf-8",
    )
    found = rendered(base, tmp_path, sums(2, "sums", turns=1), template=str(template))
    for conversation in range(2):
        ids, mask = found.tokens(conversation)
        assert mask.all()
        assert found.trained[conversation] == len(ids) - 1


def test_what_was_rendered_otherwise_is_not_taken_from_the_cache(base: Path, tmp_path: Path) -> None:
    records = [long(9), *sums(4, "sums")]
    template = tmp_path / "own.jinja"
    template.write_text(
        "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
        "{{ eos_token }}{% endgeneration %}{% else %}{{ message.content }}{% endif %}{% endfor %}",
        encoding="utf-8",
    )
    ways: list[dict[str, Any]] = [
        {"length": 200},
        {"length": 200, "over_length": "split"},
        {"length": 120, "over_length": "split"},
        {"length": 200, "over_length": "split", "template": str(template)},
    ]
    digests = {rendered(base, tmp_path, records, **way).digest() for way in ways}
    assert len(digests) == len(list((tmp_path / "kept").iterdir())) == len(ways)
    masked = [records[0], *({**record, "messages": _unlearnt(record)} for record in records[1:])]
    digests.add(rendered(base, tmp_path, masked, **ways[1]).digest())
    assert len(digests) == len(ways) + 1
    # And what is the same, is.
    assert rendered(base, tmp_path, records, **ways[1]).digest() in digests
    assert len(list((tmp_path / "kept").iterdir())) == len(ways) + 1


def _unlearnt(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages, the last answer not trained; one that is alone stays as it is."""
    *before, last = record["messages"]
    return [*before, {**last, "loss": False}] if len(before) > 2 else record["messages"]


def test_a_digest_is_of_tokens_masks_and_borders(base: Path, tmp_path: Path) -> None:
    found = rendered(base, tmp_path, sums(4, "sums"))
    mask, offsets, ids = found.mask.copy(), found.offsets.copy(), found.ids.copy()
    mask[-1], offsets[1], ids[3] = not mask[-1], offsets[1] + 1, ids[3] + 1
    others = (replace(found, mask=mask), replace(found, offsets=offsets), replace(found, ids=ids))
    assert len({one.digest() for one in (found, *others)}) == 4


def test_several_tags_multiply(base: Path, tmp_path: Path) -> None:
    records = sums(3, "sums")
    for record, tags in zip(records, ([], ["a"], ["b", "a"]), strict=True):
        record["tags"] = tags
    found = rendered(base, tmp_path, records)
    np.testing.assert_allclose(found.factors({"a": 3.0, "b": 0.5}), [1.0, 3.0, 1.5])
