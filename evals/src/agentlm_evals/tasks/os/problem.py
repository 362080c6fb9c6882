"""A problem of the operating system task: what prepares the system, what is asked, what judges. Refuses to run anything."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentlm_evals.errors import DataError

LANGUAGES = ("bash", "python")


@dataclass(frozen=True, slots=True)
class Script:
    """A program of the problem's own."""

    language: str
    code: str

    def argv(self, parameters: list[str]) -> list[str]:
        """The command that runs it with parameters."""
        if self.language == "python":
            return ["python3", "-c", self.code, *parameters]
        return ["bash", "-c", self.code, *(["--", *parameters] if parameters else [])]

    def to_json(self) -> dict[str, str]:
        """For a sample's input."""
        return {"language": self.language, "code": self.code}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem."""

    description: str
    init: tuple[Script, ...]
    """Run one by one before the shell opens."""
    start: str
    """Typed into the shell before the model sees it; may leave programs running."""
    match: Mapping[str, Any] | None
    """`answer` (a text that the answer must equal) or `regex`; None: `check` judges."""
    check: tuple[Script | str | None, ...]
    """Run in turn with the answer and all earlier outputs: a script, a checker's name, None for the example."""
    example: Script | None
    """The reference solution."""

    def to_json(self) -> dict[str, Any]:
        """For a sample's input."""
        return {
            "description": self.description,
            "init": [script.to_json() for script in self.init],
            "start": self.start,
            "match": None if self.match is None else dict(self.match),
            "check": [step.to_json() if isinstance(step, Script) else step for step in self.check],
            "example": self.example.to_json() if self.example else None,
        }


def from_json(body: Mapping[str, Any]) -> Problem:
    """The inverse of `Problem.to_json`."""
    return Problem(
        body["description"],
        tuple(Script(**script) for script in body["init"]),
        body["start"],
        body["match"],
        tuple(Script(**step) if isinstance(step, dict) else step for step in body["check"]),
        Script(**body["example"]) if body["example"] else None,
    )


class Reader:
    """Reads problems as AgentBench writes them.

    Args:
        scripts: Where scripts that are named by file lie; None: nowhere.
        stand_ins: Scripts of our own by the name of a file that is not there.
        checkers: Names (`integer-match`) that are judged without a script.
    """

    def __init__(
        self, scripts: Path | None, stand_ins: Mapping[str, Script], checkers: frozenset[str]
    ) -> None:
        self._scripts = scripts
        self._stand_ins = stand_ins
        self._checkers = checkers

    def read(self, item: Mapping[str, Any]) -> Problem:
        """One problem.

        Raises:
            DataError: It lacks something, or a script is not there.
        """
        try:
            evaluation = item["evaluation"]
            create = item.get("create")
            # One published item has a check where its preparation should be, which the original takes for none.
            init = create.get("init") if isinstance(create, dict) else None
            example = evaluation.get("example", item.get("example"))
            match = evaluation.get("match")
            return Problem(
                str(item["description"]),
                tuple(self._scripts_of(init)),
                self._start(item.get("start")),
                {"answer": match, "strip": True} if isinstance(match, str) else match,
                () if match is not None else tuple(self._steps(evaluation["check"])),
                None if example is None else self._script(example),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"an operating system problem is not as it should be: {error!r}") from error

    def _scripts_of(self, body: Any) -> Iterator[Script]:
        for part in body if isinstance(body, list) else [body]:
            if part is not None:
                yield self._script(part)

    def _start(self, body: Any) -> str:
        return "" if body is None else self._script(body).code

    def _steps(self, body: Any) -> Iterator[Script | str | None]:
        for part in body if isinstance(body, list) else [body]:
            name = Path(str(part.get("file", ""))).stem if isinstance(part, dict) else ""
            if part is None:
                yield None
            elif name in self._checkers:
                yield name
            else:
                yield self._script(part)

    def _script(self, body: Any) -> Script:
        if isinstance(body, str):
            return Script("bash", body)
        language = str(body.get("language", "bash"))
        if language not in LANGUAGES:
            raise DataError(f"a script in {language}: the sandbox runs {' and '.join(LANGUAGES)}")
        if "code" in body:
            return Script(language, str(body["code"]))
        name = str(body["file"])
        if self._scripts is not None and (path := self._scripts / name).is_file():
            return Script(language, path.read_text())
        if name in self._stand_ins:
            return self._stand_ins[name]
        raise DataError(f"script {name} is not in {self._scripts}")


def read_items(path: Path) -> list[dict[str, Any]]:
    """The items of a JSON file (a list, or one object) or a JSONL file.

    Raises:
        DataError: It cannot be read.
    """
    try:
        text = path.read_text()
        if path.suffix == ".jsonl":
            body: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            body = json.loads(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    items: list[Any] = body if isinstance(body, list) else [body]
    if not all(isinstance(item, dict) for item in items):
        raise DataError(f"{path} is not a list of objects")
    return items
