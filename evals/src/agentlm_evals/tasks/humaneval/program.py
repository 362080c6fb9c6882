"""From a reply to a program, and the program's run in a sandbox. Refuses to know models and scores.

The program is a stranger's: it runs without a network and without capabilities, in memory of its own. What it prints and
how it exits prove nothing. Only the runner can say that the tests were reached and held.
"""

import ast
import re
import secrets
from dataclasses import dataclass
from typing import Any

from agentlm_evals.sandbox.box import MemoryCapReached, Sandbox
from agentlm_evals.sandbox.host import host_layout, interpreter
from agentlm_evals.sandbox.limits import MIB, Limits

LIMITS = Limits(memory=512 * MIB, disk=16 * MIB, files=1000, processes=16, cpu_seconds=60)

_BLOCK = re.compile(r"```(?:python|py|python3)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_RUNNER = """
import os, sys
def run():
    ours = os.dup(1)
    word = os.read(0, 64)
    text = b""
    while part := os.read(0, 1 << 16):
        text += part
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(2, 1)
    exec(compile(text.decode(), "program.py", "exec"), {"__name__": "__main__"})
    os.dup2(nowhere, 1), os.dup2(nowhere, 2)  # what is still in its buffers must not follow the word
    os.write(ours, word)
run()
"""
"""Reads a secret word and a program; gives the word back once the program has run to its end."""
_WORD_BYTES = 32


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a program."""

    passed: bool
    why: str
    """`passed`, `failed`, `timed out`, `out of memory`."""
    output: str
    """The end of what it printed: mostly a traceback."""

    def to_json(self) -> dict[str, Any]:
        """For the answer."""
        return {"passed": self.passed, "why": self.why, "output": self.output}


def code_of(reply: str, entry_point: str) -> str:
    """The code in a chat reply: the first block that defines the function, else the first block, else all of it."""
    blocks = _BLOCK.findall(reply)
    for block in blocks:
        if re.search(rf"^\s*(?:async\s+)?def\s+{re.escape(entry_point)}\b", block, re.MULTILINE):
            return str(block)
    return str(blocks[0]) if blocks else reply


def program_of(prompt: str, code: str, entry_point: str) -> str:
    """The problem's text and the model's code as one program.

    Code that defines the function follows the problem, whose imports and helpers it may use; other code is taken as the
    function's body, indented if it is not.
    """
    if re.search(rf"^(?:async\s+)?def\s+{re.escape(entry_point)}\b", code, re.MULTILINE):
        return f"{prompt}\n\n{code}\n"
    first = next((line for line in code.splitlines() if line.strip()), "")
    if first and not first[0].isspace():
        code = "".join(f"    {line}" if line.strip() else line for line in code.splitlines(keepends=True))
    return f"{prompt}{code}\n"


def is_python(text: str) -> bool:
    """Whether it is a program at all."""
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def check(program: str, test: str, entry_point: str, seconds: float) -> Run:
    """Runs the program and the problem's tests on it. Blocking."""
    word = secrets.token_hex(_WORD_BYTES).encode()[:64]
    text = f"{program}\n{test}\ncheck({entry_point})\n"
    try:
        with Sandbox(host_layout(), LIMITS) as sandbox:
            done = sandbox.run(
                [interpreter(), "-I", "-c", _RUNNER],
                timeout=seconds,
                stdin=word + text.encode(errors="replace"),
                cwd="/tmp",
            )
    except MemoryCapReached as error:
        return Run(False, "out of memory", str(error))
    # Standard error is in the output too; the word is the last thing that a program which passed wrote.
    passed = done.status == 0 and done.output.endswith(word)
    output = done.output.replace(word, b"")[-600:].decode(errors="replace")
    why = "passed" if passed else "timed out" if done.timed_out else "failed"
    return Run(passed, why, "" if passed else output)
