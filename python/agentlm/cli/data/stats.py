"""`agentlm data stats`: what a file of records holds, by source, task or tag."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from agentlm.tuning.data.statistics import Counts, Statistics

_BAR = 40
"""Characters of the longest bar."""


@click.command("stats")
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--by", type=click.Choice(["source", "task", "tag"]), default="source", show_default=True, help="What to count by.")  # fmt: skip
@click.option("--model", type=click.Path(exists=True, file_okay=False), help="Checkpoint whose tokenizer and chat template count tokens; characters are counted without one.")  # fmt: skip
@click.option("--chat-template", type=click.Path(exists=True, dir_okay=False), help="Jinja file to use instead of the checkpoint's own template.")  # fmt: skip
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw lengths and trained tokens into this .png, .svg or .pdf file.")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the counts as JSON.")  # fmt: skip
def command(
    data: tuple[str, ...],
    by: str,
    model: str | None,
    chat_template: str | None,
    plot: Path | None,
    json_file: Path | None,
) -> None:
    """Count the conversations of DATA (files of records): turns, tokens, trained tokens, lengths, rewards."""
    from agentlm.cli.data.output import reading, write_text
    from agentlm.tuning.data import outputs
    from agentlm.tuning.data.statistics import collect

    outputs.check(data, plot, json_file)
    render = None
    if model is not None:
        from agentlm.tuning.data.rendering import Renderer

        render = Renderer(model, chat_template).render
    elif chat_template is not None:
        raise click.UsageError("--chat-template needs --model, whose tokenizer it goes with")
    if plot is not None:
        from agentlm.tuning.data import plot as plots

        plots.check(plot)  # before an hour of counting, not after it
    with reading("counting", data) as progress:
        statistics = collect(data, by=by, render=render, progress=progress)
    _print(statistics)
    if json_file is not None:
        write_text(json_file, json.dumps(statistics.to_dict(), ensure_ascii=False, indent=1) + "\n")
    if plot is not None:
        plots.draw(statistics, plot)
        click.echo(f"wrote {plot}")


def _print(statistics: "Statistics") -> None:
    from agentlm.cli.data.output import counted, table

    unit = "tokens" if statistics.has_tokens else "characters"
    head = [statistics.by, "conversations", "turns", "trained", "characters"]
    if statistics.has_tokens:
        head += ["tokens", "trained tokens"]
    head += [f"median {unit}", "95 %", "longest", "mean reward"]
    names = sorted(statistics.groups)
    rows = [_row(name, statistics.groups[name], statistics.has_tokens) for name in names]
    if len(names) != 1:
        rows.append(_row("all", statistics.all, statistics.has_tokens))
    click.echo(table(head, rows))
    click.echo()
    for line in _histogram(statistics.all, unit):
        click.echo(line)
    if statistics.all.unrendered:
        refused = counted(statistics.all.unrendered, "conversation")
        click.echo(
            f"{refused} not counted in tokens: the chat template refuses them; `agentlm data audit` says why"
        )


def _row(name: str, counts: "Counts", has_tokens: bool) -> list[str]:
    row = [
        name,
        f"{counts.conversations:,}",
        f"{counts.turns:,}",
        f"{counts.trained_turns:,}",
        f"{counts.characters:,}",
    ]
    if has_tokens:
        share = 100 * counts.trained_tokens / max(counts.tokens, 1)
        row += [f"{counts.tokens:,}", f"{counts.trained_tokens:,} ({share:.0f} %)"]
    row += [
        f"{number:,}"
        for number in (counts.quantile(0.5), counts.quantile(0.95), max(counts.lengths, default=0))
    ]
    return [*row, f"{counts.reward_sum / counts.rewards:.3f}" if counts.rewards else "-"]


def _histogram(counts: "Counts", unit: str) -> Iterator[str]:
    from agentlm.tuning.data.statistics import class_names

    classes = counts.classes()
    names = [f"{name} {unit}" for name in class_names()]
    first = next((i for i, count in enumerate(classes) if count), 0)
    last = next((i for i in reversed(range(len(classes))) if classes[i]), 0)
    width = max(len(name) for name in names[first : last + 1])
    most = max(*classes, 1)
    for name, count in list(zip(names, classes, strict=True))[first : last + 1]:
        bar = "#" * max(round(_BAR * count / most), 1 if count else 0)
        yield f"{name.rjust(width)} {bar} {count:,}"
