"""The ReAct forms that the harnesses of agent tasks read: whether an agent's turn has one, and the action in it.

The forms are AgentTuning's held-in tasks' (`step` ALFWorld, `click` WebShop, `choice` Mind2Web, `call` knowledge graph,
`act` operating system, `operation` database), read as leniently as their harness reads them; `click-inline` is our shops',
which take the action on the line of `Action:`, too.
Refuses to know what an action does.
"""

import re
from collections.abc import Callable, Mapping

from agentlm.tuning.data.filters.loops import Step
from agentlm.tuning.record import Conversation, Message

TASK_FORMS: Mapping[str, str] = {
    "alfworld": "step", "webshop": "click", "mind2web": "choice", "kg": "call", "os": "act", "db": "operation",
    # Ours, in evals/.
    "household": "step", "kitchen": "step", "town": "step", "shop": "click-inline",
    "library": "click-inline", "shell": "act", "desk": "act", "database": "operation",
}  # fmt: skip
"""Which form a task's agent answers in; other tasks are not held to any."""

_ACKNOWLEDGEMENT = re.compile(
    r"(?:ok\b|okay\b|sure\b|understood\b|i(?:'ve| have) understood\b|got it\b)", re.IGNORECASE
)
_ACKNOWLEDGEMENT_LENGTH = 120
"""Characters; AgentTuning's acknowledgements (`Ok.`, `I've understood your instruction, start please.`) have fewer."""

_STEP = re.compile(r"ACTION:[ \t]*(\S.*)")
_CLICK = re.compile(r"[Aa]ction: *\n *((?:search|click)\[.+?\])")
_CLICK_INLINE = re.compile(r"[Aa]ction: *(?:\n *)?((?:search|click)\[.+?\])")
_CHOICE = re.compile(r"Answer: *([A-F])\b")
_OPERATION_OF_CHOICE = re.compile(r"Action: *(CLICK|SELECT|TYPE)\b")
_FINAL = re.compile(r"(?:Find|Final) Answer: #\d+")
_CALL_LINE = re.compile(r"Action[^:\n]{0,200}:(.*)")
_CALL = re.compile(r"\b\w+\(.*\)")
_LONGEST_CALL = 4000
"""Characters of a line that are searched for a call."""
_ACT = re.compile(r"Act:\s*(.+)")
_BLOCK = re.compile(r"```(?:bash|calc)\n(.*?)\n```", re.DOTALL)
_OPERATION = re.compile(r"Action: *(.*)")
_SQL = re.compile(r"```sql\n(.*?)\n```", re.DOTALL)
_FINAL_ANSWER = re.compile(r"\nFinal Answer:(.*)")


def _step(text: str) -> str | None:
    found = _STEP.search(text)
    return found.group(1).strip().lower() if found else None


def _click(text: str) -> str | None:
    found = _CLICK.search(text)
    return found.group(1) if found else None


def _click_inline(text: str) -> str | None:
    found = _CLICK_INLINE.search(text)
    return found.group(1) if found else None


def _choice(text: str) -> str | None:
    answer, operation = _CHOICE.search(text), _OPERATION_OF_CHOICE.search(text)
    if answer is None or (operation is None and answer.group(1) != "A"):
        return None  # A is "none of the above" and needs no operation
    return f"{answer.group(1)} {operation.group(1) if operation else ''}".strip()


def _call(text: str) -> str | None:
    # What the model invents after `Observation:` is cut by the harness.
    text = text.partition("Observation:")[0]
    found = _FINAL.search(text)
    if found:
        return found.group(0)
    line = _CALL_LINE.search(text)
    call = _CALL.search(line.group(1)[:_LONGEST_CALL]) if line else None
    return call.group(0) if call else None


def _act(text: str) -> str | None:
    for line in reversed(_ACT.findall(text)):
        said = line.strip()
        lowered = said.lower()
        if lowered.startswith("finish"):
            return "finish"
        if lowered.startswith("answer"):
            return said if "(" in said and said.rfind(")") > said.find("(") else None
        if re.match(r"(bash|calc)\b", lowered):
            blocks = _BLOCK.findall(text)
            return "\n".join(blocks) if blocks else None
    return None


def _operation(text: str) -> str | None:
    found = _OPERATION.search(text)
    kind = found.group(1).strip().lower() if found else ""
    if kind == "operation":
        block = _SQL.search(text)
        return " ".join(block.group(1).split()) if block else None
    if kind == "answer":
        answer = _FINAL_ANSWER.search(text)
        return f"answer {answer.group(1).strip()}" if answer else None
    return None


FORMS: Mapping[str, Callable[[str], str | None]] = {
    "step": _step, "click": _click, "click-inline": _click_inline, "choice": _choice, "call": _call, "act": _act,
    "operation": _operation,
}  # fmt: skip
"""A form's name, and its reader: a turn's text to the action in it, or None where the harness would find none."""

EXPECTED: Mapping[str, str] = {
    "step": "`ACTION: ...`",
    "click": "`Action:` with search[...] or click[...] on the next line",
    "click-inline": "`Action:` with search[...] or click[...]",
    "choice": "`Answer: A` to `F`, and `Action: CLICK`, `SELECT` or `TYPE`",
    "call": "`Action: function(...)` or `Final Answer: #0`",
    "act": "`Act: bash` with a block of bash, `Act: finish` or `Act: answer(...)`",
    "operation": "`Action: Operation` with a block of sql, or `Action: Answer` with a line `Final Answer:`",
}
"""What each form asks for, in words."""


def fault(conversation: Conversation, task_forms: Mapping[str, str]) -> str | None:
    """The first trained turn in which the task's harness would find no action, in words; None if there is none.

    An acknowledgement of the instruction in the first turn is no fault.
    """
    form = form_of(conversation, task_forms)
    if form is None:
        return None
    first = next((i for i, message in enumerate(conversation.messages) if message.role == "assistant"), None)
    for index, message in enumerate(conversation.messages):
        if not message.trained or message.tool_calls or (index == first and _acknowledges(message)):
            continue
        if FORMS[form](message.content or "") is None:
            return f"messages[{index}] has no {EXPECTED[form]}: {message.content!r:.80}"
    return None


def steps(conversation: Conversation, task_forms: Mapping[str, str]) -> list[Step]:
    """The assistant's turns; the action of each where the task's form shows one, else the turn's whole text.

    Turns that are not trained count as well: a loop does not become sound by being left out of the loss.
    """
    form = form_of(conversation, task_forms)
    read = FORMS[form] if form else None
    made: list[Step] = []
    others: list[str] = []
    for message in conversation.messages:
        content = message.content or ""
        if message.role != "assistant":
            others.append(content)
            continue
        said = " ".join(content.split())
        if message.tool_calls:
            said += "".join(f" {call['function']}" for call in message.tool_calls)
        if made:
            made[-1] = made[-1]._replace(after="\n".join(others))
        made.append(Step(said, (read(content) if read else None) or said, "\n".join(others), ""))
        others = []
    if made:
        made[-1] = made[-1]._replace(after="\n".join(others))
    return made


def form_of(conversation: Conversation, task_forms: Mapping[str, str]) -> str | None:
    """The form of the conversation's task, upper and lower case aside."""
    return task_forms.get((conversation.task or "").lower())


def _acknowledges(message: Message) -> bool:
    text = (message.content or "").strip()
    return len(text) <= _ACKNOWLEDGEMENT_LENGTH and _ACKNOWLEDGEMENT.match(text) is not None
