"""How a turn of the operating system task is read, and how output is shown. Refuses to know sandboxes."""

import re
from dataclasses import dataclass

MOST = 800
KEPT = 780
TRUNCATED = "\n[truncated because the output is too long]"
OUTPUT = "The output of the OS:\n\n"
EMPTY = "The output of the OS is empty."

_ACT = re.compile(r"Act:\s*(.+)")
_BLOCK = re.compile(r"```bash\n(.*?)\n```", re.DOTALL)
_LINES = re.compile(r"Act:\s*answer\s*\((.*)\)", re.DOTALL | re.IGNORECASE)
_LENIENT_BLOCK = re.compile(r"```(?:bash|sh|shell)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn asks for."""

    action: str = ""
    """`bash`, `answer`, `finish`; empty if there is none."""
    content: str | None = None
    """The commands, or the answer."""


def read_turn(text: str, *, published: bool) -> Turn:
    """The last `Act:` line that names an action decides; all blocks of bash are one command.

    The published rules want blocks of `bash` by name, run nothing where there is none, and have no answer of several lines.
    Ours take any shell's block, call it no action where there is none, and read an answer to its last bracket.
    """
    for found in reversed(list(_ACT.finditer(text))):
        line = found[1]
        lowered = line.lower()
        if lowered.startswith("bash"):
            blocks = (_BLOCK if published else _LENIENT_BLOCK).findall(text)
            return Turn("bash", "\n\n".join(blocks)) if blocks or published else Turn()
        if lowered.startswith("finish"):
            return Turn("finish")
        if lowered.startswith("answer"):
            content = line[len("answer") :].strip()
            start, end = content.find("("), content.rfind(")")
            if start >= 0 and end >= 0:
                return Turn("answer", content[start + 1 : end])
            if not published and (lines := _LINES.match(text, found.start())):
                return Turn("answer", lines[1])
    return Turn()


def show(output: str) -> str:
    """A command's output as the model sees it."""
    if not output:
        return EMPTY
    return OUTPUT + (output if len(output) <= MOST else output[:KEPT] + TRUNCATED)
