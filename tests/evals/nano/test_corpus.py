"""The corpus is the same each time, right in what can be checked, and keeps train and test apart."""

import json
import re
from random import Random

import pytest

from agentlm_evals.environments import Item, Split
from agentlm_evals.environments.world import split_of
from agentlm_evals.errors import ConfigError
from agentlm_evals.nano import chats, problems
from agentlm_evals.nano.corpus import arithmetic, conversations, main, series, write_corpus
from agentlm_evals.tasks.gsm8k import prompts


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    first = write_corpus(tmp_path / "a", scale=0.002)
    again = write_corpus(tmp_path / "b", scale=0.002)
    other = write_corpus(tmp_path / "c", scale=0.002, seed=2)
    assert [path.name for path in first] == [
        "agent.jsonl",
        "general.jsonl",
        "practice.jsonl",
        "arithmetic.jsonl",
    ]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert all(p.read_bytes() != q.read_bytes() for p, q in zip(first, other, strict=True))
    assert not list((tmp_path / "a").glob("*.part"))


def test_agents_are_trained_on_train_items_of_held_in_worlds_alone(tmp_path):
    records = [json.loads(line) for line in write_corpus(tmp_path, scale=0.002)[0].read_text().splitlines()]
    assert {record["task"] for record in records} == {"household", "shop", "database", "shell"}
    assert all("-train-" in record["item"] and record["reward"] == 1.0 for record in records)
    for record in records:
        opening = record["messages"][0]["content"].split("\n\n", 1)[1]
        assert split_of(opening) is Split.TRAIN


@pytest.mark.parametrize("kind", chats.KINDS)
def test_an_exchange_answers_its_question(kind):
    rng = Random(0)
    for split in Split:
        for _ in range(40):
            exchange = chats.draw(kind, split, rng)
            assert exchange.question.strip() == exchange.question != ""
            assert exchange.answer.strip() == exchange.answer != ""
            assert exchange.wanted in exchange.answer
            if kind in chats.TESTED:
                assert split_of(exchange.question) is split
                assert exchange.wanted or split is Split.TRAIN


def test_practice_answers_with_what_was_read():
    rng = Random(0)
    for _ in range(200):
        exchanges = chats.practice(rng)
        for exchange in exchanges:
            assert exchange.wanted in exchange.answer
            assert exchange.wanted in exchanges[0].question


def test_problems_are_worked_rightly():
    rng = Random(0)
    seen = set()
    for _ in range(400):
        problem = problems.draw(rng)
        a, sign, b, result = re.match(r"(\d+) ([-+*/]) (\d+) = (\d+)", problem.working).groups()
        seen.add(sign)
        assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}.get(
            sign, int(a) / int(b)
        ) == int(result)
        assert problem.working.endswith(f"#### {result}")
        assert a in problem.question
        assert b in problem.question
    assert seen == set(problems.SIGNS)


def test_a_chat_begins_with_the_user_and_takes_turns():
    for record in conversations(3, 200):
        roles = [message["role"] for message in record["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)


def test_a_series_has_the_tasks_prompt_and_trains_on_problems_of_the_train_split_alone():
    for number in range(50):
        messages = series(Random(number))
        assert [message["content"] for message in messages[:2]] == [prompts.SYSTEM, prompts.INSTRUCTION]
        trained = [
            index
            for index, message in enumerate(messages)
            if message["role"] == "assistant" and message.get("loss", True)
        ]
        assert 2 <= len(trained) <= 6
        assert trained == list(range(trained[0], len(messages), 2))
        for index in trained:
            asked, answer = messages[index - 1]["content"], messages[index]["content"]
            assert split_of(asked) is Split.TRAIN
            worked = re.fullmatch(r"(\d+) ([-+*/]) (\d+) = (\d+) [\w ]+\. The answer is (\d+)", answer)
            assert worked
            assert worked[4] == worked[5]
            assert worked[1] in asked
            assert worked[3] in asked


def test_arithmetic_is_right_and_asks_what_no_test_asks():
    forms = set()
    for number in range(60):
        messages = arithmetic(Random(number))
        for asked, answer in zip(messages[::2], messages[1::2], strict=True):
            lines = answer["content"].splitlines()
            for line in lines[:1] if len(messages) > 2 else lines:
                a, sign, b, result = re.match(r"(\d+) ([-+*/]) (\d+) = (\d+)", line).groups()
                assert int(result) == problems.Problem("", int(a), sign, int(b), "").result
            if len(messages) > 2:
                assert split_of(asked["content"].removeprefix("Question: ")) is Split.TRAIN
                assert answer["content"].split()[-1] == result
                forms.add("####" in answer["content"])
    assert forms == {True, False}, "both forms of answer"


def test_it_says_what_it_is():
    for kind in ("identity", "unknown"):
        assert "very small language model" in chats.draw(kind, Split.TRAIN, Random(0)).answer


def test_refusals(tmp_path):
    with pytest.raises(ConfigError, match="scale is 0"):
        write_corpus(tmp_path, scale=0)
    with pytest.raises(ConfigError, match="seed is -1"):
        write_corpus(tmp_path, seed=-1)


def test_the_command_line_writes_the_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["corpus", str(tmp_path), "--scale", "0.0005"])
    main()
    names = ("agent", "general", "practice", "arithmetic")
    assert capsys.readouterr().out.split() == [str(tmp_path / f"{name}.jsonl") for name in names]
    assert Item("household", Split.TRAIN, 1_000_000).id in (tmp_path / "agent.jsonl").read_text()
