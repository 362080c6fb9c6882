"""Tasks for the tiny shell: count, find, read, create, move, delete. Refuses to know how commands work."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from agentlm_evals.environments.form import ACT
from agentlm_evals.environments.shell import Tree, run
from agentlm_evals.environments.world import Advice, Game, World

INSTRUCTION = (
    "You work in a shell. Each turn reply with Think: and Act:. Act is bash with one command in a block of bash, or "
    "answer(...) when the question is answered, or finish when the work is done."
)

FOLDERS = ("docs", "logs", "data", "work", "notes", "home", "old", "tmp", "src", "books")
NAMES = (
    "list",
    "plan",
    "letter",
    "report",
    "story",
    "poem",
    "menu",
    "diary",
    "map",
    "table",
    "index",
    "draft",
)
ENDINGS = ("txt", "log", "csv", "md")
WORDS = (
    "sun", "moon", "tree", "river", "stone", "bird", "fish", "wind", "rain", "fire", "snow", "star", "road", "hill", "sea",
    "boat",
)  # fmt: skip
_MOST_SHOWN = 780


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked and how it is solved. In texts, `{out}` is the output of the step before."""

    question: str
    steps: tuple[tuple[str, str], ...]
    """(thought, command)."""
    last: str
    """`answer` (the last output) or `finish` (the tree is judged)."""


@dataclass(slots=True)
class Shell(Game):
    """One task in one tree."""

    tree: Tree
    plan: Plan
    start: Tree = field(init=False)
    outputs: list[str] = field(default_factory=list)
    """Of the plan's steps that were taken in order."""
    opening: str = ""
    reward: float = 0.0
    done: bool = False

    def __post_init__(self) -> None:
        self.start = self.tree.copy()
        self.opening = self.plan.question

    def act(self, action: str) -> str:
        """See `Game.act`."""
        kind, _, body = action.partition(": ")
        if kind != "bash":
            self.done = True
            self.reward = float(self._is_right(kind, body))
            return ""
        expected = self._next()
        output = run(self.tree, body)
        if expected and body == expected[1]:
            self.outputs.append(output)
        if len(output) > _MOST_SHOWN:
            output = output[:_MOST_SHOWN] + "\n[truncated because the output is too long]"
        return f"The output of the OS:\n\n{output}" if output else "The output of the OS is empty."

    def _is_right(self, kind: str, body: str) -> bool:
        solved = self.start.copy()
        output = ""
        for _, command in self.plan.steps:
            output = run(solved, command.replace("{out}", output))
        if self.plan.last == "answer":
            return kind == "answer" and body == output
        return kind == "finish" and (self.tree.files, self.tree.folders) == (solved.files, solved.folders)

    def _next(self) -> tuple[str, str] | None:
        """The plan's next step with what is known by now."""
        if len(self.outputs) == len(self.plan.steps):
            return None
        out = self.outputs[-1] if self.outputs else ""
        thought, command = self.plan.steps[len(self.outputs)]
        return thought.replace("{out}", out), command.replace("{out}", out)

    def advise(self) -> Advice:
        """See `Game.advise`."""
        if step := self._next():
            return Advice(step[0], f"bash: {step[1]}")
        if self.plan.last == "answer":
            return Advice(f"The answer is {self.outputs[-1]}.", f"answer: {self.outputs[-1]}")
        return Advice("The work is done.", "finish")

    def slips(self) -> Sequence[str]:
        """See `Game.slips`."""
        return ["bash: ls", "bash: pwd", "bash: list", f"bash: cat {self.start.children('/')[0]}"]


def _tree(rng: Random) -> Tree:
    """Two or three folders with two to four files each; a file has one to five lines of three words."""
    tree = Tree()
    for folder in rng.sample(FOLDERS, rng.randint(2, 3)):
        tree.folders.add(f"/{folder}")
        for name in rng.sample(NAMES, rng.randint(2, 4)):
            lines = [" ".join(rng.sample(WORDS, 3)) for _ in range(rng.randint(1, 5))]
            tree.files[f"/{folder}/{name}.{rng.choice(ENDINGS)}"] = "".join(f"{line}\n" for line in lines)
    return tree


def _plans(tree: Tree, rng: Random) -> list[Plan]:
    """One plan of each kind for the tree."""
    file = rng.choice(sorted(tree.files))
    folder = file.rsplit("/", 1)[0]
    other = rng.choice(sorted(tree.folders - {"/", folder}))
    word, text = rng.choice(WORDS), " ".join(rng.sample(WORDS, 2))
    fresh = rng.choice([known for known in NAMES if f"/{folder}/{known}.txt" not in tree.files])
    new_folder = rng.choice([known for known in FOLDERS if f"/{known}" not in tree.folders])
    inside = tree.files[file].split()
    seen = rng.choice(
        [w for w in inside if sum(w in t for f, t in tree.files.items() if f.startswith(f"{folder}/")) == 1]
        or [""]
    )
    new = f"{folder}/{fresh}.txt"

    def ask(question: str, thought: str, command: str) -> Plan:
        return Plan(question, ((thought, command),), "answer")

    def change(question: str, thought: str, command: str) -> Plan:
        return Plan(question, ((thought, command),), "finish")

    plans = [
        ask(f"How many files are in {folder}?", "I list the folder and count.", f"ls {folder} | wc -l"),
        ask(f"How many lines does {file} have?", "I count the lines.", f"cat {file} | wc -l"),
        ask(f"How many words are in {file}?", "I count the words.", f"cat {file} | wc -w"),
        ask(
            f"How many lines of {file} contain {word}?",
            "I count the lines with the word.",
            f"grep -c {word} {file}",
        ),
        ask(f"What is the first line of {file}?", "I show the first line.", f"head -n 1 {file}"),
        ask(f"What is the last line of {file}?", "I show the last line.", f"tail -n 1 {file}"),
        change(f"Write {text} to the new file {new}.", "I write the file.", f"echo {text} > {new}"),
        change(f"Add the line {text} to {file}.", "I add the line.", f"echo {text} >> {file}"),
        change(f"Create the folder /{new_folder}.", "I create the folder.", f"mkdir /{new_folder}"),
        change(f"Create the empty file {new}.", "I create the file.", f"touch {new}"),
        change(f"Delete {file}.", "I delete the file.", f"rm {file}"),
        change(f"Move {file} to {other}.", "I move the file.", f"mv {file} {other}"),
        change(f"Copy {file} to {other}.", "I copy the file.", f"cp {file} {other}"),
        change(f"Rename {file} to {new}.", "I rename the file.", f"mv {file} {new}"),
    ]
    if seen:
        find = ("I look for the file with the word.", f"grep -r -l {seen} {folder}")
        plans += [
            Plan(f"Which file in {folder} contains {seen}?", (find,), "answer"),
            Plan(
                f"Delete the file in {folder} that contains {seen}.",
                (find, ("I delete {out}.", "rm {out}")),
                "finish",
            ),
            Plan(
                f"Move the file in {folder} that contains {seen} to {other}.",
                (find, ("I move {out}.", f"mv {{out}} {other}")),
                "finish",
            ),
        ]
    return plans


def _deal(rng: Random) -> Shell:
    tree = _tree(rng)
    return Shell(tree, rng.choice(_plans(tree, rng)))


SHELL = World(name="shell", held_in=True, rounds=6, instruction=INSTRUCTION, form=ACT, deal=_deal)
