# ruff: noqa: E501  # an option is one line: name, type, default, help
"""`agentlm eval TASK...`: runs episodes, or goes on where an earlier run was stopped, and prints the table."""

import asyncio
import json
import os
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import click

from agentlm_evals.cli.errors import shown
from agentlm_evals.cli.numbers import Number
from agentlm_evals.cli.options import cache_home, data_options, model_choice, model_options, task_options
from agentlm_evals.data import choose_source
from agentlm_evals.errors import ConfigError, RequirementError, RunError
from agentlm_evals.harness.episode import Budget
from agentlm_evals.harness.plan import RunSettings, TaskPlan, plan_task
from agentlm_evals.harness.run import Result, Runner
from agentlm_evals.models.choice import ModelChoice, open_model, served_urls
from agentlm_evals.models.proxy import Proxies
from agentlm_evals.models.template import SERVER
from agentlm_evals.protocols.choose import choose_protocol
from agentlm_evals.task import Missing, Setting, Task, resolve_options
from agentlm_evals.tasks import GROUPS, Entry, entry, resolve

JUDGE = "--judge-url URL [--judge-model NAME]; the tested server's own URL will do to try it, and is marked as not comparable"


@click.command("run")
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@model_options
@data_options
@click.option("--skip", multiple=True, metavar="TASK", help="Leave this task out of a group; repeatable.")
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the run is kept [default: runs/NAME, made of the model and the settings, so that the same command goes on]",
)
@click.option("--limit", type=click.IntRange(min=1), help="The first so many samples of each task.")
@click.option("--sample-id", "sample_ids", multiple=True, help="This sample; repeatable.")
@click.option(
    "--samples-per-item",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Episodes of each sample.",
)
@click.option("--temperature", type=Number(min=0), help="In place of the protocol's; 0 is greedy.")
@click.option("--top-p", type=Number(min=0, max=1, min_open=True), help="In place of the protocol's.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="In place of the protocol's.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Every sampling seed is derived from it.",
)
@click.option(
    "--concurrency",
    "--workers",
    type=click.IntRange(min=1),
    help="Episodes at once [default: what the servers take, at most 256]",
)
@click.option(
    "--episode-tokens", type=click.IntRange(min=1), help="Generated tokens that an episode may have."
)
@click.option(
    "--episode-seconds",
    type=Number(min=0, min_open=True),
    help="Wall time that an episode may take.",
)
@click.option(
    "--fault-retries",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="How often an episode is run again that a fault of ours, the server's or the environment's ended.",
)
@click.option("--judge-url", help="An OpenAI-compatible server that rates answers (MT-Bench, ReWOO).")
@click.option("--judge-model", help="The judge's name on that server.")
@click.option("--judge-api-key", envvar="OPENAI_API_KEY", help="Of the judge's server.")
@shown
def command(tasks: tuple[str, ...], skip: tuple[str, ...], out: Path | None, **options: Any) -> None:
    """Run TASK... against a model and print the table.

    An episode that ended is never run again: the same command goes on where it was stopped, killed or cut off.
    """
    choice = model_choice(options)
    judge = _judge(options)
    budget = Budget(options.pop("episode_tokens"), options.pop("episode_seconds"))
    chosen = {name: options.pop(name) for name in ("data", "own_samples", "file", "protocol", "protocol_dir")}
    given = task_options(options.pop("task_options"))
    settings = RunSettings(budget=budget, **options)
    skipped = {entry(name).name for name in skip}
    entries = [one for one in resolve(list(tasks)) if one.name not in skipped]
    if not entries:
        raise ConfigError("--skip leaves no task")
    _say_left_out(tasks, entries)
    if chosen["file"] is not None and len(entries) != 1:
        raise ConfigError("--sample-input-file is for one task")
    plans = _plans(entries, chosen, given, settings, judge is not None)
    for plan in plans:
        source = plan.setting.source
        where = "our own samples" if plan.is_own else str(source.file or source.directory)
        if plan.task.needs_no_data:
            where = "by its rules"
        click.echo(
            f"{plan.task.name}: {len(plan.samples)} of {plan.total} samples ({where}), protocol {plan.setting.protocol.name}",
            err=True,
        )
    for each in (choice, *([judge] if judge else [])):
        for line in each.detours():
            click.echo(line, err=True)
    with served_urls(choice) as (urls, weights):
        directory, result = asyncio.run(_run(choice, urls, weights, judge, plans, settings, out))
    from agentlm_evals.report.table import load_runs, terminal

    click.echo(terminal(load_runs([directory])))
    _write_logs(directory, plans)
    click.echo(f"{directory}", err=True)
    if result.stopped:
        raise click.ClickException(result.stopped)
    if result.faults:
        raise click.ClickException(
            f"{result.faults} episodes ended with a harness fault, which says nothing about the model; run the same command again"
        )


def _write_logs(directory: Path, plans: list[TaskPlan]) -> None:
    """The transcripts for `agentlm eval view`; Inspect takes two seconds to import, so it is only now."""
    from agentlm_evals.harness import journal
    from agentlm_evals.harness.evallog import write_logs

    for plan in plans:
        folder = directory / plan.task.name
        model = json.loads((folder / "task.json").read_text())["model"]
        write_logs(folder, plan, journal.read(folder / "episodes.jsonl"), model)


