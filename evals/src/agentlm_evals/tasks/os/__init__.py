"""The operating system task: a question about a Linux system, or a change to it, in a live shell; at most 8 turns.

Every episode has a system of its own: namespaces over a small Debian root, no network, caps on everything (`sandbox`). What
a model runs costs its own episode only. Checks run where the model was root, named checkers here. Refuses to know how
sandboxes are made.
"""

import logging
import os
import re
import shlex
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from anyio import CancelScope
from anyio.to_thread import run_sync

from agentlm_evals.environments.shell_tasks import INSTRUCTION
from agentlm_evals.errors import DataError, LimitReached
from agentlm_evals.harness.episode import Episode
from agentlm_evals.model import Decoding, Message
from agentlm_evals.outcome import Score, format_or_limit, right, wrong
from agentlm_evals.protocols import AGENTLM, AGENTTUNING
from agentlm_evals.protocols.window import sampled, stripped_window
from agentlm_evals.sandbox import docker, image
from agentlm_evals.sandbox.box import MemoryCapReached
from agentlm_evals.sandbox.limits import Layout
from agentlm_evals.sandbox.trial import why_not
from agentlm_evals.task import (
    Agent,
    Group,
    Metric,
    Missing,
    Option,
    Sample,
    Setting,
    Task,
    own_samples,
    scripted,
)
from agentlm_evals.tasks.os.checkers import CHECKERS, ORIGINAL
from agentlm_evals.tasks.os.problem import Problem, Reader, Script, from_json, read_items
from agentlm_evals.tasks.os.published import FILES, PUBLISHED
from agentlm_evals.tasks.os.replies import EMPTY, OUTPUT, Turn, read_turn, show
from agentlm_evals.tasks.os.stand_ins import STAND_INS
from agentlm_evals.tasks.os.system import System, Verdict

ROUNDS = 8
RECIPE = image.Recipe(
    packages=(
        "python3", "procps", "psmisc", "passwd", "sudo", "less", "nano", "vim-tiny", "cron", "net-tools", "iproute2", "bc",
        "file", "gawk", "curl", "wget", "git", "zip", "unzip", "xz-utils", "bzip2", "tree", "rsync", "openssh-client",
        "acl", "attr", "iputils-ping", "lsof", "jq",
    ),
)  # fmt: skip
"""What the original's images have, and what tasks of this kind reach for."""
NAMESPACES, DOCKER = "namespaces", "docker"
FOLDERS = ("os_interaction", "os")
_log = logging.getLogger(__name__)


