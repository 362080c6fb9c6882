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

    The published rules want blocks of `bash` by name, and run nothing where there is none; ours take any shell's block and
    call it no action where there is none.
    """
    for line in reversed(_ACT.findall(text)):
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
    return Turn()


def show(output: str) -> str:
    """A command's output as the model sees it."""
    if not output:
        return EMPTY
    return OUTPUT + (output if len(output) <= MOST else output[:KEPT] + TRUNCATED)
