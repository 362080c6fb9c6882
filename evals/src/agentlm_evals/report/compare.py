"""Two runs of the same task: whether one scores more than noise would make it. Refuses to know how they ran."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from agentlm_evals.report.rows import Row
from agentlm_evals.report.statistics import Difference, paired


@dataclass(frozen=True, slots=True)
class Comparison:
    """A pair of rows on the samples that both ran."""

    task: str
    title: str
    first: str
    second: str
    samples: int
    difference: Difference

    def text(self) -> str:
        """In one line."""
        gap = self.difference.estimate
        verdict = "more than noise" if self.difference.is_more_than_noise else "no more than noise"
        return (
            f"{self.title}: {self.first} - {self.second} = {gap.value:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}] "
            f"on {self.samples} common samples (p = {self.difference.p:.3g}): {verdict}"
        )


def compare(rows: Sequence[Row]) -> list[Comparison]:
    """Every pair of runs of one task, protocol and data, paired by sample."""
    found = []
    for one, other in combinations(rows, 2):
        if (one.task, one.protocol, one.data) != (
            other.task,
            other.protocol,
            other.data,
        ) or one.run == other.run:
            continue
        common = [sample for sample in one.values if sample in other.values]
        if not common:
            continue
        difference = paired(
            [one.values[sample] for sample in common],
            [other.values[sample] for sample in common],
            span=one.span,
            categories=[one.strata[sample] for sample in common] if one.strata else None,
        )
        found.append(Comparison(one.task, one.title, one.run, other.run, len(common), difference))
    return found
