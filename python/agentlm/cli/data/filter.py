"""`agentlm data filter`: the conversations worth training on, and a report of what went and why."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from agentlm.tuning.data.filtering import FilterReport


@click.command("filter")
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File for what stays; .gz packs it.")  # fmt: skip
@click.option("--removed", type=click.Path(dir_okay=False, path_type=Path), help="File for what goes, with reasons [default: OUTPUT's name with .removed.jsonl]")  # fmt: skip
@click.option("--report", "report_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the report as JSON, too.")  # fmt: skip
@click.option("--min-reward", multiple=True, metavar="[TASK=]REWARD", help="Least reward of every task, or of one while the others keep theirs; `off` sets no limit. Repeatable. [default: AgentTuning's: 1, mind2web=0.6667]")  # fmt: skip
@click.option("--require-reward", is_flag=True, help="Remove conversations of a task that have no reward.")
@click.option("--form", "form_options", multiple=True, metavar="TASK=FORM", help="Form of a task's actions: step, click, click-inline, choice, call, act, operation, or none. Repeatable. [default: AgentTuning's and our tasks']")  # fmt: skip
@click.option("--roles/--no-roles", default=True, show_default=True, help="Turns must be in order and not empty.")  # fmt: skip
@click.option("--max-repeats", default=3, show_default=True, help="Times in a row at which the same turns, or the same actions with the same answers, are a loop; 0 looks for none.")  # fmt: skip
@click.option("--max-text-repeats", default=8, show_default=True, help="Times in a row at which a line, or a circle of words, is a repetition; 0 looks for none.")  # fmt: skip
@click.option("--min-turns", default=1, show_default=True, help="Least turns of the assistant.")
@click.option("--max-turns", type=int, help="Most turns of the assistant.")
@click.option("--max-chars", type=int, help="Most characters.")
@click.option("--max-tokens", type=int, help="Most tokens; needs --model.")
@click.option("--model", type=click.Path(exists=True, file_okay=False), help="Checkpoint whose tokenizer and chat template count tokens.")  # fmt: skip
@click.option("--poison", type=click.Choice(["agent", "all", "off"]), default="agent", show_default=True, help="Whose commands are looked at: those in conversations of a task, or in all.")  # fmt: skip
@click.option("--dedupe/--no-dedupe", default=True, show_default=True, help="Remove conversations that say the same as an earlier one, or try the same item.")  # fmt: skip
@click.option("--per-item", default=1, show_default=True, help="Conversations of one task and item that stay; 0 sets no limit.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Exit with 1 if a line was no conversation record.")
def command(
    data: tuple[str, ...],
    output: Path,
    removed: Path | None,
    report_file: Path | None,
    min_reward: tuple[str, ...],
    require_reward: bool,
    form_options: tuple[str, ...],
    roles: bool,
    max_repeats: int,
    max_text_repeats: int,
    min_turns: int,
    max_turns: int | None,
    max_chars: int | None,
    max_tokens: int | None,
    model: str | None,
    poison: str,
    dedupe: bool,
    per_item: int,
    strict: bool,
) -> None:
    """Keep the conversations of DATA (files of records) that are worth training on.

    What goes is written to a file of its own with its line and the reason; nothing is changed.
    """
    from agentlm.cli.data.output import beside, reading, write_text
    from agentlm.tuning.data import filtering, outputs

    settings = filtering.FilterSettings(
        min_reward=_rewards(min_reward),
        require_reward=require_reward,
        roles=roles,
        task_forms=_forms(form_options),
        max_repeats=max_repeats,
        max_text_repeats=max_text_repeats,
        min_turns=min_turns,
        max_turns=max_turns,
        max_chars=max_chars,
        max_tokens=max_tokens,
        poison=poison,
        dedupe=dedupe,
        per_item=per_item,
    )
    count_tokens = None
    if model is not None:
        from agentlm.tuning.data.rendering import Renderer

        count_tokens = Renderer(model).count_tokens
    removed = removed or beside(output, ".removed.jsonl")
    outputs.check(data, output, removed, report_file)
    with reading("filtering", data) as progress:
        report = filtering.run(data, output, removed, settings, count_tokens=count_tokens, progress=progress)
    _print(report, output, removed)
    if report_file is not None:
        write_text(report_file, json.dumps(report.to_dict(), ensure_ascii=False, indent=1) + "\n")
    if strict and report.reasons["record"]:
        raise click.exceptions.Exit(1)


def _rewards(options: Sequence[str]) -> dict[str, float]:
    """AgentTuning's limits, those of single tasks replaced; a limit for every task replaces them all."""
    from agentlm.tuning.data.filtering import AGENTTUNING_REWARDS

    named: dict[str, float] = {}
    for option in options:
        task, sign, number = option.rpartition("=")
        if sign and not task.strip():
            raise click.BadParameter(f"{option!r} names no task; it is TASK=REWARD, such as mind2web=0.667")
        try:
            limit = float("-inf") if number == "off" else float(number)
        except ValueError as error:
            raise click.BadParameter(
                f"{option!r} is not REWARD or TASK=REWARD, such as mind2web=0.667"
            ) from error
        named[task.strip().lower() or "*"] = limit
    return named if "*" in named else {**AGENTTUNING_REWARDS, **named}


def _forms(options: Sequence[str]) -> dict[str, str]:
    from agentlm.tuning.data.filters.forms import FORMS, TASK_FORMS

    made = dict(TASK_FORMS)
    for option in options:
        task, _, form = option.partition("=")
        task = task.strip().lower()
        if not task or form not in (*FORMS, "none"):
            raise click.BadParameter(
                f"{option!r} is not TASK=FORM with a form among {', '.join(FORMS)}, none"
            )
        made.pop(task, None)
        if form != "none":
            made[task] = form
    return made


def _print(report: "FilterReport", output: Path, removed: Path) -> None:
    from agentlm.cli.data.output import counted, table
    from agentlm.tuning.data.filtering import REASONS

    reasons = [reason for reason in REASONS if report.reasons[reason]]
    rows = []
    for group in report.groups:
        went: Counter[str] = report.removed.get(group, Counter())
        total = report.kept[group] + went.total()
        rows.append(
            [
                group,
                f"{total:,}",
                f"{report.kept[group]:,}",
                *(f"{went[reason]:,}" for reason in reasons),
            ]
        )
    if len(rows) > 1:
        sums = [f"{report.reasons[reason]:,}" for reason in reasons]
        total = report.kept.total() + report.reasons.total()
        rows.append(["all", f"{total:,}", f"{report.kept.total():,}", *sums])
    if rows:
        click.echo(table(["task or source", "read", "kept", *reasons], rows))
    for reason in reasons:
        click.echo(f"{reason}: {REASONS[reason]}")
    click.echo(f"{counted(report.kept.total(), 'conversation')} to {output}")
    if report.reasons.total():
        click.echo(f"{counted(report.reasons.total(), 'conversation')} removed; see {removed}")
