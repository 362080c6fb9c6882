"""What `data fetch` brings: held to pinned checksums, laid out as the tasks read it, and nothing of a pickle's executed."""

import os
import pickle
import re
from hashlib import sha256
from pathlib import Path, PurePosixPath

import pytest

from agentlm_evals.errors import DataError
from agentlm_evals.fetch import fetch, files_of, from_mirror
from agentlm_evals.protocols import AGENTLM, Protocol
from agentlm_evals.sources import DATA_SETS, File
from agentlm_evals.task import Setting, Source, resolve_options
from agentlm_evals.tasks import ENTRIES, entry
from agentlm_evals.tasks.hotpotqa.tables import read_table


def test_every_built_task_with_data_has_a_source() -> None:
    built = {one.name for one in ENTRIES if one.is_built and not one.load().needs_no_data}
    assert built <= set(DATA_SETS)


@pytest.mark.parametrize("name", sorted(DATA_SETS))
def test_every_file_is_pinned_but_for_one_archive(name: str) -> None:
    unpinned = [file.path for file in files_of(name) if file.sha256 is None]
    assert unpinned == (["mmlu/data.tar"] if name == "mmlu" else [])
    assert all(len(file.sha256 or "0" * 64) == 64 for file in files_of(name))
    assert DATA_SETS[name].licence


@pytest.mark.parametrize("layout", ["data directory", "checkout", "names alone"])
def test_a_mirror_may_be_laid_out_in_three_ways(tmp_path: Path, layout: str) -> None:
    url = "https://raw.githubusercontent.com/THUDM/AgentBench/578c5e9/data/os_interaction/data/1/stock.json"
    file = File(url, "os_interaction/data/1/stock.json", sha256(b"[]").hexdigest())
    place = {
        "data directory": "os_interaction/data/1/stock.json",
        "checkout": "data/os_interaction/data/1/stock.json",
        "names alone": "stock.json",
    }[layout]
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_bytes(b"[]")
    assert b"".join(from_mirror(tmp_path)(file)) == b"[]"


class _Trap:
    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/agentlm-trap",)


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "easy.joblib"
    path.write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(DataError, match=r"asks for posix\.system"):
        read_table(path)
    path.write_bytes(b"no pickle")
    with pytest.raises(DataError, match="is not one of HotpotQA's tables"):
        read_table(path)


def _checkout(name: str) -> Path:
    """A folder of checkouts for tests: `$AGENTLM_MIRRORS/AgentBench` and so on."""
    directory = Path(os.environ.get("AGENTLM_MIRRORS", "")) / name
    if "AGENTLM_MIRRORS" not in os.environ or not directory.is_dir():
        pytest.skip(f"needs a checkout of {name}: $AGENTLM_MIRRORS names no folder that holds one")
    return directory


def test_hotpotqas_tables_become_the_300_questions(tmp_path: Path, data_dir: Path) -> None:
    said: list[str] = []
    fetch("hotpotqa", tmp_path, from_mirror(_checkout("AgentTuning")), said.append)
    assert said[-1] == "hotpotqa/bolaa_300.jsonl: 300 questions"
    task = entry("hotpotqa").load()
    fetched, known = (
        task.samples(Setting(Source(place), Protocol(AGENTLM), resolve_options(task, {})))
        for place in (tmp_path, data_dir)
    )
    assert fetched == known


@pytest.mark.parametrize(("split", "count"), [("std", 144), ("dev", 26), ("train", 1000)])
def test_the_operating_system_problems_have_all_their_scripts(tmp_path: Path, split: str, count: int) -> None:
    fetch("os", tmp_path, from_mirror(_checkout("AgentBench")), lambda _: None)
    task = entry("os").load()
    setting = Setting(Source(tmp_path), Protocol(AGENTLM), resolve_options(task, {"split": split}))
    samples = task.samples(setting)
    assert len(samples) == count
    if split != "train":
        assert [sample.id for sample in samples if "unusable" in sample.input] == []


def test_every_address_at_github_names_a_commit_or_a_release() -> None:
    # A branch moves: what it holds tomorrow would have another checksum, and be refused.
    files = [file for name in DATA_SETS for file in files_of(name)]
    places = [PurePosixPath(file.url).parts[4] for file in files if "githubusercontent" in file.url]
    assert len(places) > 50
    assert [one for one in places if not re.fullmatch(r"[0-9a-f]{40}|v\d+\.\d+\.\d+", one)] == []
