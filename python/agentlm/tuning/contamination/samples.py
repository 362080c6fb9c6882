"""Evaluation sets as a scan takes them: files to samples, each a list of texts. Refuses to know what is found in them."""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentlm.errors import AgentLMError

ID_FIELDS = ("id", "task_id", "question_id", "item")
"""Where a sample's name is looked for; without any it is its line's number."""

DEFAULT_FIELDS = ("text", "content")
"""Where text is looked for when nobody named a field and the sample is no conversation; the training side does the same."""


class ContaminationError(AgentLMError):
    """An evaluation set or training data cannot be compared."""


@dataclass(frozen=True, slots=True)
class EvaluationSample:
    """One sample of an evaluation set."""

    id: str
    set: str
    """The set's name: its file's."""
    texts: tuple[str, ...]
    """Compared one by one: no overlap runs from one into the next."""


def read_samples(path: str | Path, fields: Sequence[str] = ()) -> list[EvaluationSample]:
    """The samples of a file.

    `.jsonl` holds one object a line and `.json` a list of objects; the texts are every string in the named fields (`a.b`
    goes into objects), else the contents of `messages`, else `text` and `content`. Any other file is text, one sample a
    line. `.gz` is unpacked.

    Raises:
        ContaminationError: The file cannot be read, is not what its name says, holds no sample, or a sample has none of the
            fields.
    """
    path = Path(path)
    name = path.name.removesuffix(".gz")
    text = _text(path)
    if name.endswith((".jsonl", ".json")):
        rows = _list(path, text) if name.endswith(".json") else _lines(path, text)
        samples = [_sample(row, where, path.name, fields) for where, row in rows]
    elif fields:
        raise ContaminationError(
            f"{path} is read as text, one sample a line, and has no fields; a set with fields is .jsonl or .json"
        )
    else:
        lines = enumerate(text.splitlines(), 1)
        samples = [
            EvaluationSample(f"line {number}", path.name, (line,)) for number, line in lines if line.strip()
        ]
    if not samples:
        raise ContaminationError(f"{path} holds no sample")
    return samples


def read_sets(paths: Sequence[str | Path], fields: Sequence[str] = ()) -> list[EvaluationSample]:
    """The samples of several files; sets whose files are called alike take as much of their paths as tells them apart.

    Raises:
        ContaminationError: As `read_samples`, or a file is named twice.
    """
    files = [Path(path) for path in paths]
    places = [file.resolve() for file in files]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise ContaminationError(f"{files[index]} is named twice among the evaluation sets")
    samples: list[EvaluationSample] = []
    for file, place in zip(files, places, strict=True):
        deep = next(
            deep
            for deep in range(1, len(place.parts) + 1)
            if sum(other.parts[-deep:] == place.parts[-deep:] for other in places) == 1
        )
        # One part is the name as it was given, which a link's target need not have.
        name = file.name if deep == 1 else "/".join(place.parts[-deep:])
        samples += [replace(sample, set=name) for sample in read_samples(file, fields)]
    return samples


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ContaminationError(f"{path} cannot be read: {error}") from error


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"{path}:{number}", json.loads(line)
        except ValueError as error:
            raise ContaminationError(f"{path}:{number} is not JSON: {error}") from error


def _list(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise ContaminationError(
            f"{path} is not JSON: {error}; a file with one object a line is named .jsonl"
        ) from error
    if not isinstance(rows, list):
        raise ContaminationError(f"{path} must hold a list of objects; it holds a {type(rows).__name__}")
    for number, row in enumerate(rows):
        yield f"{path}[{number}]", row


def _sample(row: Any, where: str, set_name: str, fields: Sequence[str]) -> EvaluationSample:
    if not isinstance(row, dict):
        raise ContaminationError(f"{where} must be an object; it is a {type(row).__name__}")
    place = where.rpartition(":")[2] if ":" in where else where
    name = next((str(row[field]) for field in ID_FIELDS if row.get(field) is not None), f"line {place}")
    return EvaluationSample(name, set_name, tuple(_texts(row, where, fields)))


def _texts(row: dict[str, Any], where: str, fields: Sequence[str]) -> Iterator[str]:
    messages = row.get("messages")
    if not fields and isinstance(messages, list):
        for message in messages:
            yield from _strings(message.get("content") if isinstance(message, dict) else None)
        return
    wanted = fields or DEFAULT_FIELDS
    found = [value for field in wanted if (value := _at(row, field)) is not None]
    if not found:
        names = " or ".join(f"`{field}`" for field in (*(() if fields else ("messages",)), *wanted))
        keys = ", ".join(f"`{key}`" for key in row)
        raise ContaminationError(f"{where} has no {names} (its keys: {keys}); name the field with --field")
    for value in found:
        yield from _strings(value)


def _at(row: dict[str, Any], path: str) -> Any:
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _strings(value: Any) -> Iterator[str]:
    """Every string in a value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _strings(entry)
