"""The conversation record: the one JSONL format of `agentlm data`, its rules, its reader and its writer.

Refuses to know other people's formats, templates and tokens. docs/guide-data.md shows the format to a reader.
"""

import contextlib
import gzip
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agentlm.errors import AgentLMError
from agentlm.tuning.line_reading import Progress, numbered_lines, open_bytes

ROLES = ("system", "user", "assistant", "tool")
"""Who may write a message."""

_RECORD_KEYS = ("id", "source", "task", "item", "reward", "tags", "messages", "tools", "meta")
_MESSAGE_KEYS = ("role", "content", "loss", "tool_calls", "tool_call_id", "name")


class RecordError(AgentLMError):
    """A line is no conversation record; the message names the value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Checked when made: a wrong one raises `RecordError`."""

    role: str
    """One of `ROLES`."""
    content: str | None
    """What was written; None only beside tool calls."""
    loss: bool = True
    """Whether the model is trained on it; means something on an assistant's message only."""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """Calls of an assistant: `{"id": str, "type": "function", "function": {"name": str, "arguments": str or object}}`."""
    tool_call_id: str | None = None
    """Which call a tool's message answers."""
    name: str | None = None
    """Of the tool, or of the speaker."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise RecordError(f"role must be one of {', '.join(ROLES)}; it is {self.role!r:.60}")
        if self.content is None and not self.tool_calls:
            raise RecordError("content may be null only beside tool_calls; write what the message says")
        if self.role != "assistant" and not self.loss:
            raise RecordError(f"loss belongs to an assistant's message; this one is the {self.role}'s")
        if self.tool_calls and self.role != "assistant":
            raise RecordError(f"tool_calls belong to an assistant's message; this one is the {self.role}'s")
        if self.tool_call_id is not None and self.role != "tool":
            raise RecordError(f"tool_call_id belongs to a tool's message; this one is the {self.role}'s")
        for index, call in enumerate(self.tool_calls):
            _check_call(call, f"tool_calls[{index}]")

    @property
    def trained(self) -> bool:
        """Whether a trainer puts what this message says under the loss."""
        return self.role == "assistant" and self.loss

    def to_dict(self) -> dict[str, Any]:
        """The message as JSON holds it; what has its default is left out."""
        made: dict[str, Any] = {"role": self.role, "content": self.content}
        if not self.loss:
            made["loss"] = False
        if self.tool_calls:
            made["tool_calls"] = [dict(call) for call in self.tool_calls]
        if self.tool_call_id is not None:
            made["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            made["name"] = self.name
        return made


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation: a general chat, or an agent's trajectory. Checked when made; a wrong one raises `RecordError`."""

    id: str
    source: str
    """Where it came from, as mixtures and reports name it."""
    messages: tuple[Message, ...]
    task: str | None = None
    """The environment or task of a trajectory, such as `alfworld`."""
    item: str | None = None
    """The environment's item that was tried; several trajectories may share one."""
    reward: float | None = None
    """What the environment gave, in its own range (AgentTuning's tasks: 0 to 1)."""
    tags: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] | None = None
    """Tools that the assistant was offered, as OpenAI writes them."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else is worth keeping; nothing of ours reads it."""

    def __post_init__(self) -> None:
        for name, value in (("id", self.id), ("source", self.source)):
            if not value:
                raise RecordError(f"{name} must not be empty")
        if not self.messages:
            raise RecordError("messages must not be empty")
        if self.reward is not None and not math.isfinite(self.reward):
            raise RecordError(f"reward must be a finite number; it is {self.reward}")

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON holds it; optional keys without a value are left out."""
        made: dict[str, Any] = {"id": self.id, "source": self.source}
        for name, value in (("task", self.task), ("item", self.item), ("reward", self.reward)):
            if value is not None:
                made[name] = value
        if self.tags:
            made["tags"] = list(self.tags)
        made["messages"] = [message.to_dict() for message in self.messages]
        if self.tools is not None:
            made["tools"] = [dict(tool) for tool in self.tools]
        if self.meta:
            made["meta"] = dict(self.meta)
        return made

    def dump(self) -> str:
        """The record as its line, without the line's end. Raises `RecordError` for what JSON cannot hold."""
        return _dumped(self.to_dict())

    def messages_json(self) -> str:
        """The messages as `ChatTemplate.conversation` takes them: a JSON list, `loss` flags included."""
        return _dumped([message.to_dict() for message in self.messages])

    def tools_json(self) -> str | None:
        """The tools as it takes them, too; None where none are offered."""
        return _dumped([dict(tool) for tool in self.tools]) if self.tools else None


