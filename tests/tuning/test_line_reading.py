"""Files are read with their bytes told as they lie, packed or not, and closed."""

import gzip
import json

import pytest

from agentlm.tuning.data import filtering, importing, rows
from agentlm.tuning.data.filtering import FilterSettings
from agentlm.tuning.data.importing import ImportSettings
from agentlm.tuning.data.statistics import collect
from agentlm.tuning.line_reading import open_bytes

SAID = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
ROWS = [{"id": str(n), "source": "s", "tags": [str(n)], "messages": SAID} for n in range(500)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture(params=["a.jsonl", "a.jsonl.gz", "a.json"])
def file(request, tmp_path):
    path = tmp_path / request.param
    data = LINES if "jsonl" in path.name else json.dumps(ROWS).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_every_command_is_told_of_each_byte_once(file, tmp_path):
    told: list[int] = []
    report = importing.run(
        [file], tmp_path / "o.jsonl", tmp_path / "r.jsonl", ImportSettings(), progress=told.append
    )
    assert (report.taken, sum(told)) == (500, file.stat().st_size)
    if file.suffix == ".json":
        return
    for run in (
        lambda told: filtering.run(
            [file], tmp_path / "p.jsonl", tmp_path / "q.jsonl", FilterSettings(), progress=told
        ),
        lambda told: collect([file], progress=told),
    ):
        told.clear()
        run(told.append)
        assert sum(told) == file.stat().st_size


def test_parquet_tells_its_size_in_shares(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"instruction": ["a"] * 640, "output": ["b"] * 640}), path)
    told: list[int] = []
    assert len(list(rows.read(path, told.append))) == 640
    assert len(told) == 10
    assert 0.99 * path.stat().st_size < sum(told) <= path.stat().st_size


def test_a_packed_file_is_closed_with_its_reader(file):
    reader = open_bytes(file)
    raw = reader._packed if file.suffix == ".gz" else reader
    assert reader.read(1)
    reader.close()
    assert raw.closed