async def _run(
    choice: ModelChoice,
    urls: Sequence[str],
    weights: str | None,
    judge: ModelChoice | None,
    plans: list[TaskPlan],
    settings: RunSettings,
    out: Path | None,
) -> tuple[Path, Result]:
    async with open_model(choice, urls, weights) as model:
        models = {
            plan.task.name: model.with_template(choice.template or plan.setting.protocol.template or SERVER)
            for plan in plans
        }
        for one in {each.template: each for each in models.values()}.values():
            await one.check_template()
        about: dict[str, Any] = {
            "name": model.name,
            "weights": model.facts.weights,
            "template": choice.template,
            "api": model.facts.api,
            "server": model.facts.version,
        }
        if model.facts.weights is None and model.facts.asked != model.name:
            # Two checkpoints whose folders have one name are told apart at least by their places.
            about["served as"] = model.facts.asked
        if choice.serve_arguments:
            # They may change what is answered as weights do.
            about["served with"] = list(choice.serve_arguments)
        directory = out or Path("runs") / _name(about, plans, settings)
        _check_directory(directory)
        if judge is None:
            return directory, await Runner(
                plans, models, settings, directory, about, concurrency=model.facts.concurrency
            ).run()
        async with open_model(judge, judge.urls) as judging:
            about["judge"] = judging.name
            runner = Runner(
                plans, models, settings, directory, about, judge=judging, concurrency=model.facts.concurrency
            )
            return directory, await runner.run()


def _plans(
    entries: list[Entry],
    source: dict[str, Any],
    given: dict[str, dict[str, str]],
    settings: RunSettings,
    has_judge: bool,
) -> list[TaskPlan]:
    if unknown := set(given) - {row.name for row in entries}:
        raise ConfigError(f"--task-option names {', '.join(sorted(unknown))}, which this run does not have")
    plans: list[TaskPlan] = []
    missing: list[tuple[Task, Missing]] = []
    for row in entries:
        task = row.load()
        setting = setting_of(task, given.get(row.name, {}), **source)
        lacks = task.requirements(setting)
        if task.needs_judge and not has_judge:
            lacks = [*lacks, Missing("a judge", JUDGE)]
        missing += [(task, one) for one in lacks]
        if not lacks:
            plans.append(plan_task(task, setting, settings))
    if missing:
        lines = [f"{task.name} lacks {one.what}: {one.how}" for task, one in missing]
        names = " ".join(f"--skip {name}" for name in dict.fromkeys(task.name for task, _ in missing))
        raise RequirementError("\n  ".join(["tasks cannot run here:", *lines, f"{names} leaves them out"]))
    return plans


def setting_of(
    task: Task,
    given: dict[str, str],
    *,
    data: Path | None,
    own_samples: bool,
    file: Path | None,
    protocol: str | None,
    protocol_dir: Path | None,
) -> Setting:
    """What the options say about one task."""
    chosen = choose_source(task, directory=data, fetched=cache_home() / "data", own=own_samples, file=file)
    sources = protocol_dir or cache_home() / "data" / "agenttuning"
    return Setting(chosen, choose_protocol(task, protocol, sources), resolve_options(task, given))


def _say_left_out(names: tuple[str, ...], entries: list[Entry]) -> None:
    """A group without some of its tasks says so."""
    for name in names:
        rows = [row for group in GROUPS.values() for row in group] if name == "all" else GROUPS.get(name, ())
        left = [row.name for row in rows if row not in entries]
        if left:
            click.echo(
                f"{name}: {len(rows) - len(left)} of {len(rows)} tasks; left out: {', '.join(left)}",
                err=True,
            )


def _judge(options: dict[str, Any]) -> ModelChoice | None:
    url, name, key = options.pop("judge_url"), options.pop("judge_model"), options.pop("judge_api_key")
    if url is None:
        if name is not None:
            raise ConfigError("--judge-model is given without --judge-url")
        return None
    proxies = Proxies.from_environment(os.environ)
    return ModelChoice(model=name, urls=(url,), api="openai", api_key=key, proxies=proxies)


def _name(about: dict[str, Any], plans: list[TaskPlan], settings: RunSettings) -> str:
    """A directory's name: readable, and another one whenever the results could be others."""
    protocols = "+".join(sorted({plan.setting.protocol.name for plan in plans}))
    own = [plan.is_own for plan in plans]
    decides = [
        {key: value for key, value in about.items() if key != "server"},
        protocols,
        own,
        settings.seed,
        settings.temperature,
        settings.top_p,
        settings.max_new_tokens,
        # Only where there is something to say, so that a plain run's name stays what it was.
        *([settings.budget] if settings.budget != Budget() else []),
        *(
            (plan.task.name, option.name, plan.setting.options[option.name])
            for plan in plans
            for option in plan.task.options
            if option.decides and plan.setting.options[option.name] != option.default
        ),
    ]
    digest = sha256(repr(decides).encode()).hexdigest()[:8]
    model = re.sub(r"[^\w.-]+", "-", str(about["name"]))[-60:].strip("-.")
    return f"{model}-{protocols}-{digest}"


def _check_directory(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise RunError(f"{directory} is a file; --out names a directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{directory} cannot be made: {error}") from error
