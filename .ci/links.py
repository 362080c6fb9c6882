"""Every relative link in the project's Markdown must lead to a file, and its anchor to a heading.

Reads tracked files only. Refuses to know the network: addresses of other sites are not fetched.
"""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")


def anchors(markdown: str) -> set[str]:
    """The anchors that a Git host derives from the headings of a page."""
    found: dict[str, int] = {}
    names = set()
    for heading in HEADING.findall(FENCE.sub("", markdown)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        again = found.get(slug, 0)
        found[slug] = again + 1
        names.add(f"{slug}-{again}" if again else slug)
    return names


def broken(page: Path) -> list[str]:
    """What is wrong with the links of one page, one line each."""
    markdown = page.read_text(encoding="utf-8")
    prose = CODE.sub("", FENCE.sub("", markdown))
    wrong = []
    for target in LINK.findall(prose) + REFERENCE.findall(prose):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page.resolve()
        if not file.exists():
            wrong.append(f"{page}: {target} leads nowhere")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
            wrong.append(f"{page}: {file.name} has no heading #{anchor}")
    return wrong


def main() -> int:
    """Print every broken link; 1 when there is one."""
    listed = subprocess.run(["git", "ls-files", "-z", "*.md"], capture_output=True, check=True, text=True)
    pages = [Path(name) for name in listed.stdout.split("\0") if name and Path(name).exists()]
    wrong = [line for page in pages for line in broken(page)]
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
