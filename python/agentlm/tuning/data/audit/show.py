"""A rendered conversation for people: token by token, the trained ones coloured, in a terminal or on a page.

Refuses to know where conversations come from.
"""

from collections.abc import Sequence
from html import escape
from itertools import groupby

from agentlm._engine import Tokenizer
from agentlm.tuning.data.audit.checks import REASONS
from agentlm.tuning.data.audit.run import AuditReport, Sample
from agentlm.tuning.data.visible_text import visible

_TRAINED, _PLAIN, _BOLD, _END = "\x1b[30;42m", "\x1b[2m", "\x1b[1m", "\x1b[0m"
_WINDOW = 6
"""Tokens before one that are decoded with it, so that spaces and characters of several tokens come out right."""


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each token; of several that make one character, the last has it and the others have none."""
    made: list[str] = []
    taken = 0  # tokens whose text is in `made`
    for index in range(len(ids)):
        start = max(taken - _WINDOW, 0)
        before = tokenizer.decode(ids[start:taken], skip_special_tokens=False)
        after = tokenizer.decode(ids[start : index + 1], skip_special_tokens=False)
        # An unfinished character is shown as a replacement, which a later token turns into the character.
        if after.endswith("\ufffd") and index + 1 < len(ids) and index - taken < _WINDOW:
            made.append("")
            continue
        made.append(after[len(before) :])
        taken = index + 1
    return made


def terminal(sample: Sample, tokenizer: Tokenizer, *, colour: bool, most: int = 6000) -> str:
    """The conversation's text with the trained tokens on green; between ⟦ and ⟧ where there are no colours.

    At most `most` characters are shown; a page (`page`) has all of them.

    A trained line break has no ground of its own to be coloured: it is shown as ↵.
    """
    rendered = sample.rendered
    texts = pieces(tokenizer, rendered.ids)
    head = (
        f"{sample.file}:{sample.line} {sample.conversation.id} ({sample.conversation.source}): "
        f"{rendered.trained_tokens:,} of {len(rendered.ids):,} tokens trained"
    )
    head = visible(head)
    parts = [f"{_BOLD}{head}{_END}\n" if colour else f"{head}\n"]
    parts += [f"  refused, {reason}: {visible(detail)}\n" for reason, detail in sample.faults]
    left = most
    for on, group in groupby(zip(texts, rendered.trained, strict=True), key=lambda pair: pair[1]):
        whole = "".join(piece for piece, _ in group)
        text = visible(whole[: max(left, 0)])
        left -= len(whole)
        if not text:
            continue
        if colour:
            text = _with_breaks(text) if on else text
            # In many terminals a colour would run on to the line's end.
            parts.append(
                "\n".join(
                    f"{_TRAINED if on else _PLAIN}{line}{_END}" if line else "" for line in text.split("\n")
                )
            )
        else:
            parts.append(f"⟦{text}⟧" if on else text)
    if left < 0:
        parts.append(f"\n… {-left:,} more characters; --html shows them all")
    return "".join(parts)


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 2rem 0 .3rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .8rem; color: #666;
  max-height: 40rem; overflow: auto; }
pre b { font-weight: normal; color: #063; background: #bfe8c8; } pre b:nth-of-type(even) { background: #a8dcb5; }
.fault { color: #a00; } .number { text-align: right; }
"""


def page(report: AuditReport, tokenizer: Tokenizer) -> str:
    """One self-contained HTML page: the counts, the findings, and the samples token by token (ids under the pointer)."""
    counts = "".join(
        f"<tr><td>{_safe(reason)}</td><td class=number>{report.reasons[reason]:,}</td><td>{escape(meaning)}</td></tr>"
        for reason, meaning in REASONS.items()
        if report.reasons[reason]
    )
    findings = "".join(
        f"<tr><td>{_safe(each.file)}:{each.line}</td><td>{_safe(each.id)}</td><td>{_safe(each.reason)}</td>"
        f"<td>{_safe(each.detail)}</td></tr>"
        for each in report.findings
    )
    share = 100 * report.trained_tokens / max(report.tokens, 1)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>agentlm data audit</title>"
        f"<style>{_STYLE}</style><h1>Audit: {report.refused:,} of {report.conversations:,} conversations refused</h1>"
        f"<p>{report.tokens:,} tokens, {report.trained_tokens:,} of them trained ({share:.1f} %); the longest conversation "
        f"has {report.longest:,}. Drift was judged by: {_safe(report.reference)}.</p>"
        + (f"<table><tr><th>reason<th>conversations<th></tr>{counts}</table>" if counts else "")
        + "<h1>Samples</h1><p>Green tokens are trained; ↵ is a trained line break.</p>"
        + "".join(_sample(sample, tokenizer) for sample in report.samples)
        + (f"<h1>Findings</h1><table>{findings}</table>" if findings else "")
        + "</html>"
    )


def _sample(sample: Sample, tokenizer: Tokenizer) -> str:
    rendered = sample.rendered
    faults = "".join(
        f"<p class=fault>{_safe(reason)}: {_safe(detail)}</p>" for reason, detail in sample.faults
    )
    marked = []
    for text, token, on in zip(pieces(tokenizer, rendered.ids), rendered.ids, rendered.trained, strict=True):
        tag = "b" if on else "span"
        shown = _with_breaks(visible(text)) if on else visible(text)
        marked.append(f"<{tag} title={token}>{escape(shown)}</{tag}>")
    return (
        f"<h2>{_safe(sample.file)}:{sample.line} {_safe(sample.conversation.id)} "
        f"({_safe(sample.conversation.source)}): {rendered.trained_tokens:,} of {len(rendered.ids):,} tokens trained</h2>"
        f"{faults}<pre>{''.join(marked)}</pre>"
    )


def _safe(text: str) -> str:
    return escape(visible(text))


def _with_breaks(text: str) -> str:
    return text.replace("\n", "↵\n")
