"""The published dialogue is the original's to the byte: SHA-256 of its prompts, made once by running it with stubs."""

import asyncio
import os
from hashlib import sha256
from pathlib import Path

import pytest

from agentlm_evals.harness.episode import Episode
from agentlm_evals.models.scripted import ScriptedModel
from agentlm_evals.models.template import llama2
from agentlm_evals.protocols.source import load
from agentlm_evals.sandbox.limits import Layout
from agentlm_evals.task import Sample, Setting, Source, resolve_options, scripted
from agentlm_evals.tasks import os as os_task
from agentlm_evals.tasks.os.problem import Problem, Script
from agentlm_evals.tasks.os.system import Verdict

REPLIES = [
    "Think: I look.\n\nAct: bash\n\n```bash\nls /docs\n```",
    "Think: I look again.\n\nAct: bash\n\n```bash\ntrue\n```",
    "Think: Long.\n\nAct: bash\n\n```bash\nseq 1000\n```",
    "Act: answer(2)",
]
OUTPUTS = ["list.txt\nplan.md\n", "", "x" * 900]
PROMPTS = [
    "5819d6bdb5806e93e5b3cc34673d435b78efe9e7ee7d6e9795c8a388833bceaa",
    "8f5ddf2ff27ab787a22d493b34b473a78529685a8914d0405b262a5b05f822d5",
    "c21a72bab0919ab6b1426d9d4e4d6d89734ec6acfe8dea2ab8396d38b465a83d",
    "5966a94984d2fc6e8903e42185b75d5c6f082f5ac08b940ca4b6b1efbeee1a18",
]
"""By AgentTuning e33a45d with FastChat 0.2.31, its container and its client's request stubbed."""


class StubbedSystem:
    """Commands that were run, and what the original was told of them."""

    caps = "stub"
    commands: list[str] = []  # noqa: RUF012  # one test's

    def __init__(self, layout, problem) -> None:
        self.commands.clear()

    def run(self, command: str) -> str:
        self.commands.append(command)
        return OUTPUTS[len(self.commands) - 1]

    def judge(self, answer, checkers) -> Verdict:
        return Verdict(answer == "2")

    def close(self) -> None:
        pass


def test_the_published_dialogue_is_the_originals_to_the_byte(monkeypatch):
    if not (directory := os.environ.get("AGENTLM_PROTOCOLS")):
        pytest.skip("needs a checkout of THUDM/AgentTuning: $AGENTLM_PROTOCOLS names no directory")
    monkeypatch.setattr(os_task, "System", StubbedSystem)
    monkeypatch.setattr(os_task.image, "describe", lambda root: "stub")
    protocol = load("os", Path(directory))
    problem = Problem("How many files are in /docs?\n", (), "", None, (Script("bash", "true"),), None)
    episode = Episode(
        Sample("1", problem.to_json()),
        Setting(Source(), protocol, resolve_options(os_task.TASK, {})),
        ScriptedModel(scripted(*REPLIES)),
        os_task.TASK.decoding(protocol.name),
        environment=Layout(root="/"),
    )
    answer = asyncio.run(os_task.TASK.solve(episode))
    assert protocol.template == "llama-2"
    assert [sha256(llama2(call.prompt).encode()).hexdigest() for call in episode.calls] == PROMPTS
    assert StubbedSystem.commands == ["ls /docs", "true", "seq 1000"]
    assert (answer["end"], answer["answer"], answer["passed"]) == ("answer", "2", True)
