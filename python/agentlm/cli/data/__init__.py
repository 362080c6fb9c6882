"""`agentlm data`: files of conversations, from anybody's format to one that is safe to train on.

A group filled by entry points of `agentlm.data_commands`, so that other wheels bring their own. Nothing heavy is imported here.
"""

import click

from agentlm.cli import EntryPointGroup


@click.group("data", cls=EntryPointGroup, group="agentlm.data_commands")
def command() -> None:
    """Import, clean, check and count conversations."""
