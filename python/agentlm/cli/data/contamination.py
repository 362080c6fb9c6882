"""`agentlm data contamination`: does training data hold an evaluation set? A table, and reports as HTML and JSON."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentlm.cli.options import Number

if TYPE_CHECKING:
    from agentlm.tuning.contamination import Contamination


@click.command("contamination")
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--against", "evaluation", multiple=True, required=True, type=click.Path(exists=True, dir_okay=False), help="Evaluation set: .jsonl, .json, or text with one sample a line; may be gzipped. Repeatable.")  # fmt: skip
@click.option("--field", "fields", multiple=True, help="Field of the evaluation set that holds text (`a.b` goes into objects). Repeatable. [default: messages, else text and content]")  # fmt: skip
@click.option(
    "--data-field", "data_fields", multiple=True, help="The same for the data's JSON lines. Repeatable."
)
@click.option(
    "--form", type=click.Choice(["jsonl", "text"]), help="Read every data file so [default: by its name]"
)
@click.option("--tokens", type=click.Choice(["words", "whitespace"]), default="words", show_default=True, help="words: runs of letters and digits in lower case; whitespace: what stands between blanks.")  # fmt: skip
@click.option(
    "--model", type=click.Path(exists=True, file_okay=False), help="Use this checkpoint's tokenizer instead."
)
@click.option("--ngram", type=click.IntRange(1, 2**16), default=10, show_default=True, help="An overlap is longer than this; its first tokens, this many, are equal.")  # fmt: skip
@click.option(
    "--skip-budget",
    type=click.IntRange(0, 256),
    default=4,
    show_default=True,
    help="Later tokens of an overlap that may differ.",
)
@click.option("--ignore-shared", type=Number(0, 100), help="Do not count tokens in n-grams that more than this percentage of a set's samples hold: the task's template. [default: every token counts]")  # fmt: skip
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Threads [default: one a processor]")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page that shows the overlaps beside the training text.")  # fmt: skip
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every overlap as JSON.",
)
@click.option(
    "--show",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Samples on the page, the most contaminated first.",
)
@click.option(
    "--overlaps",
    type=click.IntRange(0, 2**16),
    default=3,
    show_default=True,
    help="Overlaps of a sample that are shown, the longest first.",
)
@click.option("--fail-above", type=Number(0, 100), help="Exit with 1 if more than this percentage of a set's samples is not clean.")  # fmt: skip
def command(
    data: tuple[str, ...],
    evaluation: tuple[str, ...],
    fields: tuple[str, ...],
    data_fields: tuple[str, ...],
    form: str | None,
    tokens: str,
    model: str | None,
    ngram: int,
    skip_budget: int,
    ignore_shared: float | None,
    threads: int,
    html: Path | None,
    json_file: Path | None,
    show: int,
    overlaps: int,
    fail_above: float | None,
) -> None:
    """Look for evaluation samples in training DATA (files, or directories of .jsonl and .txt files).

    The test is AgentTuning's, after Llama-2's: a token of a sample is contaminated if it lies in an overlap longer than 10
    tokens, of which at most 4 differ. Samples are clean (less than 20 % of their tokens), not clean, not dirty (less than
    80 %) or dirty.
    """
    from agentlm.cli.data.output import write_text
    from agentlm.tuning.contamination import Settings, page, read_sets, scan, sources
    from agentlm.tuning.data import outputs

    settings = Settings(
        ngram=ngram,
        skip_budget=skip_budget,
        tokens=tokens,
        model=model,
        ignore_shared=None if ignore_shared is None else ignore_shared / 100,
        threads=threads,
        overlaps=overlaps,
    )
    outputs.check((*data, *evaluation), html, json_file)
    samples = read_sets(evaluation, fields)
    training = sources(data, "jsonl" if form == "jsonl" else "text" if form == "text" else None)
    with _progress(sum(path.stat().st_size for path, _ in training)) as progress:
        found = scan(samples, training, settings, data_fields=data_fields, progress=progress)
    _print(found)
    if json_file is not None:
        write_text(json_file, json.dumps(found.to_dict(), ensure_ascii=False, indent=1))
    if html is not None:
        write_text(html, page(found, show))
    if fail_above is not None:
        _judge(found, fail_above)


@contextmanager
def _progress(size: int) -> Iterator[Callable[[int], None] | None]:
    """Yields `advance(bytes read)`, or None when nobody would see a bar."""
    from agentlm.progress import wanted

    if not wanted():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=size, desc="comparing", unit="B", unit_scale=True, unit_divisor=1024) as bar:
        yield lambda done: bar.update(done - bar.n)


def _print(found: "Contamination") -> None:
    from agentlm.cli.data.output import table
    from agentlm.tuning.contamination import BUCKETS
    from agentlm.tuning.data.visible_text import visible

    head = ["set", "samples", *(f"{bucket.name} {bucket.rule}" for bucket in BUCKETS), "tokens", "too short"]
    rows = []
    for name in found.sets():
        samples = [sample for sample in found.samples if sample.set == name]
        buckets = [len(found.bucket(bucket, name)) for bucket in BUCKETS]
        rows.append(
            [
                name,
                f"{len(samples):,}",
                *(f"{count:,} ({100 * count / len(samples):.1f} %)" for count in buckets),
                f"{100 * found.share(name):.2f} %",
                f"{sum(sample.is_short for sample in samples):,}",
            ]
        )
    click.echo(table(head, rows))
    for sample in found.worst()[:5]:
        overlap = sample.overlaps[0]
        text = " ".join("".join(run for _, run in overlap.evaluation).split())
        place = f"{sample.set} {sample.id}: {overlap.path}:{overlap.line}"
        click.echo(visible(f"{100 * sample.share:5.1f} %  {place}  {text:.60}"))
    if found.ignore_shared is not None:
        shared = sum(sample.shared for sample in found.samples)
        click.echo(
            f"{shared:,} tokens did not count: more than {100 * found.ignore_shared:g} % of the samples hold them"
        )
    speed = found.bytes / 2**20 / max(found.seconds, 1e-9)
    click.echo(
        f"{found.records:,} records, {found.tokens:,} tokens ({found.tokenization}) in {found.seconds:.1f} s, {speed:.0f} MiB/s"
    )


def _judge(found: "Contamination", allowed: float) -> None:
    from agentlm.tuning.contamination import BUCKETS

    not_clean = BUCKETS[1]
    for name in found.sets():
        samples = sum(sample.set == name for sample in found.samples)
        percent = 100 * len(found.bucket(not_clean, name)) / samples
        if percent > allowed:
            raise click.ClickException(f"{percent:.1f} % of {name} is not clean; {allowed:g} % are allowed")
