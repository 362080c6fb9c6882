"""`agentlm tune evolve CONFIG`: rejection sampling in rounds. Refuses to know torch until it runs."""

import sys
from typing import Any

import click

from agentlm.cli.tune.train import configuration_options, configured, prepare


@click.command("evolve")
@configuration_options
@click.option(
    "--generate",
    required=True,
    help="Command that writes records with rewards; {url}, {output} and {round} are filled in.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="How often.")
@click.option(
    "--threshold", type=click.FLOAT, default=1.0, show_default=True, help="Least reward of what is kept."
)
@click.option("--serve", default="", help="Further flags of `agentlm serve`, as one word.")
def command(
    config: str,
    assigned: tuple[tuple[str, Any], ...],
    deterministic: bool,
    generate: str,
    rounds: int,
    threshold: float,
    serve: str,
    **flags: Any,
) -> None:
    """Generate through a server, keep what scored, tune on it as CONFIG says, and again.

    Each round trains CONFIG's model anew on its sources and all that was kept so far. What is done is not done again.
    """
    settings = configured(config, assigned, deterministic, flags)
    prepare(settings)
    from agentlm.tuning.evolve import evolve, told

    done = evolve(
        settings,
        generate,
        rounds=rounds,
        threshold=threshold,
        serve=serve,
        say=lambda line: click.echo(line, err=True),
    )
    click.echo(told(done))
    if done and done[-1].model is None:
        sys.exit(130)
