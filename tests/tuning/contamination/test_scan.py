"""Scans as people make them. The definition itself is held to a plain reading of it in engine/contamination/tests."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentlm.model.random_tokenizer import write_tokenizer
from agentlm.tuning.contamination import (
    BUCKETS,
    Contamination,
    ContaminationError,
    EvaluationSample,
    Settings,
    page,
    scan,
    sources,
)


def words(first: int, count: int) -> str:
    return " ".join(f"w{number}" for number in range(first, first + count))


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def scanned(
    data: Path, *texts: str, settings: Settings | None = None, data_fields: tuple[str, ...] = ()
) -> Contamination:
    samples = [EvaluationSample(str(number), "set", (text,)) for number, text in enumerate(texts)]
    return scan(samples, sources([data]), settings or Settings(threads=2), data_fields=data_fields)


def test_buckets_are_cut_at_a_fifth_and_four_fifths(tmp_path: Path) -> None:
    data = lines(tmp_path / "data.jsonl", {"text": words(0, 80)})
    # 100 words each, of which so many stand in the data from the first on.
    shared = (0, 19, 20, 79, 80)
    texts = [
        words(0, count) + " " + words(1000 + 100 * number, 100 - count) for number, count in enumerate(shared)
    ]
    found = scanned(data, *texts)
    assert [sample.contaminated for sample in found.samples] == list(shared)
    assert [[sample.id for sample in found.bucket(bucket)] for bucket in BUCKETS] == [
        ["0", "1"],
        ["2", "3", "4"],
        ["0", "1", "2", "3"],
        ["4"],
    ]
    assert found.share() == pytest.approx(sum(shared) / 500)
    assert [sample.id for sample in found.worst()] == ["4", "3", "2", "1"]


def test_an_overlap_is_shown_from_both_sides(tmp_path: Path) -> None:
    record = {
        "id": "r1",
        "source": "chats",
        "messages": [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": f"So: {words(0, 12)} ANOTHER {words(13, 4)}."},
        ],
    }
    data = lines(tmp_path / "data.jsonl", {"id": "r0", "source": "chats", "messages": []}, record)
    text = f"<b>é</b> {words(0, 17)} <i>end</i>"
    found = scanned(data, text)
    (sample,) = found.samples
    (overlap,) = sample.overlaps
    assert (overlap.tokens, overlap.skipped) == (17, 1)
    assert text[overlap.region.start : overlap.region.end] == words(0, 17)
    assert [equal for equal, _ in overlap.training] == [True, False, True]
    assert "".join(run for _, run in overlap.training) == f"{words(0, 12)} ANOTHER {words(13, 4)}"
    assert (overlap.before, overlap.after) == ("So: ", ".")
    assert (overlap.path, overlap.line, overlap.part) == (str(data), 2, "message 1 (assistant)")
    assert (overlap.record, overlap.source) == ("r1", "chats")
    html = page(found)
    assert f"<code>{data}:2</code>" in html
    assert "<mark class='skip'>ANOTHER </mark>" in html
    assert "<mark class='skip'>w12 </mark>" in html
    assert "&lt;b&gt;é&lt;/b&gt;" in html
    assert "<b>é" not in html
    (reported,) = found.to_dict()["samples"]
    assert reported["overlaps"][0]["training"] == f"{words(0, 12)} ANOTHER {words(13, 4)}"


def test_words_forgive_case_and_signs_where_white_space_does_not(tmp_path: Path) -> None:
    data = lines(tmp_path / "data.jsonl", {"text": words(0, 20).upper().replace(" ", ", ")})
    assert scanned(data, words(0, 20)).share() == 1
    assert scanned(data, words(0, 20), settings=Settings(tokens="whitespace")).share() == 0


def test_a_checkpoints_tokens_are_what_is_compared(tmp_path: Path) -> None:
    # A token of this tokenizer is a byte: an overlap of eleven tokens is eleven bytes, and may cut a character in two.
    model = tmp_path / "model"
    model.mkdir()
    write_tokenizer(model, 300, 4096)
    data = lines(tmp_path / "data.jsonl", {"text": "..........éèê and something else"})
    found = scanned(data, "..........éöü", settings=Settings(model=str(model)))
    (sample,) = found.samples
    assert sample.tokens == 16
    # Ten points, é, then the first byte of ö and of ü, the second ones skipped: an overlap ends with an equal token.
    assert sample.contaminated == 15
    assert sample.overlaps[0].skipped == 1
    assert sample.texts[0][: sample.regions[0].end] == "..........éöü"
    assert found.tokenization == f"tokens of {model}"


def test_a_checkpoints_tokens_are_found_across_the_borders_of_running_text(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    write_tokenizer(model, 300, 4096)
    text = words(0, 60)
    for before in range(2**15 - 400, 2**15, 133):
        data = tmp_path / "data.txt"
        data.write_text("x" * before + " " + text + " y" * 20_000)
        (sample,) = scanned(data, text, settings=Settings(model=str(model))).samples
        assert sample.share == 1, f"after {before} bytes"


def test_a_checkpoints_tokens_are_found_anywhere_in_a_long_message(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    write_tokenizer(model, 300, 4096)
    text = words(0, 60)
    for before in range(2**15 - 400, 2**15, 133):
        content = "x" * before + f" {text}, é" + " y" * 40_000
        rows = [
            {
                "id": "r",
                "source": "s",
                "messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": content}],
            }
        ]
        data = lines(tmp_path / "data.jsonl", *rows)
        (sample,) = scanned(data, text, settings=Settings(model=str(model))).samples
        assert sample.share == 1, f"after {before} bytes"
        overlap = sample.overlaps[0]
        assert "".join(run for _, run in overlap.training).strip() == text
        assert overlap.before.endswith("xxx") or overlap.before.endswith("xxx ")
        assert overlap.after.startswith(", é y")
        assert (overlap.line, overlap.part) == (1, "message 1 (user)")


def test_a_long_message_takes_time_in_proportion(tmp_path: Path, data_dir: Path) -> None:
    """Llama-2's tokenizer takes the square of the time: 16 s for 2 MB, were they not cut."""
    settings = Settings(model=str(data_dir / "models" / "llama2-tokenizer"), threads=1)
    text = "A farmer sells 12 eggs in the morning and 30 eggs in the evening of every single day."
    data = lines(tmp_path / "data.jsonl", {"text": f"{words(0, 200_000)}, {text} {words(0, 100_000)}"})
    assert data.stat().st_size > 2e6
    began = time.process_time()
    (sample,) = scanned(data, text, settings=settings).samples
    assert sample.share == 1
    assert time.process_time() - began < 8


