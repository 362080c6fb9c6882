"""DBBench's rules: the hash of a table, how a reply is read and how an answer is compared. Refuses to know engines.

A model's text is never evaluated: lists are read as literals.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

FEEDBACK = 800
"""Characters of a result that the model is shown."""
TRUNCATED = "[TRUNCATED]"
MOST_ANSWER = 100_000
"""Characters of a final answer that are read as a list."""

_ACTION = re.compile(r"Action: (.*?)\n")
_SQL = re.compile(r"```sql\n([\s\S]*?)\n```")
_ANSWER = re.compile(r"\nFinal Answer:(.*)")
_LENIENT_ACTION = re.compile(r"Action:[ \t]*(\w+)")
_LENIENT_SQL = re.compile(r"```(?:sql|SQL|mysql)?[ \t]*\n([\s\S]*?)\n?[ \t]*```")
_LENIENT_ANSWER = re.compile(r"Final Answer:(.*)")


def table_hash(rows: Iterable[Sequence[Any]]) -> str:
    """The hash that DBBench grades INSERT and UPDATE by, 32 hex digits.

    Each row: MD5 of its values joined by commas, NULLs left out, of which 5 digits count; these sorted, joined by commas,
    and hashed again. A table without rows has no hash in MySQL, and the empty string's here.
    """
    digests = sorted(
        hashlib.md5(
            ",".join(str(value) for value in row if value is not None).encode(), usedforsecurity=False
        ).hexdigest()[:5]
        for row in rows
    )
    return hashlib.md5(",".join(digests).encode(), usedforsecurity=False).hexdigest()


def hash_text(digest: str) -> str:
    """A hash as the data write it: the text of a fetched row."""
    return str([(digest,)])


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model's turn asks for; all empty where it has not the form."""

    action: str = ""
    """`Operation` or `Answer`."""
    sql: str | None = None
    answer: str | None = None


def read_reply(text: str, *, published: bool) -> Reply:
    """A turn: the first `Action:` line, the first SQL block, the text after `Final Answer:`.

    The published rules want every line break and letter in its place, and take an answer whatever the action says; ours let
    spaces and capitals be.
    """
    action = (_ACTION if published else _LENIENT_ACTION).search(text)
    if action is None and not published:
        return Reply()
    kind = "" if action is None else action[1] if published else action[1].capitalize()
    if kind == "Operation":
        sql = (_SQL if published else _LENIENT_SQL).search(text)
        return Reply(kind, sql=sql[1].strip().replace("\n", " ") if sql else None)
    answer = (_ANSWER if published else _LENIENT_ANSWER).search(text)
    return Reply(kind, answer=answer[1] if answer else None)


def _literal(text: str) -> Any:
    """A Python or JSON literal; ValueError for anything else."""
    if len(text) > MOST_ANSWER:
        raise ValueError("too long")
    try:
        return ast.literal_eval(text)
    except ValueError:
        try:
            return json.loads(text)  # null, true, false
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from error


def read_list(text: str, *, published: bool) -> list[Any]:
    """A final answer as a list; ours is one of strings. What is no list counts as one element.

    The published rule makes a list of whatever the text evaluates to, so that a quoted string falls into its letters and
    numbers stay numbers.
    """
    raw = text.strip()
    try:
        value = _literal(raw)
    except ValueError:
        return [text if published else raw]
    if published:
        return list(value) if isinstance(value, list | tuple | set | dict | str | bytes) else [text]
    return (
        [str(element) for element in value] if isinstance(value, list | tuple | set | dict) else [str(value)]
    )


def same(given: Sequence[Any], label: Sequence[str]) -> bool:
    """Whether an answer is the label: as numbers or texts if each is one element, else as sets."""
    try:
        if len(given) == 1 and len(label) == 1:
            try:
                return float(given[0]) == float(label[0])
            except (TypeError, ValueError, OverflowError):
                return bool(given[0] == label[0])
        return set(given) == set(label)
    except TypeError:  # a list within a list has no place in a set
        return False


def feedback(result: str) -> str:
    """A result as the model sees it."""
    return result if len(result) <= FEEDBACK else result[:FEEDBACK] + TRUNCATED
