"""The report as one HTML page: each sample beside the training text that holds it. Refuses to know how it was found."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from agentlm.tuning.contamination.result import BUCKETS, Contamination, Overlap, Run, SampleFinding
from agentlm.tuning.data.visible_text import visible

_LONGEST = 6000
"""Characters of one text that are shown; a page of thousands of samples must still open."""

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --hit: #ffb3ab; --skip: #ffe08a; --ink: #111; }
@media (prefers-color-scheme: dark) { :root { --hit: #8c2f28; --skip: #7a5b00; --ink: #fff; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
mark { background: var(--hit); color: var(--ink); border-radius: 2px; }
mark.skip { background: var(--skip); text-decoration: underline dotted; }
article { border-top: 2px solid var(--line); padding: .8rem 0; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1.2rem; }
@media (max-width: 60rem) { .sides { grid-template-columns: 1fr; } }
.text { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 26rem; overflow: auto; padding: .5rem .7rem;
  border: 1px solid var(--line); border-radius: 4px; margin-bottom: .6rem; }
.bar { display: inline-block; width: 8rem; height: .6rem; background: var(--line); border-radius: 3px; }
.bar i { display: block; height: 100%; background: #d0382b; border-radius: 3px; }
.where { font-size: .9em; overflow-wrap: anywhere; } .dim { opacity: .7; }
"""


def page(found: Contamination, shown: int = 200) -> str:
    """The page, with at most `shown` samples, the most contaminated first."""
    worst = found.worst()
    cards = "\n".join(_card(sample) for sample in worst[:shown])
    left = len(worst) - shown
    more = (
        f"<p>{left} less contaminated samples are not shown; the JSON report has them.</p>"
        if left > 0
        else ""
    )
    none = "" if worst else "<p>No token of the evaluation set lies in such an overlap.</p>"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Contamination of {escape(", ".join(found.sets()))}</title><style>{_STYLE}</style></head><body>
