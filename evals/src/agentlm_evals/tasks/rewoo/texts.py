"""What planner, solver and the tested model as a tool are told: our wording, or the published one. Knows no tools' work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SYSTEM = "You are a helpful, respectful and honest assistant."
TOOLS = {
    "Google": "Searches for short facts. Input: a search query.",
    "Wikipedia": "Searches an encyclopedia for the article about a person, place, work or event, and gives its "
    "first paragraph. Input: the subject.",
    "WolframAlpha": "Solves equations and works out expressions with unknowns. Input: an equation or a function.",
    "Calculator": "Works out arithmetic. Input: an expression of numbers.",
    "LLM": "A language model like yourself, with general knowledge and common sense. Input: any instruction.",
    "SearchSOTU": "Searches the State of the Union address for the passage that matches best. Input: a search query.",
}
_PLAN = (
    "Make a plan that solves the task step by step. Each step is one line that begins with Plan: and says what to find out "
    "and why, and one line that names a tool and its input and stores what it gives in #E1, #E2 and so on. Later inputs "
    "may hold earlier results by these names. Do not solve the task itself.\n\n"
)
_SHOT = (
    "For example:\n"
    "Task: How many years older is the Hedda Bridge than the Orlow Tunnel?\n"
    "Plan: Find out when the Hedda Bridge was built.\n"
    "#E1 = {search}[When was the Hedda Bridge built?]\n"
    "Plan: Find out when the Orlow Tunnel was built.\n"
    "#E2 = {search}[When was the Orlow Tunnel built?]\n"
    "Plan: Take one year from the other.\n"
    "#E3 = {count}\n\n"
)
_SOLVE = "Solve the task. Below it are a plan's steps and what was found; some may be wrong or beside the point.\n\n"
_ANSWER = "\nNow give the answer to the task, with no other words.\n\n"
NOTHING = "No evidence found"


@dataclass(frozen=True, slots=True)
class Texts:
    """What a protocol says."""

    system: str
    planner_prefix: str
    tools_heading: str
    tool_line: str
    tools: Mapping[str, str]
    shots: Mapping[str, str]
    """By data set; the empty name is for all others."""
    planner_suffix: str
    solver_prefix: str
    evidence: str
    solver_suffix: str
    llm: str
    nothing: str

    def plan(self, question: str, kind: str, toolset: Sequence[str]) -> str:
        """The planner's request."""
        lines = "".join(self.tool_line.format(name, self.tools[name]) for name in toolset)
        shots = self.shots.get(kind, self.shots.get("", ""))
        return f"{self.planner_prefix}{self.tools_heading}{lines}\n{shots}{self.planner_suffix}{question}\n"

    def solve(self, question: str, steps: Sequence[tuple[str, str]]) -> str:
        """The solver's request; `steps` are plans with their evidence."""
        log = "".join(self.evidence.format(plan, evidence) for plan, evidence in steps)
        return f"{self.solver_prefix}{question}\n{log}{self.solver_suffix}{question}\n"


def _shot(toolset: Sequence[str]) -> str:
    search = next((name for name in ("Wikipedia", "Google", "SearchSOTU") if name in toolset), "LLM")
    count = "Calculator[#E2 - #E1]" if "Calculator" in toolset else "LLM[What is #E2 minus #E1?]"
    return _SHOT.format(search=search, count=count)


def ours(toolset: Sequence[str]) -> Texts:
    """Our wording, with an example that uses tools of the set only."""
    return Texts(
        SYSTEM, _PLAN, "The tools:\n", "{0}[input]: {1}\n", TOOLS, {"": _shot(toolset)}, "Now your task.\n\nTask: ",
        _SOLVE, "{0}\nEvidence:\n{1}\n", _ANSWER, "Answer shortly, with no other words.\n\n{0}", NOTHING,
    )  # fmt: skip


def published(texts: Mapping[str, Any]) -> Texts:
    """The published wording."""
    tools = {name: str(texts[name]) for name in TOOLS}
    tools["SearchSOTU"] = tools["SearchSOTU"].format(texts["SearchSOTU.document"])
    shots = {"": texts["shots"], "hotpot_qa": texts["shots.hotpot_qa"], "trivia_qa": texts["shots.trivia_qa"]}
    return Texts(
        texts["system"], texts["planner.prefix"], texts["tools"], texts["tool"], tools, shots, texts["planner.suffix"],
        texts["solver.prefix"], texts["evidence"], texts["solver.suffix"], texts["llm"], texts["none"],
    )  # fmt: skip