def parse(line: str | bytes) -> Conversation:
    """The record that a line holds.

    Raises:
        RecordError: The line is not UTF-8, not JSON, or no record; the message names the place inside the record.
    """
    try:
        text = line.decode() if isinstance(line, bytes) else line
        # Half a character (a lone surrogate) is no text: it can come in through a JSON escape only.
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        if "\\u" in text:
            _dumped(value)
    except UnicodeDecodeError as error:
        raise RecordError(f"not UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON: {error}") from error
    return from_dict(value)


def from_dict(value: Any) -> Conversation:
    """The record that a parsed JSON value is. Raises `RecordError`."""
    _check_keys(value, _RECORD_KEYS, "a record")
    missing = [name for name in ("id", "source", "messages") if name not in value]
    if missing:
        raise RecordError(f"{' and '.join(missing)} missing; a record needs id, source and messages")
    messages = []
    for index, message in enumerate(_list(value["messages"], "messages")):
        try:
            messages.append(_message(message))
        except RecordError as error:
            raise RecordError(f"messages[{index}]: {error}") from error
    tools = value.get("tools")
    meta = value.get("meta")
    if meta is not None and not isinstance(meta, dict):
        raise RecordError(f"meta must be an object; it is {_shown(meta)}")
    tags = value.get("tags")
    return Conversation(
        id=_string(value["id"], "id"),
        source=_string(value["source"], "source"),
        messages=tuple(messages),
        task=_optional_string(value, "task"),
        item=_optional_string(value, "item"),
        reward=_reward(value.get("reward")),
        tags=() if tags is None else tuple(_string(tag, "a tag") for tag in _list(tags, "tags")),
        tools=None if tools is None else tuple(_object(tool, "a tool") for tool in _list(tools, "tools")),
        meta=meta or {},
    )


def read_rows(
    path: str | Path, progress: Progress | None = None
) -> Iterator[tuple[int, str, Conversation | RecordError]]:
    """Every line of a file that is not empty: its number from 1, its text, and its record or what is wrong with it.

    One line is in memory at a time. `.gz` is unpacked, `-` is standard input. `progress` is told of bytes as they are read.

    Raises:
        RecordError: The file cannot be read, or its compression is broken.
    """
    number = 0
    try:
        with open_bytes(path, progress) as file:
            for number, line, fault in numbered_lines(file):
                text = line.decode(errors="replace").rstrip("\r\n")
                if fault is not None:
                    yield number, text, RecordError(fault)
                    continue
                try:
                    yield number, text, parse(line)
                except RecordError as error:
                    yield number, text, error
    except (OSError, EOFError) as error:
        raise RecordError(f"{path}: cannot be read after line {number}: {error}") from error


def read(path: str | Path, progress: Progress | None = None) -> Iterator[tuple[int, Conversation]]:
    """Every record of a file with its line's number, one in memory at a time.

    `progress` is told of bytes as they are read.

    Raises:
        RecordError: The file cannot be read, or a line is no record; the message names file, line and place.
    """
    for number, _, row in read_rows(path, progress):
        if isinstance(row, RecordError):
            raise RecordError(f"{path}:{number}: {row}") from row
        yield number, row


