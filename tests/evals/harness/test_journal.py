"""The journal: whole lines, torn ends, the last record of an episode, one writer."""

import asyncio
from pathlib import Path

import pytest

from agentlm_evals.errors import RunError
from agentlm_evals.harness.journal import Journal, Record, read, write_whole
from agentlm_evals.outcome import harness_fault, right


def record(sample: str, epoch: int = 0, **more: object) -> Record:
    return Record(sample, epoch, "c", right(given="ü\n"), {"answer": [1]}, **more)  # type: ignore[arg-type]


async def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "a" / "episodes.jsonl"
    store = Journal(path)
    records = [
        record(str(at), messages=[{"role": "user", "content": "\u2028"}], seconds=1.5) for at in range(50)
    ]
    await asyncio.gather(*(store.write(one) for one in records))
    store.close()
    assert list(read(path).values()) == records
    assert path.read_bytes().count(b"\n") == 50


async def test_a_torn_line_is_left_out_and_then_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    store = Journal(path)
    await store.write(record("1"))
    store.close()
    whole = path.read_bytes()
    for cut in (1, 20, len(whole) - 1):
        path.write_bytes(whole + whole[:cut])
        assert list(read(path)) == [("1", 0)]
        store = Journal(path)
        await store.write(record("2"))
        store.close()
        assert list(read(path)) == [("1", 0), ("2", 0)]
        assert path.read_bytes().startswith(whole)


def test_a_file_that_is_one_torn_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(b'{"sample"' + b" " * 200_000)
    assert read(path) == {}
    Journal(path).close()
    assert path.stat().st_size == 0


async def test_the_last_record_of_an_episode_counts(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    store = Journal(path)
    await store.write(Record("1", 0, "", harness_fault("gone")))
    await store.write(record("1"))
    store.close()
    assert read(path)[("1", 0)] == record("1")


def test_a_line_of_another_hand_is_named(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text('{"sample": "1"}\n')
    with pytest.raises(RunError, match=r"episodes.jsonl:1 is not an episode's record"):
        read(path)


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x" / "file"
    write_whole(path, "one")
    write_whole(path, "two")
    assert path.read_text() == "two"
    assert [one.name for one in path.parent.iterdir()] == ["file"]


async def test_a_disk_that_is_full_stops_everybody_who_writes() -> None:
    store = Journal(Path("/dev/full"))
    # The second line waits for the first one's turn: it must not count as written either.
    found = await asyncio.gather(store.write(record("1")), store.write(record("2")), return_exceptions=True)
    assert [type(one) for one in found] == [RunError, RunError]
    with pytest.raises(RunError, match="No space left on device; run the same command again"):
        await store.write(record("3"))
    store.close()


async def test_half_a_character_does_not_stop_a_run(tmp_path: Path) -> None:
    store = Journal(tmp_path / "episodes.jsonl")
    await store.write(Record("1", 0, "", right(given="\ud800")))
    store.close()
    assert read(tmp_path / "episodes.jsonl")[("1", 0)].score.details == {"given": "?"}
