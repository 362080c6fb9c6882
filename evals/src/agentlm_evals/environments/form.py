"""The written forms of a reply: a thought and an action in, text out, and back. Refuses to know which actions make sense.

They are the ReAct forms of AgentTuning's held-in tasks (ALFWorld, WebShop, operating system, DBBench), read as leniently
as their harness reads them. An action is one line of plain words; the two forms with blocks of code mark its kind by
a first word and a colon: `bash: ls`, `answer: 3`, `sql: SELECT ...`.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from agentlm_evals.errors import FormatError


@dataclass(frozen=True, slots=True)
class Form:
    """One form: how it is written and how it is read."""

    name: str
    write: Callable[[str, str], str]
    """(thought, action) to a reply."""
    read: Callable[[str], str]
    """A reply to its action; `FormatError` where it holds none."""


# --- ALFWorld's ------------------------------------------------------------------------------------------------------
def _write_step(thought: str, action: str) -> str:
    return f"THOUGHT: {thought}\nACTION: {action}"


def _read_step(reply: str) -> str:
    """The words after `ACTION:` in lower case; a reply without it counts as the action itself, as in the old harness."""
    found = re.search(r"ACTION:(.*)", reply)
    text = (found.group(1) if found else reply).strip().lower()
    return text.splitlines()[0].strip() if text else ""


STEP = Form("THOUGHT and ACTION", _write_step, _read_step)


# --- WebShop's -------------------------------------------------------------------------------------------------------
_CLICK = re.compile(r"[Aa]ction: *(?:\n *)?((?:search|click)\[.+?\])")


def _write_click(thought: str, action: str) -> str:
    return f"Thought:\n{thought}\n\nAction:\n{action}"


def _read_click(reply: str) -> str:
    found = _CLICK.search(reply)
    if not found:
        raise FormatError("the reply has no action of the form search[...] or click[...]")
    return found.group(1)


CLICK = Form("search and click", _write_click, _read_click)


# --- the operating system's ------------------------------------------------------------------------------------------
_ACT = re.compile(r"Act:\s*(.+)")


def _write_act(thought: str, action: str) -> str:
    kind, _, body = action.partition(": ")
    if kind == "finish":
        return f"Think: {thought}\n\nAct: finish"
    if kind == "answer":
        return f"Think: {thought}\n\nAct: answer({body})"
    return f"Think: {thought}\n\nAct: {kind}\n\n```{kind}\n{body}\n```"


def _read_act(reply: str) -> str:
    """The last line that names an action decides, as in the old harness."""
    for line in reversed(_ACT.findall(reply)):
        text = line.strip()
        lowered = text.lower()
        if lowered.startswith("finish"):
            return "finish"
        if lowered.startswith("answer"):
            start, end = text.find("("), text.rfind(")")
            if start < 0 or end < start:
                raise FormatError(f"the answer in {text!r} is not in brackets")
            return f"answer: {text[start + 1 : end].strip()}"
        if found := re.match(r"(bash|calc)\b", lowered):
            kind = found.group(1)
            blocks = re.findall(rf"```{kind}\n(.*?)\n```", reply, re.DOTALL)
            if not blocks:
                raise FormatError(f"the reply says `Act: {kind}` and has no block of {kind}")
            return f"{kind}: " + "\n".join(block.strip() for block in blocks)
    raise FormatError("the reply has no line `Act: bash`, `Act: finish` or `Act: answer(...)`")


ACT = Form("Think and Act", _write_act, _read_act)


# --- DBBench's -------------------------------------------------------------------------------------------------------
def _write_operation(thought: str, action: str) -> str:
    kind, _, body = action.partition(": ")
    if kind == "sql":
        return f"{thought}\nAction: Operation\n```sql\n{body}\n```"
    return f"{thought}\nAction: Answer\nFinal Answer: {json.dumps(body.split('|') if body else [])}"


def _read_operation(reply: str) -> str:
    """`sql: ...` with line breaks as spaces, or `answer: a|b`. The answer is read as JSON and never evaluated as code."""
    found = re.search(r"Action: *(.*)", reply)
    kind = found.group(1).rstrip(" ").lower() if found else ""
    if kind == "operation":
        block = re.search(r"```sql\n(.*?)\n```", reply, re.DOTALL)
        if not block:
            raise FormatError("the reply says `Action: Operation` and has no block of sql")
        return "sql: " + " ".join(block.group(1).split())
    if kind == "answer":
        answer = re.search(r"\nFinal Answer:(.*)", reply)
        if not answer:
            raise FormatError("the reply says `Action: Answer` and has no line `Final Answer:`")
        return "answer: " + "|".join(_values(answer.group(1).strip()))
    raise FormatError("the reply has neither `Action: Operation` nor `Action: Answer`")


def _values(text: str) -> list[str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return [text]
    return [str(part) for part in value] if isinstance(value, list) else [str(value)]


OPERATION = Form("Operation and Answer", _write_operation, _read_operation)