class LineWriter:
    """Writes a text file whole or not at all: into a file beside it, which takes its place when the `with` ends well.

    Raises:
        RecordError: The folder is not there.
        OSError: The disk is full, or the folder cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.lines = 0
        """Written so far."""

    def __enter__(self) -> Self:
        if not self.path.parent.is_dir():
            raise RecordError(f"{self.path}: the folder {self.path.parent} is not there; make it first")
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        self._beside = Path(name)
        raw = os.fdopen(handle, "wb")
        self._raw: io.BufferedIOBase = raw
        # A fixed time keeps equal contents equal files.
        packs = self.path.suffix == ".gz"
        self._file: io.BufferedIOBase = gzip.GzipFile("", "wb", 6, raw, mtime=0) if packs else raw
        return self

    def write(self, line: str) -> None:
        """Adds one line; its end is added."""
        with self._named():
            self._file.write(line.encode() + b"\n")
        self.lines += 1

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """The system says that a disk is full, but not which file was to be written."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; nothing was written", str(self.path)) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._named():
                    if self._file is not self._raw:
                        self._file.close()
                    self._raw.flush()
                    os.fsync(self._raw.fileno())
                    self._raw.close()
                    _take_the_usual_mode(self._beside)
                    self._beside.replace(self.path)
        finally:
            self._beside.unlink(missing_ok=True)
            # What is still unwritten after a failure is of no use, and a full disk would fail again.
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self._raw.close()


class Writer(LineWriter):
    """Writes records, one a line, to a file that is whole or not there."""

    def add(self, conversation: Conversation) -> None:
        """Adds one record. Raises `RecordError` for what JSON cannot hold."""
        self.write(conversation.dump())


def _take_the_usual_mode(path: Path) -> None:
    # mkstemp makes files for their owner only; the process's mask decides for every other file.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _message(value: Any) -> Message:
    _check_keys(value, _MESSAGE_KEYS, "a message")
    if "role" not in value:
        raise RecordError(f"role missing; it is one of {', '.join(ROLES)}")
    loss = value.get("loss", True)
    if not isinstance(loss, bool):
        raise RecordError(f"loss must be true or false; it is {_shown(loss)}")
    role = _string(value["role"], "role")
    if "loss" in value and role != "assistant":
        raise RecordError(f"loss belongs to an assistant's message; this one is the {role:.60}'s")
    calls = value.get("tool_calls")
    return Message(
        role=role,
        content=_optional_string(value, "content"),
        loss=loss,
        tool_calls=()
        if calls is None
        else tuple(_object(call, "a call") for call in _list(calls, "tool_calls")),
        tool_call_id=_optional_string(value, "tool_call_id"),
        name=_optional_string(value, "name"),
    )


def _check_call(call: Mapping[str, Any], where: str) -> None:
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RecordError(
            f'{where} must be {{"id", "type": "function", "function": {{"name", "arguments"}}}}; it is {_shown(call)}'
        )
    if not isinstance(function.get("arguments", ""), str | Mapping):
        raise RecordError(
            f"{where}: arguments must be an object, or its JSON as text; they are {_shown(function['arguments'])}"
        )


def _check_keys(value: Any, allowed: tuple[str, ...], what: str) -> None:
    if not isinstance(value, dict):
        raise RecordError(f"{what} must be an object; it is {_shown(value)}")
    unknown = [key for key in value if key not in allowed]
    if unknown:
        raise RecordError(
            f"unknown {'key' if len(unknown) == 1 else 'keys'} {', '.join(map(repr, unknown[:5]))}; {what} may have "
            f"{', '.join(allowed)}"
        )


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise RecordError(f"{name} must be a list; it is {_shown(value)}")
    return value


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecordError(f"{what} must be an object; it is {_shown(value)}")
    return value


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{name} must be text; it is {_shown(value)}")
    return value


def _optional_string(value: Mapping[str, Any], name: str) -> str | None:
    found = value.get(name)
    return None if found is None else _string(found, name)


def _reward(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecordError(f"reward must be a number or null; it is {_shown(value)}")
    try:
        return float(value)
    except OverflowError as error:
        raise RecordError("reward must be a finite number; it is too large for one") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text:.40} is too large for a number")
    return number


def _dumped(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"holds what JSON cannot: {error}") from error
    return text


def _shown(value: Any) -> str:
    return f"{value!r:.60}"