class OperatingSystem(Task):
    """Share of problems solved."""

    name, title, group = "os", "OS", Group.HELD_IN
    metric = Metric("success rate")
    published_mean = 19.14
    protocols = (AGENTLM, AGENTTUNING)
    max_samples = 144
    sources = PUBLISHED
    source_files = FILES
    assumptions = MappingProxyType(
        {
            AGENTTUNING: "output without the prompts and control sequences of the original's terminal; Debian for Ubuntu"
        }
    )
    options = (
        Option("split", "auto", "the published set; auto: std if there, else dev", ("auto", "std", "dev", "train")),
        Option("sandbox", NAMESPACES, "Linux namespaces, or Docker", (NAMESPACES, DOCKER)),
        Option("image", "", "with Docker: the image, such as AgentBench's local-os/default, built by its Dockerfile"),
        Option("workers", "4", "systems, and so episodes, at once; each may take 512 MB", least=1, decides=False),
        Option("cache", "", "folder of root file systems; empty: ~/.cache/agentlm/sandbox", decides=False),
    )  # fmt: skip

    # --- what it needs -------------------------------------------------------------------------------------------
    def requirements(self, setting: Setting) -> list[Missing]:
        """Namespaces, and a root file system or the means to build one."""
        if setting.options.get("sandbox") == DOCKER:
            return _docker_requirements(setting)
        missing = []
        if why := why_not():
            missing.append(Missing("Linux namespaces", why))
        if os.geteuid() != 0:
            missing.append(
                Missing(
                    "root on this machine", "run as root: a system with users of its own needs ids to map"
                )
            )
        if image.find(RECIPE, _cache(setting)) is None and not image.can_build():
            missing.append(Missing("a root file system for sandboxes", image.HOW))
        return missing

    def capacity(self, setting: Setting) -> int:
        """As many episodes as the option says."""
        return int(setting.options.get("workers", "4"))

    def versions(self, setting: Setting) -> Mapping[str, str]:
        """The root file system's recipe; each episode's notes have its distribution and what enforced the caps."""
        if setting.options.get("sandbox") == DOCKER:
            return {"root": f"Docker image {setting.options['image']}"}
        return {"root": f"Debian {RECIPE.suite}, recipe {RECIPE.key}"}

    # --- items ---------------------------------------------------------------------------------------------------
    def samples(self, setting: Setting) -> list[Sample]:
        """The published problems, or our own; a problem whose scripts are missing is left to its episode to say."""
        if setting.source.is_own:
            reader = Reader(None, {}, frozenset(CHECKERS))
            return [_sample(str(row["id"]), row, reader, "own") for row in own_samples(__file__)]
        if setting.source.file is not None:
            reader = Reader(None, STAND_INS, frozenset(CHECKERS))
            rows = read_items(setting.source.path())
            return [_sample(str(at), row, reader, "file") for at, row in enumerate(rows)]
        return list(_published(_folder(setting), setting.options.get("split", "auto")))

    # --- an episode ----------------------------------------------------------------------------------------------
    def decoding(self, protocol: str) -> Decoding:
        """128 tokens; the published harness samples at 0.7 (its client says otherwise to the server than it means)."""
        if protocol == AGENTTUNING:
            return sampled(128)
        return Decoding(max_new_tokens=256)

    @asynccontextmanager
    async def environment(self, setting: Setting) -> AsyncIterator[Layout | str]:
        """The root file system, built if this is the first run here; or the image's name."""
        if setting.options.get("sandbox") == DOCKER:
            yield setting.options["image"]
            return
        root = await run_sync(image.build, RECIPE, _cache(setting), _log.warning)
        yield Layout(root=str(root), shifted=image.SHIFTED)

    async def solve(self, episode: Episode) -> Any:
        """The dialogue and the judgement; the judgement is made however the dialogue ended, as published."""
        if why := episode.sample.input.get("unusable"):
            raise DataError(str(why))
        problem = from_json(episode.sample.input)
        checkers = ORIGINAL if episode.protocol == AGENTTUNING else CHECKERS
        self._pose(episode, problem)
        try:
            system = await run_sync(System, episode.environment, problem)
            try:
                episode.notes["caps"] = system.caps
                if isinstance(episode.environment, Layout):
                    episode.notes["root"] = image.describe(Path(episode.environment.root))
                end, turn = await self._talk(episode, system)
                verdict = (
                    await run_sync(system.judge, turn.content, checkers) if problem.match is None else None
                )
            finally:
                with CancelScope(shield=True):
                    await run_sync(system.close)
        except MemoryCapReached as error:
            raise LimitReached(str(error)) from error
        verdict = verdict or _match(problem, turn.content)
        return {"end": end, "answer": turn.content, "passed": verdict.passed, "steps": verdict.steps}

    def _pose(self, episode: Episode, problem: Problem) -> None:
        if episode.protocol != AGENTTUNING:
            episode.user(f"{INSTRUCTION}\n\n{problem.description}")
            return
        texts = episode.texts
        shot = texts["shot"]
        episode.user(texts["instruction"] + texts["problem"] + shot[0]["content"])
        for turn in shot[1:]:
            (episode.example if turn["role"] == "agent" else episode.user)(turn["content"])
        episode.user(texts["next"] + problem.description)

    async def _talk(self, episode: Episode, system: System) -> tuple[str, Turn]:
        published = episode.protocol == AGENTTUNING
        for _ in range(ROUNDS):
            reply = await episode.ask(history=stripped_window if published else None)
            turn = read_turn(reply, published=published)
            if turn.action != "bash":
                return turn.action or "no action", turn
            episode.user(show(await run_sync(system.run, turn.content or "")))
        return "rounds", Turn()

    def score(self, sample: Sample, answer: Any, protocol: str) -> Score:
        """What the judgement said."""
        del sample, protocol  # the judgement was made where the system was
        details = {"answer": answer["answer"], "steps": answer["steps"]}
        if answer["passed"]:
            return right(**details)
        if answer["end"] == "rounds":
            return format_or_limit(f"{ROUNDS} turns and no answer", **details)
        return format_or_limit(answer["end"], **details) if answer["end"] == "no action" else wrong(**details)

    def gold(self, sample: Sample, protocol: str) -> Agent | None:
        """The reference solution, run by the agent itself, whose answer is what it sees; a matched answer is just said."""
        if "unusable" in sample.input:
            return None
        problem = from_json(sample.input)
        if problem.match is not None and "answer" in problem.match:
            return scripted(f"Think: I know it.\n\nAct: answer({problem.match['answer']})")
        return (
            None
            if problem.example is None
            else _reference(problem.example, published=protocol == AGENTTUNING)
        )


