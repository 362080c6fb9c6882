"""Equations and expressions with unknowns, by sympy, in a process of their own that has ten seconds. Knows no models.

The text is parsed by Python's grammar and walked; sympy's own reader, which evaluates text as code, is not used.
Run as `python -m agentlm_evals.tasks.rewoo.algebra`, text on standard input.
"""

import ast
import operator
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from agentlm_evals.tasks.rewoo.calculator import MOST, MOST_POWER, plain

CPU_SECONDS = 10
"""Of the process, sympy's start included: the same on a busy machine."""
SECONDS = 60.0
"""Of the clock."""
MOST_BYTES = 1 << 30
_FUNCTIONS = ("sqrt", "log", "ln", "exp", "sin", "cos", "tan", "Abs", "factorial")
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_ASIDE = re.compile(r"^\s*(?:solve|simplify|find|compute|calculate|evaluate|what is)\s+", re.IGNORECASE)
_FOR = re.compile(r"\s+for\s+[a-zA-Z]\w*\s*$")


class AlgebraError(Exception):
    """It is nothing that can be solved."""


def _walk(node: ast.AST, sympy: Any) -> Any:
    if isinstance(node, ast.Expression):
        return _walk(node.body, sympy)
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    ):
        return sympy.Rational(str(node.value))
    if isinstance(node, ast.Name):
        return {"pi": sympy.pi, "e": sympy.E}.get(node.id) or sympy.Symbol(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _walk(node.operand, sympy)
        return -value if isinstance(node.op, ast.USub) else value
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _FUNCTIONS
        and len(node.args) == 1
    ):
        function: Any = getattr(sympy, node.func.id)
        return function(_walk(node.args[0], sympy))
    if isinstance(node, ast.BinOp):
        left, right = _walk(node.left, sympy), _walk(node.right, sympy)
        if isinstance(node.op, ast.Pow):
            if right.is_number and abs(right) > MOST_POWER:
                raise AlgebraError("too large a power")
            return left**right
        if type(node.op) in _BINARY:
            return _BINARY[type(node.op)](left, right)
    raise AlgebraError("it is no equation and no expression")


def _read(text: str, sympy: Any) -> Any:
    # 2x is 2 times x, 3(x + 1) is a product.
    spelled = re.sub(r"(?<=[\d)])\s*(?=[a-zA-Z(])", "*", plain(text))
    return _walk(ast.parse(spelled, mode="eval"), sympy)


def solve(text: str) -> str:
    """The solutions of an equation (or of several, separated by commas or `and`), or an expression made simple.

    Raises:
        AlgebraError: It is neither.
    """
    import sympy  # type: ignore[import-untyped,unused-ignore]

    cleaned = _FOR.sub("", _ASIDE.sub("", text.strip().rstrip("?.")))
    parts = (
        [part for part in re.split(r",|;|\band\b", cleaned) if part.strip()] if "=" in cleaned else [cleaned]
    )
    if len(cleaned) > MOST or not parts:
        raise AlgebraError(f"an equation has 1 to {MOST} characters")
    try:
        if "=" not in cleaned:
            return str(sympy.simplify(_read(cleaned, sympy)))
        sides = [part.split("=") for part in parts]
        if any(len(pair) != 2 for pair in sides):
            raise AlgebraError("an equation has two sides")
        equations = [_read(left, sympy) - _read(right, sympy) for left, right in sides]
        unknowns = sorted(set().union(*(equation.free_symbols for equation in equations)), key=str)
        found = sympy.solve(equations, unknowns, dict=True)
    except (
        SyntaxError,
        ValueError,
        TypeError,
        ArithmeticError,
        NotImplementedError,
        RecursionError,
    ) as error:
        raise AlgebraError(str(error) or type(error).__name__) from error
    if not found:
        raise AlgebraError("it has no solution")
    return " or ".join(", ".join(f"{name} = {value}" for name, value in one.items()) for one in found)


def solve_apart(text: str) -> str:
    """`solve` in a process of its own.

    Raises:
        AlgebraError: As `solve`, or its time is up.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__], input=text, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise AlgebraError(f"it was not solved in {SECONDS:g} s") from error
    if done.returncode != 0:
        raise AlgebraError(done.stderr.strip().rpartition("\n")[2] or "it cannot be solved")
    return done.stdout.strip()


def main() -> int:
    """One text from standard input to standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    try:
        print(solve(sys.stdin.read()))
    except AlgebraError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
