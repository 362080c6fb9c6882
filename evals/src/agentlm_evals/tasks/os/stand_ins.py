"""Our own scripts for development items whose originals are not in the data: a calculator, a stock log. Knows no sandbox.

They follow the items' descriptions; the originals' are used where a `scripts` folder has them.
"""

from collections.abc import Mapping

from agentlm_evals.tasks.os.problem import Script

_CALC_CHECK = """
expect() {
  got=$(calc $1 2>/dev/null) || exit 1
  awk -v got="$got" -v want="$2" 'BEGIN { d = got - want; if (d < 0) d = -d; exit !(got ~ /[0-9]/ && d < 1e-5) }' || exit 1
}
set -f
expect "2 * (9 / 3)" 6
expect "2 * 1" 2
expect "(1 + 2) * (3 - 4) / 8" -0.375
expect "10 / 4" 2.5
expect "7 - 10" -3
"""
_CALC_EXAMPLE = r"""
cat > /usr/local/bin/calc <<'END'
#!/usr/bin/env python3
import ast, operator, sys
signs = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
def value(node):
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp):
        return operator.neg(value(node.operand))
    return signs[type(node.op)](value(node.left), value(node.right))
result = value(ast.parse(" ".join(sys.argv[1:]), mode="eval").body)
print(int(result) if result == int(result) else result)
END
chmod +x /usr/local/bin/calc
"""
_STOCK_LOG = """
{
  for day in 1 2 3 4 5 6 7; do
    for name in Alice Bob Carol; do
      for deal in Buy Sell; do
        [ $(((day * 7 + ${#name} + ${#deal}) % 3)) -eq 0 ] && continue
        echo "2023-05-0$day | $name | $deal | $((day * 11 % 7)) | $((day * 5))"
      done
    done
  done
} > /usr/stock.log
"""

STAND_INS: Mapping[str, Script] = {
    "check/0.sh": Script("bash", _CALC_CHECK),
    "example/0.sh": Script("bash", _CALC_EXAMPLE),
    "init/stock-log.sh": Script("bash", _STOCK_LOG),
}
"""By the file's name in AgentBench's development set."""