def _reference(example: Script, *, published: bool) -> Agent:
    """An agent that runs the example as the check does, and answers with its output, or says that it has finished."""
    # Without the terminal as its input: one published example would wait for somebody to type.
    command = " ".join(shlex.quote(word) for word in example.argv([])) + " < /dev/null"

    def reply(prompt: Any) -> str:
        messages: list[Message] = list(prompt)
        if len(messages) < 2 or command not in messages[-2].content:
            return f"Think: I do it.\n\nAct: bash\n\n```bash\n{command}\n```"
        if messages[-1].content == EMPTY:
            return "Think: It is done.\n\nAct: finish"
        output = messages[-1].content.removeprefix(OUTPUT).strip()
        # The published form has room for one line.
        return (
            f"Think: I have it.\n\nAct: answer({output.splitlines()[-1] if published and output else output})"
        )

    return reply


def _match(problem: Problem, answer: str | None) -> Verdict:
    match = problem.match
    if match is None or answer is None:
        return Verdict(False)
    given = answer.strip() if match.get("strip") else answer
    if "answer" in match:
        return Verdict(given == match["answer"])
    return Verdict(re.search(str(match["regex"]), given) is not None)


def _docker_requirements(setting: Setting) -> list[Missing]:
    missing = []
    if why := docker.why_not():
        missing.append(Missing("Docker", f"{why}; or leave out -T os.sandbox=docker"))
    if not setting.options.get("image"):
        missing.append(Missing("a Docker image", "-T os.image=NAME"))
    return missing


def _cache(setting: Setting) -> Path:
    given = setting.options.get("cache", "")
    return Path(given) if given else image.default_cache()


def _folder(setting: Setting) -> Path:
    directory = setting.source.directory
    assert directory is not None
    for name in FOLDERS:
        if (directory / name / "data").is_dir():
            return directory / name
    if (directory / "data").is_dir():
        return directory
    raise DataError(
        f"{directory} holds no folder {FOLDERS[0]}/data with AgentBench's operating system problems"
    )


def _published(folder: Path, split: str) -> list[Sample]:
    data, scripts = folder / "data", folder / "scripts"
    std = sorted(data.glob("[1-7]/*.json"))
    if split == "std" or (split == "auto" and std):
        files = [(path, scripts / path.parent.name, f"{path.parent.name}/{path.stem}") for path in std]
    elif split == "train":
        training = next(
            (
                path
                for path in (folder / "train_0317" / "training.json", data / "train.json")
                if path.is_file()
            ),
            None,
        )
        files = [(training, scripts / "train", "train")] if training else []
    else:
        path = data / "dev.json"
        files = [(path, scripts / "dev", "dev")] if path.is_file() else []
    if not files:
        raise DataError(f"{data} holds no problems of the split {split}")
    samples = []
    for path, folder_, prefix in files:
        reader = Reader(folder_, STAND_INS if prefix == "dev" else {}, frozenset(CHECKERS))
        category = prefix.partition("/")[0]
        samples += [
            _sample(f"{prefix}/{at}", row, reader, category) for at, row in enumerate(read_items(path))
        ]
    return samples


def _sample(name: str, row: dict[str, Any], reader: Reader, category: str) -> Sample:
    try:
        return Sample(name, reader.read(row).to_json(), None, category)
    except DataError as error:
        # It must not vanish from the denominator.
        return Sample(
            name, {"description": str(row.get("description", "")), "unusable": str(error)}, None, category
        )


TASK = OperatingSystem()
