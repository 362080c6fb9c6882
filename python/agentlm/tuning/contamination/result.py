"""What a scan found, sample by sample and in Llama-2's four buckets. Refuses to know how it was found or is shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Run = tuple[bool, str]
"""A stretch of an overlap: whether its tokens are equal on both sides, its text."""


class Region(NamedTuple):
    """A stretch of contaminated tokens in a sample."""

    text: int
    """Which of the sample's texts."""
    start: int
    """First character."""
    end: int
    """Character behind the last."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """A stretch of a sample that stands in the training data, and where."""

    region: Region
    tokens: int
    skipped: int
    """Of its tokens, those that differ."""
    evaluation: tuple[Run, ...]
    training: tuple[Run, ...]
    before: str
    after: str
    """Training text around it."""
    path: str
    line: int
    part: str | None
    """Which text of the record."""
    record: str | None
    """The record's `id`."""
    source: str | None
    """The record's `source`."""


@dataclass(frozen=True, slots=True)
class SampleFinding:
    """One sample."""

    id: str
    set: str
    texts: tuple[str, ...]
    tokens: int
    """Those that count."""
    shared: int
    """Those that do not, because the set's samples share them."""
    contaminated: int
    regions: tuple[Region, ...]
    shared_regions: tuple[Region, ...]
    overlaps: tuple[Overlap, ...]
    more: int
    """Overlaps that are not shown."""
    is_short: bool
    """No text of it is longer than an n-gram: nothing could be found."""

    @property
    def share(self) -> float:
        """Contaminated tokens of all, 0 to 1."""
        return self.contaminated / self.tokens if self.tokens else 0.0


class Bucket(NamedTuple):
    """A bucket of samples; those of clean are also in not dirty, those of dirty also in not clean."""

    name: str
    rule: str
    holds: Callable[[float], bool]
    """Takes a sample's share of contaminated tokens."""


BUCKETS = (
    Bucket("clean", "< 20 %", lambda share: share < 0.2),
    Bucket("not clean", "≥ 20 %", lambda share: share >= 0.2),
    Bucket("not dirty", "< 80 %", lambda share: share < 0.8),
    Bucket("dirty", "≥ 80 %", lambda share: share >= 0.8),
)
"""Llama-2's (arXiv 2307.09288, appendix on data contamination), which AgentTuning reports."""


@dataclass(frozen=True, slots=True)
class Contamination:
    """The outcome of one scan."""

    samples: tuple[SampleFinding, ...]
    evaluation: tuple[str, ...]
    """Files of the evaluation sets."""
    training: tuple[tuple[str, int], ...]
    """Files that were scanned, with their sizes in bytes."""
    tokenization: str
    ngram: int
    skip_budget: int
    ignore_shared: float | None
    """Above which share of a set's samples a token did not count; None: every one did."""
    records: int
    """JSON lines, or pieces of running text."""
    tokens: int
    """Of the training data."""
    seconds: float

    @property
    def bytes(self) -> int:
        """Size of the training data."""
        return sum(size for _, size in self.training)

    def sets(self) -> list[str]:
        """The evaluation sets, in the order given."""
        return list(dict.fromkeys(sample.set for sample in self.samples))

    def bucket(self, bucket: Bucket, set_name: str | None = None) -> list[SampleFinding]:
        """Samples in a bucket, of one set or of all."""
        return [sample for sample in self._of(set_name) if bucket.holds(sample.share)]

    def share(self, set_name: str | None = None) -> float:
        """Contaminated tokens of all tokens, 0 to 1."""
        samples = self._of(set_name)
        return sum(sample.contaminated for sample in samples) / max(1, sum(s.tokens for s in samples))

    def _of(self, set_name: str | None) -> Sequence[SampleFinding]:
        if set_name is None:
            return self.samples
        return [sample for sample in self.samples if sample.set == set_name]

    def worst(self) -> list[SampleFinding]:
        """Samples with a contaminated token, the most contaminated first."""
        found = [sample for sample in self.samples if sample.contaminated]
        return sorted(found, key=lambda sample: (-sample.share, -sample.contaminated))

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON: settings, buckets of each set, and every sample that has an overlap."""
        return {
            "test": {
                "tokens": self.tokenization,
                "ngram": self.ngram,
                "skip_budget": self.skip_budget,
                "ignore_shared": self.ignore_shared,
            },
            "evaluation": list(self.evaluation),
            "training": {
                "files": [{"path": path, "bytes": size} for path, size in self.training],
                "records": self.records,
                "tokens": self.tokens,
            },
            "seconds": round(self.seconds, 3),
            "sets": [self._set_dict(name) for name in self.sets()],
            "samples": [_sample_dict(sample) for sample in self.worst()],
        }

    def _set_dict(self, name: str) -> dict[str, Any]:
        samples = self._of(name)
        return {
            "set": name,
            "samples": len(samples),
            "too_short": sum(sample.is_short for sample in samples),
            "tokens": sum(sample.tokens for sample in samples),
            "shared_tokens": sum(sample.shared for sample in samples),
            "contaminated_share": self.share(name),
            "buckets": {bucket.name: len(self.bucket(bucket, name)) for bucket in BUCKETS},
        }


def _sample_dict(sample: SampleFinding) -> dict[str, Any]:
    return {
        "id": sample.id,
        "set": sample.set,
        "tokens": sample.tokens,
        "contaminated": sample.contaminated,
        "share": sample.share,
        "regions": [region._asdict() for region in sample.regions],
        "overlaps": [_overlap_dict(overlap) for overlap in sample.overlaps],
        "overlaps_not_shown": sample.more,
    }


def _overlap_dict(overlap: Overlap) -> dict[str, Any]:
    return {
        **overlap.region._asdict(),
        "tokens": overlap.tokens,
        "skipped": overlap.skipped,
        "evaluation": "".join(text for _, text in overlap.evaluation),
        "training": "".join(text for _, text in overlap.training),
        "path": overlap.path,
        "line": overlap.line,
        "part": overlap.part,
        "record": overlap.record,
        "source": overlap.source,
    }
