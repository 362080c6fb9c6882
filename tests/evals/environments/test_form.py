"""Replies are read as leniently as AgentBench's old harness reads them, and no more."""

import pytest

from agentlm_evals.environments.form import ACT, CLICK, OPERATION, STEP
from agentlm_evals.errors import FormatError


@pytest.mark.parametrize(
    ("form", "reply", "action"),
    [
        (STEP, "THOUGHT: I go.\n ACTION: Go to shelf 1\n", "go to shelf 1"),
        (STEP, "ACTION: look", "look"),
        (STEP, "Open drawer 2\nand more", "open drawer 2"),
        (STEP, "", ""),
        (CLICK, "Thought:\nI look.\n\nAction:\nsearch[red shirt]", "search[red shirt]"),
        (CLICK, "action: click[Buy Now] and click[B12]", "click[Buy Now]"),
        (ACT, "Think: x\n\nAct: bash\n\n```bash\nls /\n```", "bash: ls /"),
        (ACT, "Act: bash\n```bash\ncd /a\n```\n```bash\nls\n```", "bash: cd /a\nls"),
        (ACT, "Act: bash\n```bash\nls\n```\nAct: answer(3 (three))", "answer: 3 (three)"),
        (ACT, "Think: done\nAct: Finish", "finish"),
        (ACT, "Act: calc\n\n```calc\n3 + 4\n```", "calc: 3 + 4"),
        (OPERATION, "I look.\nAction: Operation\n```sql\nSELECT 1\nFROM t\n```", "sql: SELECT 1 FROM t"),
        (OPERATION, 'Action: Answer\nFinal Answer: ["A", 3]', "answer: A|3"),
        (OPERATION, "Action: Answer\nFinal Answer: __import__('os')", "answer: __import__('os')"),
    ],
)
def test_reading(form, reply, action):
    assert form.read(reply) == action


@pytest.mark.parametrize(
    ("form", "reply", "why"),
    [
        (CLICK, "I click on it.", "no action of the form"),
        (ACT, "AAAAA", "no line `Act: bash`"),
        (ACT, "Act: bash\nls", "no block of bash"),
        (ACT, "Act: answer 3", "not in brackets"),
        (OPERATION, "SELECT 1", "neither `Action: Operation` nor `Action: Answer`"),
        (OPERATION, "Action: Operation\nSELECT 1", "no block of sql"),
        (OPERATION, "Action: Answer\n3", "no line `Final Answer:`"),
    ],
)
def test_refusing(form, reply, why):
    with pytest.raises(FormatError, match=why):
        form.read(reply)


@pytest.mark.parametrize(
    ("form", "action"),
    [(STEP, "go to bed 1"), (CLICK, "click[b1]"), (ACT, "bash: ls | wc -l"), (ACT, "answer: x"), (ACT, "finish"),
     (OPERATION, "sql: SELECT 1"), (OPERATION, "answer: a|b")],
)  # fmt: skip
def test_what_is_written_is_read_back(form, action):
    assert form.read(form.write("I think.", action)) == action
