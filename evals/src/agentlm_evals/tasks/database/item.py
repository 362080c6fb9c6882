"""DBBench's items: one table, a question or a statement to write. Refuses to know engines and dialogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentlm_evals.errors import DataError

CHANGES = ("INSERT", "UPDATE", "DELETE")
SELECT = "SELECT"


@dataclass(frozen=True, slots=True)
class Table:
    """An item's table; every column is text, whatever type the data name."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]

    def __post_init__(self) -> None:
        if len({column.lower() for column in self.columns}) != len(self.columns):
            raise DataError(f"table {self.name!r} has a column twice")
        if "" in self.columns:
            raise DataError(f"table {self.name!r} has a column without a name")
        if not self.columns or not self.name or len(self.name) > 64 or "\0" in self.name:
            raise DataError(
                f"table {self.name!r} must have a name of 1 to 64 characters and at least one column"
            )
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise DataError(
                    f"table {self.name!r}: row {number} has {len(row)} values for {len(self.columns)} columns"
                )


def _repaired(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[list[str], list[list[Any]]]:
    """Columns with a name each, all different, and rows of as many values: some published items lack one or the other."""
    names: list[str] = []
    for number, column in enumerate(columns, 1):
        name, again = column or f"column_{number}", 2
        while name.lower() in {known.lower() for known in names}:
            name, again = f"{column}_{again}", again + 1
        names.append(name)
    width = len(names)
    return names, [[*row[:width], *[""] * (width - len(row))] for row in rows]


def read_table(body: Mapping[str, Any], *, repair: bool) -> Table:
    """An item's table as the data have it, or with what no engine would load set right. A missing cell is the text None.

    Raises:
        DataError: No engine could load it.
    """
    try:
        info = body["table_info"]
        columns = [str(column["name"]) for column in info["columns"]]
        rows = [list(row) for row in info["rows"]]
        if repair:
            columns, rows = _repaired(columns, rows)
        cells = tuple(tuple(str(cell) for cell in row) for row in rows)
        return Table(str(body["table_name"]), tuple(columns), cells)
    except (KeyError, TypeError) as error:
        raise DataError(f"an item's table lacks {error}") from error


def statement_type(types: Any) -> str:
    """`INSERT`, `UPDATE`, `DELETE`, or `SELECT` for all kinds of questions: what the macro average runs over."""
    first = str((types if isinstance(types, list) else [types])[0])
    return first if first in CHANGES else SELECT
