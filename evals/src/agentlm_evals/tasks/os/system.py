"""One episode's system: a sandbox, its preparation, a login shell, and the judgement. Blocking. Knows no dialogue."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentlm_evals.errors import EnvironmentFault
from agentlm_evals.sandbox.box import Sandbox
from agentlm_evals.sandbox.docker import Container, ContainerShell
from agentlm_evals.sandbox.limits import MIB, Layout, Limits
from agentlm_evals.sandbox.shell import Shell
from agentlm_evals.tasks.os.checkers import Checker
from agentlm_evals.tasks.os.problem import Problem, Script

COMMAND_SECONDS = 30.0
"""Of one command of the model's; the later AgentBench's cut-off (the first one waits for 5 s of silence)."""
SCRIPT_SECONDS = 120.0
"""Of one script of the problem's; one published preparation sleeps for a minute."""
LIMITS = Limits(memory=512 * MIB, disk=256 * MIB, processes=128, cpu_seconds=120)


@dataclass(slots=True)
class Verdict:
    """Whether the problem is solved, and what was found."""

    passed: bool
    steps: list[dict[str, Any]] = field(default_factory=list)


class System:
    """A fresh system for one problem, over a root file system or in a container of an image; `close` ends it."""

    def __init__(self, place: Layout | str, problem: Problem) -> None:
        self._problem = problem
        self._sandbox: Sandbox | Container
        self._shell: Shell
        if isinstance(place, str):
            self._sandbox = Container(place, LIMITS)
            self._shell = ContainerShell(self._sandbox)
        else:
            self._sandbox = Sandbox(place, LIMITS)
            self._shell = Shell(self._sandbox)
        self.caps = self._sandbox.caps
        self.prepared: list[int | None] = []
        """Exit statuses of the preparation's scripts; some published ones end with a failure of no meaning."""
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        # The shell opens first, as published: what a preparation writes into start-up files is not in force yet.
        self._shell.run("", SCRIPT_SECONDS)
        for script in self._problem.init:
            done = self._sandbox.run(script.argv([]), timeout=SCRIPT_SECONDS)
            if done.timed_out:
                raise EnvironmentFault(f"the problem's preparation took more than {SCRIPT_SECONDS:g} s")
            self.prepared.append(done.status)
        if self._problem.start:
            self._shell.run(self._problem.start, SCRIPT_SECONDS)

    def run(self, command: str) -> str:
        """What the terminal shows of a command, with a word of ours if it was stopped."""
        shown = self._shell.run(command, COMMAND_SECONDS)
        notes = []
        if shown.timed_out:
            notes.append(f"[the command was stopped after {COMMAND_SECONDS:g} seconds]")
        elif shown.flooded:
            notes.append("[the command was stopped: its output did not end]")
        if shown.exited:
            notes.append("[the shell has ended; a new one is open]")
        # What was stopped for its output is cut anyhow; the word must not be.
        text = shown.text[:600] if notes and len(shown.text) > 600 else shown.text
        return text + ("\n" if notes and text and not text.endswith("\n") else "") + "\n".join(notes)

    def judge(self, answer: str | None, checkers: Mapping[str, Checker]) -> Verdict:
        """Whether the problem is solved, given the answer if there is one.

        Raises:
            SandboxGone: The system ended before it could be judged.
        """
        parameters = [str(answer)]
        steps: list[dict[str, Any]] = []
        for step in self._problem.check:
            if isinstance(step, str):
                passed = len(parameters) > 1 and checkers[step](parameters[0], parameters[1])
                steps.append({"check": step, "passed": passed})
                output = ""
            else:
                script = step or self._problem.example
                assert script is not None
                passed, output = self._run_script(script, parameters)
                steps.append(
                    {
                        "check": "example" if step is None else "script",
                        "passed": passed,
                        "output": output[:200],
                    }
                )
            if not passed:
                return Verdict(False, steps)
            parameters.append(output)
        return Verdict(True, steps)

    def _run_script(self, script: Script, parameters: list[str]) -> tuple[bool, str]:
        # An argument of a program may have 128 KiB.
        cut = [parameter.replace("\0", "")[:100_000] for parameter in parameters]
        done = self._sandbox.run(script.argv(cut), timeout=SCRIPT_SECONDS, output_limit=100_000)
        return done.status == 0, done.text

    def close(self) -> None:
        """Ends it."""
        self._shell.close()
        self._sandbox.close()
