"""Carries out a scan: settings, files and samples in, a `Contamination` out. The comparing itself is the extension's."""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agentlm.tuning.contamination.result import Contamination, Overlap, Region, SampleFinding
from agentlm.tuning.contamination.samples import ContaminationError, EvaluationSample

if TYPE_CHECKING:
    from agentlm._engine import ContaminationScan

TOKENS = ("words", "whitespace")

Form = Literal["jsonl", "text"]
_FORMS: dict[str, Form] = {".jsonl": "jsonl", ".txt": "text", ".text": "text", ".md": "text"}


@dataclass(frozen=True, slots=True)
class Settings:
    """The test and how it is run.

    Raises:
        ContaminationError: A value is outside its range.
    """

    ngram: int = 10
    """Tokens that must be equal at an overlap's beginning; an overlap is longer than this (AgentTuning's is 10)."""
    skip_budget: int = 4
    """Later tokens of an overlap that may differ (AgentTuning's is 4)."""
    tokens: str = "words"
    """`words`: runs of letters and digits in lower case; `whitespace`: what stands between blanks."""
    model: str | None = None
    """A checkpoint's directory, whose tokenizer is used instead."""
    threads: int = 0
    """0: one a processor that this process may use."""
    ignore_shared: float | None = None
    """Leave tokens out of the count that lie in n-grams which more than this share (0 to 1) of a set's samples hold: the
    task's template, which tuning data for the task holds too. None counts every token, as the paper does."""
    overlaps: int = 3
    """Overlaps of a sample that are kept to be shown, the longest first."""

    def __post_init__(self) -> None:
        allowed = {"ngram": (2, 1024), "skip_budget": (0, 256), "threads": (0, 1024), "overlaps": (1, 1000)}
        for name, (low, high) in allowed.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ContaminationError(f"{name} is {value}; it must lie between {low} and {high}")
        if self.ignore_shared is not None and not 0 <= self.ignore_shared <= 1:
            raise ContaminationError(f"ignore_shared is {self.ignore_shared}; it must lie between 0 and 1")
        if self.tokens not in TOKENS:
            raise ContaminationError(f"tokens is {self.tokens!r}; it must be one of {', '.join(TOKENS)}")

    @property
    def tokenization(self) -> str:
        """How text is cut, in words."""
        return f"tokens of {self.model}" if self.model is not None else self.tokens


def sources(paths: Iterable[str | Path], form: Form | None = None) -> list[tuple[Path, Form]]:
    """Training files, each with how it is read: `.jsonl` as JSON lines, `.txt` and `.md` as text, or all as `form`.

    A directory stands for the files below it that have such a name.

    Raises:
        ContaminationError: A file is not there, has another name or is named twice, or a directory holds none.
    """
    found: list[tuple[Path, Form]] = []
    for path in map(Path, paths):
        if path.is_dir():
            below = sorted(file for file in path.rglob("*") if file.suffix in _FORMS and file.is_file())
            if not below:
                raise ContaminationError(f"{path} holds no file named {', '.join(_FORMS)}")
            found += [(file, form or _FORMS[file.suffix]) for file in below]
        elif not path.is_file():
            raise ContaminationError(f"{path} is not there")
        elif form is not None or path.suffix in _FORMS:
            found.append((path, form or _FORMS[path.suffix]))
        else:
            advice = {".gz": "unpack it first", ".json": "turn it into records first: `agentlm data import`"}
            hint = advice.get(path.suffix, "say what it is with --form")
            raise ContaminationError(f"{path}: only {', '.join(_FORMS)} are read; {hint}")
    places: set[Path] = set()
    for file, _ in found:
        if file.resolve() in places:
            raise ContaminationError(f"{file} is named twice among the training data")
        places.add(file.resolve())
    return found


def scan(
    samples: Sequence[EvaluationSample],
    training: Sequence[tuple[Path, Form]],
    settings: Settings,
    *,
    data_fields: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Contamination:
    """Finds the samples' tokens that stand in training files.

    Memory grows with the samples, not with the files. Ctrl-C ends the scan with `KeyboardInterrupt`.

    Args:
        samples: The evaluation sets' samples.
        training: Files with their forms, as `sources` gives them.
        settings: The test.
        data_fields: Where the files' JSON lines hold their text; without any: in `messages`, else in `text` or `content`.
        progress: Called about ten times a second with the bytes that were read.

    Raises:
        ContaminationError: A file cannot be read, or a line has no text; the message names file and line.
        TokenizerError: The model's tokenizer cannot be used.
    """
    began = time.monotonic()
    threads = settings.threads or len(os.sched_getaffinity(0))
    try:
        found = _index(samples, settings)
        _, records, tokens = found.read(
            list(training), fields=list(data_fields), threads=threads, progress=progress
        )
        findings = json.loads(found.report(settings.overlaps))
    except ValueError as error:
        raise ContaminationError(str(error)) from error
    return Contamination(
        samples=tuple(
            _finding(sample, values, settings) for sample, values in zip(samples, findings, strict=True)
        ),
        evaluation=tuple(dict.fromkeys(sample.set for sample in samples)),
        training=tuple((str(path), path.stat().st_size) for path, _ in training),
        tokenization=settings.tokenization,
        ngram=settings.ngram,
        skip_budget=settings.skip_budget,
        ignore_shared=settings.ignore_shared,
        records=records,
        tokens=tokens,
        seconds=time.monotonic() - began,
    )


def _index(samples: Sequence[EvaluationSample], settings: Settings) -> "ContaminationScan":
    from agentlm._engine import ContaminationScan, Tokenizer

    tokenizer = None
    if settings.model is not None:
        from agentlm.model.tokenizer_conversion import ensure_tokenizer

        tokenizer = Tokenizer(ensure_tokenizer(settings.model, None))
    found = ContaminationScan(
        [list(sample.texts) for sample in samples],
        ngram=settings.ngram,
        skip_budget=settings.skip_budget,
        tokens="whitespace" if settings.tokens == "whitespace" else "words",
        tokenizer=tokenizer,
    )
    if settings.ignore_shared is not None:
        numbers: dict[str, int] = {}
        sets = [numbers.setdefault(sample.set, len(numbers)) for sample in samples]
        found.ignore_shared(sets, settings.ignore_shared)
    return found


def _finding(sample: EvaluationSample, values: dict[str, Any], settings: Settings) -> SampleFinding:
    return SampleFinding(
        id=sample.id,
        set=sample.set,
        texts=sample.texts,
        tokens=values["tokens"],
        shared=values["shared"],
        contaminated=values["contaminated"],
        regions=tuple(Region(*region) for region in values["regions"]),
        shared_regions=tuple(Region(*region) for region in values["shared_regions"]),
        overlaps=tuple(_overlap(overlap) for overlap in values["overlaps"]),
        more=values["more"],
        is_short=values["longest"] <= settings.ngram,
    )


def _overlap(values: dict[str, Any]) -> Overlap:
    place, training = values["place"], values["training"]
    return Overlap(
        region=Region(values["part"], values["start"], values["end"]),
        tokens=values["tokens"],
        skipped=values["skipped"],
        evaluation=tuple((equal, text) for equal, text in values["evaluation"]),
        training=tuple((equal, text) for equal, text in training["overlap"]),
        before=training["before"],
        after=training["after"],
        path=place["path"],
        line=place["line"],
        part=place["part"],
        record=place["id"],
        source=place["source"],
    )
