"""The published dialogue is the original's to the byte: SHA-256 of its prompts, made once by running it with stubs."""

import asyncio
import os
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentlm_evals.harness.episode import Episode
from agentlm_evals.models.scripted import ScriptedModel
from agentlm_evals.models.template import llama2
from agentlm_evals.protocols.source import load
from agentlm_evals.task import Sample, Setting, Source, resolve_options, scripted
from agentlm_evals.tasks.database import TASK

ITEM = {
    "description": "How many boats are there?",
    "add_description": "The name of this table is boats, and the headers of this table are name,length.",
    "type": ["counting"],
    "label": ["2"],
    "table": {
        "table_name": "boats",
        "table_info": {
            "columns": [{"name": "name", "type": "TEXT"}, {"name": "length", "type": "TEXT"}],
            "rows": [["Gull", "12"], ["Tern", "9"]],
        },
    },
}
REPLIES = [
    "I count.\nAction: Operation\n```sql\nSELECT COUNT(*)\nFROM boats\n```",
    "Hm.\nAction: Operation\n```sql\nSELECT nope FROM boats\n```",
    'So it is two.\nAction: Answer\nFinal Answer: ["2"]',
]
RESULTS = ["[(2,)]", "1054 (42S22): Unknown column 'nope' in 'field list'"]
PROMPTS = [
    "039f95bb3db617a7ff75f7d631ca2a0c204c3c4ba7814d81bf7631985095ae38",
    "042fb2532861b48a496d589e7f1321e1c36f522ccbbc31d53ebebf6396106664",
    "32525c0f70c50254b9c886582005a2ac7e1a550fb0c1832b0969f8610223ac37",
]
"""By AgentTuning e33a45d with FastChat 0.2.31, its container and its client's request stubbed."""


class Engines:
    """Statements that were run, and what the original was told of them."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    @asynccontextmanager
    async def session(self, table):
        yield SimpleNamespace(version=lambda: "stub"), self

    def execute(self, sql: str) -> str:
        self.statements.append(sql)
        return RESULTS[len(self.statements) - 1]


def test_the_published_dialogue_is_the_originals_to_the_byte():
    if not (directory := os.environ.get("AGENTLM_PROTOCOLS")):
        pytest.skip("needs a checkout of THUDM/AgentTuning: $AGENTLM_PROTOCOLS names no directory")
    protocol = load("database", Path(directory))
    engines = Engines()
    episode = Episode(
        Sample("1", ITEM, ["2"], "SELECT"),
        Setting(Source(), protocol, resolve_options(TASK, {})),
        ScriptedModel(scripted(*REPLIES)),
        TASK.decoding(protocol.name),
        environment=engines,
    )
    answer = asyncio.run(TASK.solve(episode))
    assert protocol.template == "llama-2"
    assert [sha256(llama2(call.prompt).encode()).hexdigest() for call in episode.calls] == PROMPTS
    assert engines.statements == ["SELECT COUNT(*) FROM boats", "SELECT nope FROM boats"]
    assert answer == {"end": "answer", "answer": ' ["2"]', "hash": None}
