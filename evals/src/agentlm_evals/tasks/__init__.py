"""The registry: AgentTuning's sixteen tasks by name and group, built or not. Refuses to know how they work.

A task is there when its folder exports `TASK`; nobody has to be told.
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from agentlm_evals.errors import UnknownTaskError
from agentlm_evals.task import Group, Task


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the paper's table."""

    name: str
    title: str
    group: Group
    size: int | None
    """Samples of the official set, where known."""
    needs: str
    """What it stands on, in a few words; for `eval list`."""

    @property
    def folder(self) -> str:
        """The task's package below this one."""
        return self.name.replace("-", "_")

    @property
    def is_built(self) -> bool:
        """Whether this wheel holds the task."""
        return find_spec(f"{__name__}.{self.folder}") is not None

    def load(self) -> Task:
        """The task itself.

        Raises:
            UnknownTaskError: This wheel does not hold it.
        """
        if not self.is_built:
            raise UnknownTaskError(
                f"task {self.name} ({self.title}) is not built yet; `agentlm eval list` shows those that are"
            )
        task: Task = import_module(f"{__name__}.{self.folder}").TASK
        return task


ENTRIES = (
    Entry("alfworld", "ALFWorld", Group.HELD_IN, 50, "TextWorld and the ALFWorld games"),
    Entry("webshop", "WebShop", Group.HELD_IN, 200, "the product catalogue and a search index"),
    Entry(
        "mind2web", "Mind2Web", Group.HELD_IN, 1173, "the cross-domain test set, which may not be passed on"
    ),
    Entry("knowledge-graph", "KG", Group.HELD_IN, 150, "Freebase behind SPARQL"),
    Entry("os", "OS", Group.HELD_IN, 144, "Linux namespaces and a small Debian root file system"),
    Entry("database", "Database", Group.HELD_IN, 300, "MariaDB, or SQLite by choice"),
    Entry("science-world", "SciWorld", Group.HELD_OUT, 270, "Java and the ScienceWorld simulator"),
    Entry("miniwob", "MiniWoB++", Group.HELD_OUT, 460, "Chromium and the MiniWoB++ pages"),
    Entry("webarena", "WebArena", Group.HELD_OUT, 812, "the five WebArena sites"),
    Entry("hotpotqa", "HotpotQA", Group.HELD_OUT, 300, "a search index over the questions' paragraphs"),
    Entry("rewoo", "ReWOO", Group.HELD_OUT, 350, "local tools: document store, calculator"),
    Entry("card-game", "DCG", Group.HELD_OUT, 200, "our own engine of the rules"),
    Entry("mmlu", "MMLU", Group.GENERAL, 14042, "log-probabilities of the prompt from the server"),
    Entry("humaneval", "HumanEval", Group.GENERAL, 164, "a sandbox for the model's programs"),
    Entry("gsm8k", "GSM8K", Group.GENERAL, 1319, "nothing"),
    Entry("mt-bench", "MT-Bench", Group.GENERAL, 80, "a judge behind an OpenAI-compatible API"),
)
"""In the paper's order."""

GROUPS = {group.value: tuple(entry for entry in ENTRIES if entry.group is group) for group in Group}
"""The rows of each table."""


@cache
def _by_name() -> dict[str, Entry]:
    return {entry.name: entry for entry in ENTRIES}


def entry(name: str) -> Entry:
    """The row of this name; `_` and `-` are one.

    Raises:
        UnknownTaskError: There is none.
    """
    found = _by_name().get(name.lower().replace("_", "-"))
    if found is None:
        raise UnknownTaskError(
            f"no task {name!r}; there are {', '.join(_by_name())}, and the groups {', '.join(GROUPS)} and all"
        )
    return found


def resolve(names: list[str]) -> list[Entry]:
    """Tasks and groups to tasks, each once, in the order given. A group stands for its tasks that are built.

    Raises:
        UnknownTaskError: A name is neither.
    """
    found: dict[str, Entry] = {}
    for name in names:
        if name == "all":
            chosen = [row for row in ENTRIES if row.is_built]
        elif name in GROUPS:
            chosen = [row for row in GROUPS[name] if row.is_built]
        else:
            chosen = [entry(name)]
        found.update((row.name, row) for row in chosen)
    return list(found.values())