<h1>Contamination</h1>
{_summary(found)}
{_table(found)}
<p class="dim">A token is contaminated if it lies in an overlap longer than {found.ngram} tokens. The first
{found.ngram} tokens of an overlap are equal, at most {found.skip_budget} of the later ones differ, and its last one
does not.
<mark>Equal</mark> and <mark class="skip">differing</mark> tokens are marked. Samples whose texts all have at most
{found.ngram} tokens cannot hold an overlap and count as clean.{_shared(found)}</p>
<h2>Samples with overlaps</h2>
{none}{cards}
{more}
</body></html>
"""


def _summary(found: Contamination) -> str:
    files = "".join(f"<li>{_safe(path)} ({size:,} bytes)</li>" for path, size in found.training)
    return (
        f"<p>{len(found.samples):,} samples against {found.tokens:,} tokens of training data in {found.records:,} records; "
        f"tokens: {escape(found.tokenization)}.</p><details><summary>{len(found.training)} training files</summary>"
        f"<ul>{files}</ul></details>"
    )


def _shared(found: Contamination) -> str:
    if found.ignore_shared is None:
        return ""
    tokens = sum(sample.shared for sample in found.samples)
    return (
        f" {tokens:,} tokens do not count, because more than {100 * found.ignore_shared:g} % of their set's samples "
        "hold them; <span class='dim'>they are dimmed</span>."
    )


def _table(found: Contamination) -> str:
    head = "".join(f"<th>{bucket.name} ({escape(bucket.rule)})</th>" for bucket in BUCKETS)
    rows = []
    for name in found.sets():
        samples = [sample for sample in found.samples if sample.set == name]
        cells = "".join(_cell(len(found.bucket(bucket, name)), len(samples)) for bucket in BUCKETS)
        short = sum(sample.is_short for sample in samples)
        rows.append(
            f"<tr><td>{_safe(name)}</td><td>{len(samples):,}</td>{cells}"
            f"<td>{100 * found.share(name):.2f} %</td><td>{short:,}</td></tr>"
        )
    return (
        f"<table><tr><th>set</th><th>samples</th>{head}<th>contaminated tokens</th><th>too short</th></tr>"
        f"{''.join(rows)}</table>"
    )


def _cell(part: int, whole: int) -> str:
    return f"<td>{part:,} ({100 * part / whole:.1f} %)</td>"


def _card(sample: SampleFinding) -> str:
    percent = 100 * sample.share
    texts = "".join(_sample_text(sample, at) for at in range(len(sample.texts)))
    overlaps = "".join(_overlap(overlap) for overlap in sample.overlaps)
    more = f"<p class='dim'>{sample.more} further overlaps are not shown.</p>" if sample.more else ""
    return (
        f"<article><h3>{_safe(sample.id)} <span class='dim'>{_safe(sample.set)}</span> "
        f"<span class='bar'><i style='width:{percent:.0f}%'></i></span> {percent:.1f} % "
        f"<span class='dim'>({sample.contaminated} of {sample.tokens} tokens)</span></h3>"
        f"<div class='sides'><div>{texts}</div><div>{overlaps}{more}</div></div></article>"
    )


def _sample_text(sample: SampleFinding, at: int) -> str:
    """One of the sample's texts with its contaminated stretches marked."""
    text = sample.texts[at]
    kinds = [0] * len(text)
    for kind, regions in ((1, sample.regions), (3, sample.shared_regions)):
        for region in regions:
            if region.text == at:
                kinds[region.start : region.end] = [kind] * (region.end - region.start)
    for overlap in sample.overlaps:
        if overlap.region.text == at:
            place = overlap.region.start
            for equal, run in overlap.evaluation:
                for char in range(place, place + len(run)):
                    if not equal and kinds[char] != 3:
                        kinds[char] = 2
                place += len(run)
    borders = [0, *(at for at in range(1, len(text)) if kinds[at] != kinds[at - 1]), len(text)]
    pieces = [(kinds[start], text[start:end]) for start, end in pairwise(borders) if start < end]
    return f"<div class='text'>{_marked(pieces)}</div>"


def _overlap(overlap: Overlap) -> str:
    kinds = [(0, overlap.before), *_kinds(overlap.training), (0, overlap.after)]
    record = f" · record <code>{_safe(overlap.record)}</code>" if overlap.record else ""
    source = f" · source {_safe(overlap.source)}" if overlap.source else ""
    part = f" · {_safe(overlap.part)}" if overlap.part else ""
    skipped = f", {overlap.skipped} differ" if overlap.skipped else ""
    return (
        f"<div class='where'><code>{_safe(overlap.path)}:{overlap.line}</code>{record}{source}{part} "
        f"<span class='dim'>{overlap.tokens} tokens{skipped}</span></div><div class='text'>{_marked(kinds)}</div>"
    )


def _kinds(runs: Sequence[Run]) -> list[tuple[int, str]]:
    return [(1 if equal else 2, text) for equal, text in runs]


def _marked(pieces: Sequence[tuple[int, str]]) -> str:
    """Text with marks: 0 plain, 1 equal, 2 differing, 3 not counted. What is too long for a page is cut, and says so."""
    tags = {
        0: ("", ""),
        1: ("<mark>", "</mark>"),
        2: ("<mark class='skip'>", "</mark>"),
        3: ("<span class='dim'>", "</span>"),
    }
    out: list[str] = []
    left = _LONGEST
    total = sum(len(text) for _, text in pieces)
    for kind, text in pieces:
        opening, closing = tags[kind]
        out.append(opening + _safe(text[:left]) + closing)
        left -= len(text)
        if left <= 0:
            break
    if total > _LONGEST:
        out.append(f"<span class='dim'> … ({total - _LONGEST:,} more characters)</span>")
    return "".join(out)


def _safe(text: str) -> str:
    return escape(visible(text))
