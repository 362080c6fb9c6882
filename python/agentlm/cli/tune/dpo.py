"""`agentlm tune dpo CONFIG`: direct preference optimization on pairs of trajectories. Refuses to know torch until it runs."""

from typing import Any

import click

from agentlm.cli.tune.train import train, training_options


@click.command("dpo")
@training_options
@click.option(
    "--beta", type=click.FLOAT, help="How strongly the model is held to where it started. [dpo.beta]"
)
@click.option(
    "--margin", type=click.FLOAT, help="A pair's rewards must differ by more than this. [dpo.margin]"
)
def command(beta: float | None, margin: float | None, **options: Any) -> None:
    """Train on trajectories of one item that got different rewards, as CONFIG says.

    The sources' records need `task`, `item` and `reward`; `training.batch` counts pairs. A [dpo] table in CONFIG makes
    `agentlm tune CONFIG` the same.
    """
    given = [(key, value) for key, value in (("dpo.beta", beta), ("dpo.margin", margin)) if value is not None]
    train(given=given, tables=("dpo",), **options)
