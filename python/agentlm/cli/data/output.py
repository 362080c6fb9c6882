"""What the commands of `agentlm data` print alike: counts, tables, progress, and the names of files beside an output."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it has one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def beside(output: Path, ending: str) -> Path:
    """The file beside an output that has `ending` in place of its own."""
    name = output.name.removesuffix(".gz").removesuffix(".jsonl")
    return output.with_name(f"{name}{ending}")


def rejects_path(output: Path) -> Path:
    """Where rejected rows go by default."""
    return beside(output, ".rejects.jsonl")


@contextmanager
def reading(what: str, paths: Sequence[str | Path]) -> Iterator[Callable[[int], None] | None]:
    """Yields `advance(bytes)`, or None when nobody would see a bar. Folders stand for the files in them."""
    from agentlm.progress import wanted

    if not wanted():
        yield None
        return
    from tqdm import tqdm

    files = [
        file
        for path in map(Path, paths)
        for file in ([path] if path.is_file() else path.rglob("*"))
        if file.is_file()
    ]
    size = sum(file.stat().st_size for file in files)
    with tqdm(total=size or None, desc=what, unit="B", unit_scale=True, unit_divisor=1024) as bar:

        def advance(read: int) -> None:
            bar.update(read)

        yield advance


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side: the first to the left, the others to the right. Names of other people's making are made safe."""
    from agentlm.tuning.data.visible_text import visible

    lines = [head, *([visible(row[0]).replace("\n", "\u240a"), *row[1:]] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    made = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        made.append("  ".join(cells).rstrip())
    return "\n".join(made)


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all, and says so."""
    import click

    from agentlm.tuning.record import LineWriter

    with LineWriter(path) as writer:
        writer.write(text.removesuffix("\n"))
    click.echo(f"wrote {path}")
