"""Arithmetic from text, without running the text: numbers, signs, brackets, a few functions. Refuses to know unknowns.

`x` and `×` between numbers multiply, `^` raises, thousands may have commas, `20%` is 0.2. What a model writes around the
expression (units, a question) is an error, not a guess.
"""

import ast
import math
import operator
import re
from collections.abc import Callable

MOST = 500
"""Characters of an expression."""
MOST_POWER = 1000
MOST_DIGITS = 4000

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "sqrt": math.sqrt, "abs": abs, "round": round, "min": min, "max": max, "log": math.log, "ln": math.log,
    "log10": math.log10, "log2": math.log2, "exp": math.exp, "sin": math.sin, "cos": math.cos, "tan": math.tan,
    "floor": math.floor, "ceil": math.ceil, "factorial": math.factorial,
    "pow": lambda base, exponent: _power(base, exponent),
}  # fmt: skip
_CONSTANTS = {"pi": math.pi, "e": math.e}
_SUBSTITUTIONS = (
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"[$€£]"), ""),
    (re.compile(r"[×·]|(?<=[\d)])\s*[xX]\s*(?=[\d(])"), "*"),
    (re.compile("÷"), "/"),
    (re.compile("[−–]"), "-"),
    (re.compile(r"\^"), "**"),
    (re.compile(r"(\d(?:[\d.]*\d)?)\s*%(?!\s*[\d(])"), r"(\1/100)"),
    (re.compile(r"\[\s*([^\[\]]*?)\s*\]"), r"(\1)"),
)


class ExpressionError(Exception):
    """It is no expression of numbers, or too large a one."""


def _power(base: float, exponent: float) -> float:
    if abs(exponent) > MOST_POWER or (abs(base) > 1 and exponent * math.log10(abs(base)) > MOST_DIGITS):
        raise ExpressionError("too large a power")
    if base < 0 and not float(exponent).is_integer():
        raise ExpressionError("a root of a negative number")
    value: float = base**exponent
    return value


def _value(node: ast.AST) -> float:
    if isinstance(node, ast.Expression):
        return _value(node.body)
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    ):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            return _power(left, right)
        if type(node.op) in _BINARY:
            return _BINARY[type(node.op)](left, right)
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _FUNCTIONS
        and not node.keywords
    ):
        arguments = [_value(argument) for argument in node.args]
        if node.func.id == "factorial" and (not arguments or arguments[0] > MOST_POWER):
            raise ExpressionError("too large a factorial")
        return _FUNCTIONS[node.func.id](*arguments)
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    raise ExpressionError("it is no expression of numbers")


def plain(text: str) -> str:
    """An expression in Python's signs."""
    expression = text.strip().rstrip("=?. ").strip()
    for pattern, replacement in _SUBSTITUTIONS:
        expression = pattern.sub(replacement, expression)
    return expression


def calculate(text: str) -> float:
    """The value of an expression.

    Raises:
        ExpressionError: It has none.
    """
    expression = plain(text)
    if not expression or len(expression) > MOST:
        raise ExpressionError(f"an expression has 1 to {MOST} characters")
    try:
        value = _value(ast.parse(expression, mode="eval"))
    except ExpressionError:
        raise
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ExpressionError(str(error) or type(error).__name__) from error
    if not math.isfinite(value):
        raise ExpressionError("it has no finite value")
    return value


def written(value: float) -> str:
    """A number as people write it: no more than twelve digits, no zeros at the end."""
    if float(value).is_integer():
        number = int(value)
        return str(number) if abs(number) < 10**15 else f"{value:.12g}"
    return f"{value:.12g}"
