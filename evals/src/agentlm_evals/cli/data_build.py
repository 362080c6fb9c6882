# an option is one line: name, type, default, help
"""`agentlm data build`: runs' good trajectories to one file of conversation records."""

import json
from pathlib import Path

import click

from agentlm_evals.cli.errors import shown
from agentlm_evals.cli.numbers import Number


@click.command("build")
@click.argument(
    "runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The JSONL file to write.",
)
@click.option("--task", "tasks", multiple=True, help="Only this task; repeatable.")
@click.option(
    "--min-reward",
    type=Number(0, 1),
    help="The least reward of an episode; MT-Bench's is a tenth of its rating [default: the paper's, 1; Mind2Web 2/3]",
)
@click.option("--every", is_flag=True, help="Keep every good episode of a sample, not only the first.")
@shown
def command(
    runs: tuple[Path, ...], out: Path, tasks: tuple[str, ...], min_reward: float | None, every: bool
) -> None:
    """Turn the episodes of RUNS that scored well into training data (`agentlm eval` with any model makes the runs)."""
    from agentlm_evals.build import Count, conversations
    from agentlm_evals.harness.journal import write_whole

    count = Count()
    lines = [
        json.dumps(record, ensure_ascii=False) + "\n"
        for run in runs
        for record in conversations(run, min_reward, tasks, count, every=every)
    ]
    write_whole(out, "".join(lines))
    click.echo(
        f"{count.kept} of {count.episodes} episodes kept ({count.repeated} more of samples that gave one already, "
        f"{count.faults} harness faults left out): {out}"
    )