def test_the_outcome_does_not_depend_on_the_threads(tmp_path: Path) -> None:
    draw = random.Random(7)
    vocabulary = [f"w{number}" for number in range(5)]
    rows = [{"text": " ".join(draw.choices(vocabulary, k=60))} for _ in range(3000)]
    data = lines(tmp_path / "data.jsonl", *rows * 12)
    assert data.stat().st_size > 4 * 2**20, "several pieces are needed for threads to race"
    texts = [" ".join(draw.choices(vocabulary, k=80)) for _ in range(20)]
    one, three = (scanned(data, *texts, settings=Settings(threads=threads)) for threads in (1, 3))
    assert one.samples == three.samples
    assert any(sample.contaminated for sample in one.samples)


def test_samples_too_short_for_an_overlap_are_counted(tmp_path: Path) -> None:
    data = lines(tmp_path / "data.jsonl", {"text": words(0, 30)})
    found = scanned(data, words(0, 10), words(0, 11), "")
    assert [sample.is_short for sample in found.samples] == [True, False, True]
    assert [sample.contaminated for sample in found.samples] == [0, 11, 0]


def test_a_directory_stands_for_its_files(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", {"text": words(0, 20)})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.txt").write_text(f"Title\n\n{words(20, 20)}\n")
    (tmp_path / "b" / "d.bin").write_bytes(b"\xff")
    found = scanned(tmp_path, words(0, 40))
    assert [path for path, _ in found.training] == [str(tmp_path / "a.jsonl"), str(tmp_path / "b" / "c.txt")]
    assert found.share() == 1
    assert [(Path(overlap.path).name, overlap.line) for overlap in found.samples[0].overlaps] == [
        ("a.jsonl", 1),
        ("c.txt", 3),
    ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("data.jsonl", '{"text": "a"}\n{"text"\n', "data.jsonl:2 is not a JSON object"),
        (
            "data.jsonl",
            '{"prompt": "a"}\n',
            "data.jsonl:1 has neither `messages` nor `text`, `content` (its keys: `prompt`)",
        ),
        ("data.json", "[]", "turn it into records first"),
        ("data.jsonl.gz", "", "unpack it first"),
        ("data.csv", "", "say what it is with --form"),
    ],
)
def test_data_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ContaminationError) as error:
        scanned(tmp_path / name, words(0, 20))
    assert says in str(error.value)
    lines(tmp_path / "good.jsonl", {"prompt": words(0, 20)})
    assert scanned(tmp_path / "good.jsonl", words(0, 20), data_fields=("prompt",)).share() == 1


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"ngram": 1}, "ngram is 1; it must lie between 2 and 1024"),
        ({"skip_budget": -1}, "skip_budget is -1; it must lie between 0 and 256"),
        ({"tokens": "letters"}, "tokens is 'letters'; it must be one of words, whitespace"),
        ({"ignore_shared": 50.0}, "ignore_shared is 50.0; it must lie between 0 and 1"),
        ({"overlaps": 0}, "overlaps is 0; it must lie between 1 and 1000"),
    ],
)
def test_settings_without_meaning_are_refused(values: dict[str, object], says: str) -> None:
    with pytest.raises(ContaminationError) as error:
        Settings(**values)  # type: ignore[arg-type]
    assert str(error.value) == says


def test_ctrl_c_ends_a_scan(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    lines(data, *[{"text": words(0, 2000)}] * 200)
    program = (
        "import sys; from pathlib import Path\n"
        "from agentlm.tuning.contamination import EvaluationSample, Settings, scan\n"
        "sample = EvaluationSample('0', 'set', ('w1 ' * 20,))\n"
        "seen = lambda done: print(done, flush=True)\n"
        "scan([sample], [(Path(sys.argv[1]), 'jsonl')] * 5000, Settings(threads=1), progress=seen)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
        assert b"KeyboardInterrupt" in errors
        assert time.monotonic() - began < 5
