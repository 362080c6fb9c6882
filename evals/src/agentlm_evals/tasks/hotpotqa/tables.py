"""HotpotQA's 300 questions out of the three pickled tables that AgentTuning holds, as JSONL. Refuses to execute pickles.

The files are pandas tables in joblib's form, by versions that today's no longer read. A pickle names the functions that
build its objects; here none but those of a table of texts are known, and each is a stand-in that keeps what it is given.
"""

import io
import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from agentlm_evals.errors import DataError

LEVELS = ("easy", "medium", "hard")
FOLDER = "eval_heldout/hotpotQA/src/data"
"""In AgentTuning's repository."""
_COLUMNS = ("id", "level", "type", "question", "answer", "supporting_facts", "context")


class _Kept:
    """An object of the pickle's: its arguments and its state, nothing else."""

    def __init__(self, *given: Any) -> None:
        self.given = given
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Kept):
    """joblib's note that an array's values follow as a pickle of their own."""


def _index(_kind: Any, values: Mapping[str, Any]) -> Any:
    """A table's labels."""
    return values.get("data")


def _reconstruct(*_: Any) -> Any:
    return np.empty(0, dtype=object)


def _encode(text: str, name: str) -> bytes:
    """Bytes as an old pickle writes them: one character each."""
    if name != "latin1":
        raise DataError(f"the pickle encodes as {name}: it is no table of texts")
    return text.encode("latin-1")


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("pandas.core.frame", "DataFrame"): _Kept,
    ("pandas.core.internals.managers", "BlockManager"): _Kept,
    ("pandas._libs.internals", "_unpickle_block"): _Kept,
    ("pandas.core.indexes.base", "_new_Index"): _index,
    ("pandas.core.indexes.base", "Index"): _Kept,
    ("pandas.core.indexes.range", "RangeIndex"): _Kept,
    ("pandas.core.indexes.numeric", "Int64Index"): _Kept,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("builtins", "slice"): slice,
    ("_codecs", "encode"): _encode,
}


_STEPS: Any = pickle._Unpickler
"""The unpickler whose steps can be changed."""


class _Reader(_STEPS):  # type: ignore[misc]  # nobody has typed its steps
    """Knows no function but those of `_KNOWN`."""

    dispatch: ClassVar[dict[int, Any]] = dict(_STEPS.dispatch)

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.source = file

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for."""
        if (module, name) not in _KNOWN:
            raise DataError(f"the pickle asks for {module}.{name}: it is no table of texts")
        return _KNOWN[module, name]

    def load_build(self) -> None:
        """As pickle does; where joblib left a note, the array's own pickle takes its place."""
        super().load_build()
        note = self.stack[-1]
        if isinstance(note, _Array):
            is_of_objects = bool(note.state["dtype"].hasobject)
            self.stack[-1] = _Reader(self.source).load() if is_of_objects else self._numbers(note.state)

    def _numbers(self, state: Mapping[str, Any]) -> Any:
        """An array of plain numbers lies in the file as it is."""
        if state.get("numpy_array_alignment_bytes") is not None:
            self.source.read(self.source.read(1)[0])
        dtype, count = state["dtype"], int(np.prod(state["shape"]))
        return np.frombuffer(self.source.read(count * dtype.itemsize), dtype=dtype).reshape(state["shape"])

    dispatch[pickle.BUILD[0]] = load_build


def read_table(path: Path) -> list[dict[str, Any]]:
    """A table's rows by column.

    Raises:
        DataError: It is not one of the three.
    """
    try:
        table = _Reader(io.BytesIO(path.read_bytes())).load()
        return list(_rows(table.state["_mgr"]))
    except (
        pickle.UnpicklingError,
        OSError,
        EOFError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise DataError(f"{path} is not one of HotpotQA's tables: {type(error).__name__}: {error}") from error


def _rows(manager: _Kept) -> Iterator[dict[str, Any]]:
    blocks, axes = manager.given[0], manager.given[1]
    columns: dict[str, Any] = {}
    for block in blocks:
        values, places = block.given[0], block.given[1]
        names = list(axes[0])[places] if isinstance(places, slice) else [axes[0][at] for at in places]
        columns |= {str(name): row for name, row in zip(names, values, strict=True)}
    for at in range(len(columns["question"])):
        yield {name: values[at] for name, values in columns.items()}


def convert(folder: Path) -> int:
    """Writes `bolaa_300.jsonl` beside the three tables; returns how many questions it has.

    Raises:
        DataError: A table is not there or is another.
    """
    from agentlm_evals.harness.journal import write_whole

    lines = [
        json.dumps(_item(row, level), ensure_ascii=False) + "\n"
        for level in LEVELS
        for row in read_table(folder / f"{level}.joblib")
    ]
    write_whole(folder / "bolaa_300.jsonl", "".join(lines))
    return len(lines)


def _item(row: Mapping[str, Any], level: str) -> dict[str, Any]:
    """A question in the form of the published data set: facts and paragraphs as pairs."""
    item = {name: _plain(row[name]) for name in _COLUMNS if name in row} | {"level": level}
    facts, context = item["supporting_facts"], item["context"]
    if isinstance(facts, dict):
        item["supporting_facts"] = [list(pair) for pair in zip(facts["title"], facts["sent_id"], strict=True)]
    if isinstance(context, dict):
        item["context"] = [list(pair) for pair in zip(context["title"], context["sentences"], strict=True)]
    return item


def _plain(value: Any) -> Any:
    """Arrays as lists, NumPy's numbers as Python's."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return value.item() if isinstance(value, np.generic) else value
