"""Reads a published protocol's texts out of a local checkout of its sources. Refuses to execute and to fetch anything.

A file is taken only if its SHA-256 is the pinned one. Texts are string constants found by syntax tree; an f-string
becomes a format string with `{0}`, `{1}`, ... where the original puts its values.
"""

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from agentlm_evals.errors import ProtocolError
from agentlm_evals.protocols import AGENTTUNING, Protocol

COMMIT = "e33a45d"
"""Of THUDM/AgentTuning, 2023-10-31."""
TEMPLATE = "llama-2"
"""FastChat's, which the published harness rendered messages with."""
REPOSITORY = "https://github.com/THUDM/AgentTuning"


@dataclass(frozen=True, slots=True)
class Extract:
    """Where a text stands."""

    path: str
    """Of the file, within the repository."""
    name: str
    """A module's variable (`Q1`), or a function (`doc_to_text`, `Class.method`) whose strings are numbered."""
    index: int | None = None
    """Which of the function's strings, in the order of the source, from 0; None: the variable's value."""


Sources = Mapping[str, Extract]
"""A task's texts by its own keys."""


def load(task: str, directory: Path) -> Protocol:
    """The texts of a task's `agenttuning` protocol.

    Raises:
        ProtocolError: The checkout is not there, is another version, or the task's texts are not where they should be.
    """
    from agentlm_evals.tasks import entry

    built = entry(task).load()
    pins = built.source_files
    if not pins:
        # Nothing of this task was published: its form is our assumption, which every row says.
        return Protocol(AGENTTUNING, version="assumed by agentlm", template=TEMPLATE)
    if not directory.is_dir():
        raise ProtocolError(
            f"the protocol {AGENTTUNING} is read from {REPOSITORY} at {COMMIT}, and {directory} is not there: "
            "`agentlm data fetch agenttuning`, or --protocol-dir CHECKOUT"
        )
    for path, pinned in pins.items():
        _checked(directory / path, pinned)
    texts = {key: _text(directory / one.path, one) for key, one in built.sources.items()}
    return Protocol(AGENTTUNING, texts, f"AgentTuning {COMMIT}", TEMPLATE)


@lru_cache(maxsize=64)
def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProtocolError(
            f"{path} cannot be read: {error}; is --protocol-dir a checkout of {REPOSITORY}?"
        ) from error


def _checked(path: Path, pinned: str) -> None:
    # A checkout with other line ends is the same text.
    found = sha256(_read(path).replace(b"\r\n", b"\n")).hexdigest()
    if found != pinned:
        raise ProtocolError(
            f"{path} has the SHA-256 {found}, not {pinned}: check out {REPOSITORY} at {COMMIT}"
        )


def _text(path: Path, extract: Extract) -> Any:
    if path.suffix == ".json":
        return json.loads(_read(path))
    if path.suffix != ".py":
        return _read(path).decode()
    tree = ast.parse(_read(path))
    found = _find(tree, extract.name)
    if found is None:
        raise ProtocolError(f"{path} has no {extract.name}")
    if extract.index is None:
        try:
            return ast.literal_eval(found)
        except ValueError as error:
            raise ProtocolError(f"{path}: {extract.name} is not a constant") from error
    strings = list(_strings(found))
    if extract.index >= len(strings):
        raise ProtocolError(
            f"{path}: {extract.name} has {len(strings)} strings, and number {extract.index} is wanted"
        )
    return strings[extract.index]


def _find(tree: ast.AST, name: str) -> ast.AST | None:
    """A variable's value, or a function's or class's node; dots go into classes and functions."""
    first, _, rest = name.partition(".")
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == first:
            return _find(node, rest) if rest else node
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == first for t in node.targets
        ):
            return node.value
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == first:
            return node.value
    return None


def _strings(node: ast.AST) -> Iterator[str]:
    """Every string constant and f-string below a node in the order of the source; parts of an f-string are not counted."""
    if isinstance(node, ast.JoinedStr):
        yield _format(node)
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
        return
    for child in ast.iter_child_nodes(node):
        yield from _strings(child)


def _format(node: ast.JoinedStr) -> str:
    text, count = "", 0
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += str(part.value).replace("{", "{{").replace("}", "}}")
        else:
            text += f"{{{count}}}"
            count += 1
    return text


def strings_of(path: Path, name: str) -> list[str]:
    """Every numbered string of a function, for who writes a task's `sources`.

    Raises:
        ProtocolError: The file has no such function.
    """
    found = _find(ast.parse(_read(path)), name)
    if found is None:
        raise ProtocolError(f"{path} has no {name}")
    return list(_strings(found))
