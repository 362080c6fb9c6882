"""Counts of records by source, task and tag, with tokens and without, and the picture of them."""

import sys

import pytest

from agentlm.tuning.data import plot
from agentlm.tuning.data.errors import DataError, MissingExtraError
from agentlm.tuning.data.rendering import Renderer
from agentlm.tuning.data.statistics import LENGTHS, Counts, class_names, collect
from agentlm.tuning.record import Message, RecordError, Writer
from tests.tuning.data import checkpoints
from tests.tuning.data.conversations import STEPS, chat, conversation, episode


@pytest.fixture(scope="module")
def renderer(tmp_path_factory):
    return Renderer(checkpoints.checkpoint(tmp_path_factory.mktemp("checkpoint") / "model"))


@pytest.fixture
def records(tmp_path):
    file = tmp_path / "in.jsonl"
    rows = (
        chat("Hi", "Hello", source="chats", tags=("short", "polite")),
        chat("Hi", "H" * 100, source="chats", tags=("polite",)),
        episode(*STEPS[:2], source="agents", reward=1.0),
        episode(STEPS[0], source="agents", reward=0.5),
        conversation(
            [Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Ok.", loss=False)]
        ),
    )
    with Writer(file) as writer:
        for row in rows:
            writer.add(row)
    return file


def test_sources_are_counted(records):
    found = collect([records])
    assert {name: group.conversations for name, group in found.groups.items()} == {
        "chats": 2,
        "agents": 2,
        "tests": 1,
    }
    chats, agents = found.groups["chats"], found.groups["agents"]
    assert (chats.turns, chats.trained_turns, chats.characters, list(chats.lengths)) == (4, 2, 109, [7, 102])
    assert (agents.rewards, agents.reward_sum) == (2, 1.5)
    assert (found.groups["tests"].turns, found.groups["tests"].trained_turns) == (2, 0)
    assert (found.all.conversations, found.all.turns) == (5, 12)


def test_tokens_are_the_renderers(records, renderer):
    found = collect([records], render=renderer.render)
    assert found.groups["chats"].tokens == 12 + 107
    assert found.groups["chats"].trained_tokens == 6 + 101
    assert list(found.groups["chats"].lengths) == [12, 107]
    assert found.groups["tests"].trained_tokens == 0


def test_tags_and_tasks(records):
    by_tag = collect([records], by="tag")
    assert {name: group.conversations for name, group in by_tag.groups.items()} == {
        "short": 1, "polite": 2, "(no tag)": 3,
    }  # fmt: skip
    assert by_tag.all.conversations == 5
    assert set(collect([records], by="task").groups) == {"alfworld", "(no task)"}
    with pytest.raises(DataError, match="by must be one of source, task, tag; it is 'day'"):
        collect([records], by="day")


def test_what_the_template_refuses_is_counted_apart(tmp_path):
    short_only = "{%- if messages|length > 2 %}{{ raise_exception('long') }}{% endif -%}" + checkpoints.SOUND
    refusing = Renderer(checkpoints.checkpoint(tmp_path / "model", short_only))
    file = tmp_path / "a.jsonl"
    with Writer(file) as writer:
        writer.add(chat("a", "b"))
        writer.add(chat("a", "b", "c", "d"))
    found = collect([file], render=refusing.render)
    assert (found.all.conversations, found.all.unrendered, len(found.all.lengths)) == (2, 1, 1)


def test_a_line_that_is_no_record_stops_the_count(records):
    records.write_text(records.read_text() + "{}\n")
    with pytest.raises(RecordError, match=r"in\.jsonl:6"):
        collect([records])


def test_quantiles_and_classes():
    counts = Counts()
    counts.lengths.extend(range(1, 101))
    assert (counts.quantile(0.5), counts.quantile(0.95), counts.quantile(1.0)) == (50, 95, 100)
    assert counts.classes()[:3] == [63, 37, 0]
    assert len(class_names()) == len(LENGTHS)
    assert (class_names()[0], class_names()[-1]) == ("0-63", "16,384+")
    assert Counts().quantile(0.5) == 0


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_a_picture_is_drawn(records, renderer, tmp_path, name, begins):
    pytest.importorskip("matplotlib")
    plot.draw(collect([records], render=renderer.render), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "in.jsonl"])


@pytest.mark.filterwarnings("error")
def test_a_picture_takes_any_names(tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "in.jsonl"
    with Writer(file) as writer:
        for source in ("$\\frac", "a$b", "\x1b[2J", "漢字", "x" * 300, "x" * 300 + "y"):
            writer.add(chat("Hi", "Hello", source=source))
    plot.draw(collect([file]), tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 1000


def test_a_picture_that_cannot_be_drawn_is_refused_first(monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"ends in \.png, \.svg, \.pdf; given: a\.txt"):
        plot.check(tmp_path.__class__("a.txt"))
    with pytest.raises(DataError, match="is not there; make it first"):
        plot.check(tmp_path / "nowhere" / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"a plot needs matplotlib: pip install 'agentlm\[tune\]'"):
        plot.check(tmp_path / "a.png")
