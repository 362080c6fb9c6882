"""What a run is made of: its plan over rendered conversations, and what that makes of the mixture, in words.

Refuses to know models and steps.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from agentlm.errors import ConfigError
from agentlm.tuning.config import SourceSection, TuneConfig
from agentlm.tuning.mixture import streams
from agentlm.tuning.plan import Plan, make_plan
from agentlm.tuning.preference import Pairs, plan_pairs
from agentlm.tuning.rendering import LOST_TURNS, Rendered, files_of


def plan_of(config: TuneConfig, rendered: Rendered, pairs: Pairs | None = None) -> Plan:
    """The plan of a run over rendered conversations, or over pairs of them."""
    data, training = config.data, config.training
    if pairs is not None:
        return plan_pairs(
            pairs,
            rendered.lengths,
            seed=config.seed,
            batch=training.batch,
            capacity=data.length,
            steps=training.steps,
            epochs=training.epochs,
        )
    drawn = None if training.epochs is None else max(1, round(training.epochs * len(rendered)))
    factors = rendered.factors(data.tag_weights)
    try:
        mixture = streams(data, rendered.source, factors)
    except ConfigError as error:
        left_out = "; ".join(line.strip() for line in left_out_told(data.sources, rendered))
        raise ConfigError(f"{error} ({left_out or 'nothing was left out'})") from error
    return make_plan(
        rendered.lengths,
        mixture,
        seed=config.seed,
        batch=training.batch,
        capacity=data.length,
        packing=data.packing,
        steps=training.steps,
        drawn=drawn,
        cost=rendered.trained if data.unit == "trained_tokens" else None,
    )


TAGS_TOLD = 32
"""Most tags whose losses are told: a tag an item would drown the log."""


def tags_told(rendered: Rendered, counts: npt.NDArray[np.int64]) -> frozenset[str]:
    """The tags with the most trained tokens; `counts` are how often each conversation comes."""
    trained: Counter[str] = Counter()
    of_set = np.bincount(rendered.tags, rendered.trained * counts, len(rendered.tag_sets))
    for tags, tokens in zip(rendered.tag_sets, of_set.tolist(), strict=True):
        for tag in set(tags):
            trained[tag] += tokens
    ordered = sorted(trained, key=lambda tag: (-trained[tag], tag))
    return frozenset(ordered[:TAGS_TOLD])


def left_out_told(sources: Sequence[SourceSection], rendered: Rendered) -> list[str]:
    """What was not taken of each source and why, a line a source and reason, and an example of each."""
    lines = [
        f"{source.name}: {number} conversations {'' if reason == LOST_TURNS else 'left out: '}{reason}"
        for source, left_out in zip(sources, rendered.left_out, strict=True)
        for reason, number in left_out.items()
    ]
    return lines + [f"  for example {example}" for example in rendered.examples]


def check_apart(config: TuneConfig) -> None:
    """Raises `ConfigError` if a file is both trained on and held out, under whatever names and patterns it is given."""
    trained = {file.resolve(): source.name for source in config.data.sources for file in files_of(source)}
    for held in config.evaluation.sources:
        for file in files_of(held):
            if (name := trained.get(file.resolve())) is not None:
                raise ConfigError(
                    f"{file} is both trained on (source {name!r}) and held out (source {held.name!r}): divide its "
                    "conversations between two files"
                )


def held_out_told(config: TuneConfig, rendered: Rendered, held_out: Rendered) -> list[str]:
    """What was not taken of the conversations held out, and how many of them are trained on all the same."""
    known = {_tokens_digest(rendered, index) for index in range(len(rendered))}
    both = Counter(
        int(held_out.source[index])
        for index in range(len(held_out))
        if _tokens_digest(held_out, index) in known
    )
    lines = left_out_told(config.evaluation.sources, held_out)
    for index, number in sorted(both.items()):
        name, of = config.evaluation.sources[index].name, int((held_out.source == index).sum())
        lines.append(
            f"{name}: {number} of {of} conversations held out are trained on, too: their loss says less"
        )
    return lines


def _tokens_digest(rendered: Rendered, conversation: int) -> bytes:
    ids, _ = rendered.tokens(conversation)
    return hashlib.blake2b(ids.tobytes(), digest_size=16).digest()


def mixture_told(config: TuneConfig, rendered: Rendered, plan: Plan) -> list[str]:
    """What the plan makes of the mixture, a line a source: shares as they come out, epochs, what was left out."""
    counts = plan.counts(len(rendered))
    lines = []
    drawn = int(counts.sum())
    tokens, trained = int((counts * rendered.lengths).sum()), int((counts * rendered.trained).sum())
    for index, source in enumerate(config.data.sources):
        own = rendered.source == index
        times = int(counts[own].sum())
        own_trained = int((counts[own] * rendered.trained[own]).sum())
        pieces, whole = int(own.sum()), rendered.conversations[index]
        told = f"{whole} conversations" + (f" in {pieces} pieces" if pieces > whole else "")
        lines.append(
            f"{source.name}: {told}, drawn {times} times ({times / drawn:.1%} of all, "
            f"{own_trained / trained:.1%} of trained tokens), {times / max(1, pieces):.2f} epochs"
        )
    lines += left_out_told(config.data.sources, rendered)
    packs = sum(len(step) for step in plan.steps)
    unit = "packs" if config.dpo is None else "pairs"
    lines.append(
        f"{len(plan.steps)} steps of {config.training.batch} {unit}: {tokens} tokens, {trained} of them trained; packs are "
        f"{tokens / (packs * config.data.length):.1%} full"
    )
    return lines
