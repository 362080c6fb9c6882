"""AgentBench's five named checkers, run here and not where the model was root. Refuses to know problems.

Each takes the answer and the reference output; what cannot be read is not right.
"""

from collections.abc import Callable, Mapping

Checker = Callable[[str, str], bool]
"""(answer, reference output) to whether they agree."""

_UNITS = {
    "B": 1, "Byte": 1, "K": 2**10, "KB": 2**10, "M": 2**20, "MB": 2**20, "G": 2**30, "GB": 2**30, "T": 2**40,
    "TB": 2**40, "P": 2**50, "PB": 2**50,
}  # fmt: skip


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _size(text: str) -> float:
    """A size in bytes by its longest unit."""
    stripped = text.strip()
    for unit in sorted(_UNITS, key=len, reverse=True):
        if stripped.endswith(unit):
            return float(stripped.removesuffix(unit)) * _UNITS[unit]
    return float(stripped)


def _original_size(text: str) -> float:
    """The original's reading: whole numbers only, by the first unit that fits, so that `12KB` and `4.0K` are no sizes."""
    stripped = text.strip()
    for unit, factor in _UNITS.items():
        if stripped.endswith(unit):
            return int(stripped.removesuffix(unit)) * factor
    return int(stripped)


def integers_match(answer: str, reference: str) -> bool:
    """Equal as integers."""
    try:
        return int(answer) == int(reference)
    except ValueError:
        return False


def _sizes_match(read: Callable[[str], float]) -> Checker:
    def match(answer: str, reference: str) -> bool:
        try:
            return read(answer) == read(reference)
        except ValueError:
            return False

    return match


CHECKERS: Mapping[str, Checker] = {
    "integer-match": integers_match,
    "string-match": lambda answer, reference: _lines(answer) == _lines(reference),
    "size-match": _sizes_match(_size),
    "containing": lambda answer, reference: _lines(reference) in _lines(answer),
    "in": lambda answer, reference: _lines(answer) in _lines(reference),
}
ORIGINAL: Mapping[str, Checker] = {**CHECKERS, "size-match": _sizes_match(_original_size)}
"""As the published harness has them."""
