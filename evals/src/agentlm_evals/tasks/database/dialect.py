"""MySQL's SQL in SQLite's: sqlglot translates the grammar, this file what the words mean.

Text compares as MySQL's default collation does (case and accents are one), text beside a number counts as the number it
begins with, `/` never divides whole numbers, and what MySQL refuses is refused with its numbers and texts. Refuses to know
items and where the database lies.
"""

import re
import unicodedata
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite
from sqlglot.errors import SqlglotError

_NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Mod)
_NUMERIC = (exp.Count, exp.Sum, exp.Avg, exp.Length, exp.Neg, *_ARITHMETIC, exp.Div)
_REFUSED = (exp.Pragma, exp.Attach, exp.Detach)
Node = Any
"""A node of sqlglot's tree; the class has changed its name between versions."""
NUMBER_OF = "mysql_number"
"""SQL function that this file expects: `number_of`."""


class _Backticks(SQLite):
    """SQLite that quotes names in backticks: one in double quotes that names no column would silently be a text."""

    class Tokenizer(SQLite.Tokenizer):
        """Which quotes stand around a name; the first is the one that is written."""

        IDENTIFIERS = ["`"]  # noqa: RUF012  # sqlglot's own form


class DialectError(Exception):
    """A statement that MySQL would refuse; the text is what MySQL would say."""


def fold(text: str) -> str:
    """What a text compares as: no case, no accents, no trailing spaces."""
    split = unicodedata.normalize("NFKD", text.rstrip(" "))
    return "".join(c for c in split if not unicodedata.combining(c)).casefold()


def collate(left: str, right: str) -> int:
    """The collation: -1, 0 or 1."""
    a, b = fold(left), fold(right)
    return (a > b) - (a < b)


def number_of(value: object) -> float | int | None:
    """A value as a number: a text is the number that it begins with, or 0."""
    if value is None or isinstance(value, int | float):
        return value
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    found = _NUMBER.match(text)
    if found is None:
        return 0.0
    return float(found[0])


def near(sql: str, at: int) -> str:
    """MySQL's text about grammar."""
    return (
        "1064 (42000): You have an error in your SQL syntax; check the manual that corresponds to your MySQL server "
        f"version for the right syntax to use near '{sql[at : at + 80]}' at line 1"
    )


def parse(sql: str) -> Node:
    """One statement.

    Raises:
        DialectError: It is none, or more than one, or no statement of MySQL's.
    """
    try:
        found = [statement for statement in sqlglot.parse(sql, read="mysql") if statement is not None]
    except SqlglotError as error:
        places = getattr(error, "errors", None) or [{}]
        highlighted = str(places[0].get("highlight") or "")
        at = sql.find(highlighted) if highlighted else 0
        raise DialectError(near(sql, max(at, 0))) from error
    except RecursionError as error:
        raise DialectError("1436 (HY000): Thread stack overrun") from error
    if not found:
        raise DialectError("1065 (42000): Query was empty")
    if len(found) > 1:
        second = sql.find(";") + 1
        raise DialectError(near(sql, second + len(sql[second:]) - len(sql[second:].lstrip())))
    statement = found[0]
    if isinstance(statement, _REFUSED):
        raise DialectError(near(sql, 0))
    if isinstance(statement, exp.Alias | exp.Column | exp.Identifier | exp.Literal):
        raise DialectError(near(sql, 0))  # a bare word parses as an expression
    return statement


def _is_number(node: Node | None) -> bool:
    """Whether an expression is a number in MySQL whatever the table holds."""
    if isinstance(node, exp.Paren):
        return _is_number(node.this)
    if isinstance(node, exp.Literal):
        return not node.is_string
    if isinstance(node, exp.Cast):
        return node.to.this in exp.DataType.NUMERIC_TYPES or node.to.this in exp.DataType.INTEGER_TYPES
    if isinstance(node, exp.Anonymous):
        return node.name == NUMBER_OF
    if isinstance(node, exp.Subquery):
        chosen = node.this.selects if isinstance(node.this, exp.Select) else []
        return len(chosen) == 1 and _is_number(chosen[0].unalias())
    if isinstance(node, exp.Round | exp.Abs | exp.Ceil | exp.Floor):
        return True
    return isinstance(node, _NUMERIC)


def _as_number(node: Node) -> Node:
    if _is_number(node) or isinstance(node, exp.Subquery | exp.Null | exp.Star | exp.Interval | exp.Distinct):
        return node
    return exp.Anonymous(this=NUMBER_OF, expressions=[node.copy()])


