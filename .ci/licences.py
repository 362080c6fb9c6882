"""Every crate that is linked into the wheel must offer a licence that an Apache-2.0 project can ship.

Reads `cargo metadata` with the committed lock file. Refuses to know Python packages: they are not shipped.
"""

import json
import re
import subprocess
import sys

ALLOWED = {
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
}


def acceptable(expression: str) -> bool:
    """Whether an SPDX expression can be met with allowed licences: every side of an AND, one side of an OR."""
    tokens = re.findall(r"\(|\)|/|[^()/\s]+(?:\s+WITH\s+[^()/\s]+)?", expression)

    def either() -> bool:
        met = both()
        while tokens and tokens[0] in {"OR", "/"}:
            tokens.pop(0)
            met |= both()
        return met

    def both() -> bool:
        met = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            met &= one()
        return met

    def one() -> bool:
        token = tokens.pop(0) if tokens else ""
        if token != "(":
            return " ".join(token.split()) in ALLOWED
        met = either()
        return bool(tokens) and tokens.pop(0) == ")" and met

    return either() and not tokens


def main() -> int:
    """Print every crate whose licence is not allowed; 1 when there is one."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    packages = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["packages"]
    wrong = [
        f"{package['name']} {package['version']}: licence {package['license']!r} is not in .ci/licences.py"
        for package in packages
        if not acceptable(package["license"] or "")
    ]
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
