"""`agentlm data audit`: what would damage a training run without a word, and samples as the trainer sees them."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from agentlm.tuning.data.audit import AuditReport


class Lines(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """Numbers of lines, separated by commas."""

    name = "lines"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> frozenset[int]:
        """Reads the numbers."""
        if isinstance(value, frozenset):
            return value
        try:
            return frozenset(int(part) for part in str(value).split(","))
        except ValueError:
            return self.fail(f"{value!r} is not a list of line numbers such as 3,17", param, ctx)


@click.command("audit")
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--model", required=True, type=click.Path(exists=True, file_okay=False), help="Checkpoint whose tokenizer and chat template render.")  # fmt: skip
@click.option("--chat-template", type=click.Path(exists=True, dir_okay=False), help="Jinja file to use instead of the checkpoint's own template.")  # fmt: skip
@click.option("--max-length", type=int, help="Most tokens of a conversation in training [default: the model's positions]")  # fmt: skip
@click.option("--show", type=click.IntRange(0), default=2, show_default=True, help="Conversations to show here and on the page, refused ones among them.")  # fmt: skip
@click.option("--lines", type=Lines(), help="Show these lines instead, such as 3,17.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with the samples token by token.")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the findings as JSON.")  # fmt: skip
@click.option("--passed", type=click.Path(dir_okay=False, path_type=Path), help="Write the conversations that pass to this file.")  # fmt: skip
@click.option("--refused", type=click.Path(dir_okay=False, path_type=Path), help="Write those that do not to this file, with reasons.")  # fmt: skip
@click.option("--allow", multiple=True, metavar="REASON", help="Count this reason, but refuse nothing for it. Repeatable.")  # fmt: skip
@click.option("--drift/--no-drift", default=True, show_default=True, help="Render everything a second time with jinja2 and the checkpoint's own tokenizer, and compare.")  # fmt: skip
def command(
    data: tuple[str, ...],
    model: str,
    chat_template: str | None,
    max_length: int | None,
    show: int,
    lines: frozenset[int] | None,
    html: Path | None,
    json_file: Path | None,
    passed: Path | None,
    refused: Path | None,
    allow: tuple[str, ...],
    drift: bool,
) -> None:
    """Look at DATA (files of records) as the trainer will see it; exit with 1 if anything must not be trained on.

    Refuses conversations without a trained token, trained turns that would be cut off, a doubled BOS, turn ends that are not
    trained or at which the server does not stop, tokens that drift from the checkpoint's own template and tokenizer, text of
    templates in messages, messages and tools that the template drops.
    """
    from agentlm.cli.data.output import reading, write_text
    from agentlm.tuning.data import audit, outputs
    from agentlm.tuning.data.audit.show import page, terminal
    from agentlm.tuning.data.errors import DataError
    from agentlm.tuning.data.rendering import Renderer

    outputs.check(data, html, json_file, passed, refused)
    renderer = Renderer(model, chat_template)
    longest = max_length or renderer.context_length()
    if longest is None:
        raise DataError(f"{model} does not say how many positions the model has; give --max-length")
    auditor = audit.Auditor(renderer, audit.AuditSettings(longest, allow, drift))
    with reading("auditing", data) as progress:
        report = audit.run(
            data,
            auditor,
            show=max(show, len(lines or ())),
            lines=lines or frozenset(),
            passed=passed,
            refused=refused,
            progress=progress,
        )
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for sample in report.samples:
        click.echo(terminal(sample, renderer.tokenizer, colour=colour) + "\n")
    absent = (lines or frozenset()) - {sample.line for sample in report.samples}
    if absent:
        click.echo(
            f"not shown, as no conversation could be rendered there: line {', '.join(map(str, sorted(absent)))}"
        )
    _print(report, allow)
    if html is not None:
        write_text(html, page(report, renderer.tokenizer) + "\n")
    if json_file is not None:
        write_text(json_file, json.dumps(report.to_dict(), ensure_ascii=False, indent=1) + "\n")
    if report.refused:
        raise click.exceptions.Exit(1)


def _print(report: "AuditReport", allowed: tuple[str, ...]) -> None:
    from agentlm.cli.data.output import counted
    from agentlm.tuning.data.audit import REASONS
    from agentlm.tuning.data.visible_text import visible

    share = 100 * report.trained_tokens / max(report.tokens, 1)
    click.echo(
        f"{counted(report.conversations, 'conversation')}, {report.tokens:,} tokens, {report.trained_tokens:,} of them trained "
        f"({share:.1f} %); the longest has {report.longest:,}"
    )
    click.echo(f"drift judged by: {report.reference}")
    for reason, count in report.reasons.most_common():
        click.echo(
            f"{'allowed' if reason in allowed else 'REFUSED'} {counted(count, 'conversation')}, {reason}: {REASONS[reason]}"
        )
        for finding in [each for each in report.findings if each.reason == reason][:3]:
            click.echo(visible(f"  {finding.file}:{finding.line} {finding.id}: {finding.detail}"))
    if not report.refused:
        click.echo("nothing refused")