def _call(name: str, *arguments: Node | None) -> Node:
    return exp.Anonymous(
        this=name, expressions=[argument.copy() for argument in arguments if argument is not None]
    )


def _other_function(node: Node) -> Node:
    """What SQLite has under another name, or has not: see `functions.py`."""
    if isinstance(node, exp.Left | exp.Right):
        return _call(
            "mysql_left" if isinstance(node, exp.Left) else "mysql_right", node.this, node.expression
        )
    if isinstance(node, exp.Year | exp.Month | exp.Day | exp.DayOfMonth):
        name = {exp.Year: "year", exp.Month: "month"}.get(type(node), "day")
        inner = node.this.this if isinstance(node.this, exp.TsOrDsToDate) else node.this
        return _call(f"mysql_{name}", inner)
    if isinstance(node, exp.Anonymous) and node.name.lower() == "now":
        return _call("datetime", exp.Literal.string("now"))
    if isinstance(node, exp.CurrentTimestamp | exp.CurrentDate):
        kind = "date" if isinstance(node, exp.CurrentDate) else "datetime"
        return _call(kind, exp.Literal.string("now"))
    if isinstance(node, exp.Xor):
        # Each side as 0 or 1; NULL stays NULL.
        sides = [
            exp.paren(exp.not_(exp.paren(exp.not_(exp.paren(side.copy())))))
            for side in (node.this, node.expression)
        ]
        return exp.paren(exp.NEQ(this=sides[0], expression=sides[1]))
    if isinstance(node, exp.GroupConcat) and isinstance(node.this, exp.Order):
        ordered = node.this.expressions[0]
        separator = node.args.get("separator") or exp.Literal.string(",")
        down = exp.Literal.number(int(bool(ordered.args.get("desc"))))
        return _call("mysql_group_concat", node.this.this, separator, ordered.this, down)
    if isinstance(node, exp.TruncateTable):
        return exp.Delete(this=node.expressions[0].copy())
    return node


def _rewrite(node: Node) -> Node:
    if isinstance(node, exp.EQ) and isinstance(node.parent, exp.Update) and node.arg_key == "expressions":
        return node  # an assignment, no comparison
    if isinstance(node, _COMPARISONS):
        left, right = node.this, node.expression
        if _is_number(left) != _is_number(right):
            node.set("this", _as_number(left))
            node.set("expression", _as_number(right))
    elif isinstance(node, exp.Between):
        if any(_is_number(node.args[name]) for name in ("low", "high")):
            for name in ("this", "low", "high"):
                node.set(name, _as_number(node.args[name]))
    elif isinstance(node, exp.In):
        if node.expressions and all(_is_number(option) for option in node.expressions):
            node.set("this", _as_number(node.this))
    elif isinstance(node, _ARITHMETIC):
        node.set("this", _as_number(node.this))
        node.set("expression", _as_number(node.expression))
    elif isinstance(node, exp.Div):
        # Division yields a fraction and NULL by 0, as in MySQL.
        left, right = _as_number(node.this), _as_number(node.expression)
        node.set("this", exp.Mul(this=exp.Literal.number("1.0"), expression=exp.paren(left.copy())))
        node.set(
            "expression", exp.Anonymous(this="nullif", expressions=[right.copy(), exp.Literal.number(0)])
        )
    elif isinstance(node, exp.Sum | exp.Avg):
        inner = node.this
        if isinstance(inner, exp.Distinct):
            inner.set("expressions", [_as_number(part) for part in inner.expressions])
        else:
            node.set("this", _as_number(inner))
    elif isinstance(node, exp.Cast) and (
        node.to.this in exp.DataType.INTEGER_TYPES or node.to.this in exp.DataType.NUMERIC_TYPES
    ):
        node.set("this", _as_number(node.this))
    return node


def _drop_schema(node: Node, database: str) -> Node:
    """`database`.`table` is the table: SQLite knows one database."""
    if (
        isinstance(node, exp.Table)
        and node.args.get("db") is not None
        and node.db.lower() == database.lower()
    ):
        node.set("db", None)
    return node


def translate(sql: str, database: str) -> str:
    """A statement of MySQL's as one of SQLite's.

    Raises:
        DialectError: MySQL would refuse it.
    """
    statement = parse(sql)
    try:
        changed = statement.transform(_drop_schema, database).transform(_other_function)
        # Leaves first: a parent sees what its operands have become.
        for node in reversed(list(changed.walk(bfs=False))):
            _rewrite(node)
        return str(changed.sql(dialect=_Backticks, identify=True, comments=False))
    except (SqlglotError, RecursionError) as error:
        raise DialectError(f"1235 (42000): This version of MySQL doesn't yet support '{error}'") from error
