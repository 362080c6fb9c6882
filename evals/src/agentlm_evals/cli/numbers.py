"""The type of options that take a number with a fraction."""

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A number within a range. Not a number (NaN) is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads the number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number
