"""`agentlm data import`: anybody's conversations as one file of records."""

from pathlib import Path

import click


@click.command("import")
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, allow_dash=True))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File of records to write; .gz packs it.")  # fmt: skip
@click.option("--rejects", type=click.Path(dir_okay=False, path_type=Path), help="File for rejected rows with their reasons [default: OUTPUT's name with .rejects.jsonl]")  # fmt: skip
@click.option("--format", "format_name", metavar="NAME", help="Read every row so: agentlm, adp, agenttraj, agentinstruct, sharegpt, openai, state-action, instruction [default: what each row is]")  # fmt: skip
@click.option("--source", help="Source of the records [default: a record's own, else the file's name]")
@click.option("--tag", "tags", multiple=True, help="Tag for each record. Repeatable.")
@click.option("--task", help="Task of the records whose rows do not say one.")
@click.option("--html", is_flag=True, help="Take the remnants of web pages out of answers.")
@click.option("--repair", is_flag=True, help="Drop empty turns and answers before the first question, join turns of one speaker, drop a last question.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Exit with 1 if a row was rejected.")
def command(
    data: tuple[str, ...],
    output: Path,
    rejects: Path | None,
    format_name: str | None,
    source: str | None,
    tags: tuple[str, ...],
    task: str | None,
    html: bool,
    repair: bool,
    strict: bool,
) -> None:
    """Read conversations from DATA (files, or folders of .jsonl, .json and .parquet files) into one file of records.

    Takes AgentInstruct, ShareGPT in its dialects, OpenAI messages with tools, AgentTraj, Agent Data Protocol, instruction
    files, and records of our own; `-` is standard input. Files may be larger than memory.
    """
    from agentlm.cli.data.output import counted, reading, rejects_path
    from agentlm.tuning.data import importing

    settings = importing.ImportSettings(
        format=format_name,
        source=source,
        tags=tags,
        task=task,
        html=html,
        repair=repair,
    )
    rejected_to = rejects or rejects_path(output)
    with reading("importing", data) as progress:
        report = importing.run(data, output, rejected_to, settings, progress=progress)
    rejected = sum(report.rejected.values())
    kinds = ", ".join(f"{count:,} {name}" for name, count in report.formats.most_common())
    click.echo(f"{counted(report.taken, 'conversation')} to {output}{f' ({kinds})' if kinds else ''}")
    if rejected:
        reasons = ", ".join(f"{count:,} {name}" for name, count in report.rejected.most_common())
        click.echo(f"{counted(rejected, 'row')} rejected ({reasons}); see {rejected_to}")
    if strict and rejected:
        raise click.exceptions.Exit(1)
