"""Answers that were scraped as HTML, as the text they show, in Markdown. Refuses to touch text that only mentions HTML."""

import re
from html.parser import HTMLParser

_SCRAPED = re.compile(r"\s*<(?:div|p|ul|ol|pre|table|h[1-6]|blockquote)\b[^>]*>", re.IGNORECASE)
"""How a scraped answer begins; one that merely contains HTML begins with something else, or with a fence."""

_COPY_BUTTON = re.compile(r"^(```[ \t]*)\n?([A-Za-z0-9+#-]*)Copy code[ \t]*\n?", re.MULTILINE)
"""The button over a block of code, which scrapers took for its first line, after the language's name."""

_BLOCKS = frozenset(("p", "div", "ul", "ol", "table", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "tr"))
_MARKS = {"strong": "**", "b": "**", "em": "*", "i": "*"}
_SKIPPED = frozenset(("script", "style", "button", "svg"))


def plain(text: str) -> str:
    """The text without remnants of a web page: a scraped answer as Markdown, and no `Copy code` over blocks of code."""
    if _SCRAPED.match(text):
        reader = _Reader()
        reader.feed(text)
        reader.close()
        text = reader.text()
    return _COPY_BUTTON.sub(r"\1\2\n", text)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._lists: list[int | None] = []
        self._code = False
        self._skipped = 0

    def text(self) -> str:
        """What was read, without more than one empty line in a row outside code."""
        pieces = "".join(self._parts).split("```")
        pieces[::2] = [re.sub(r"\n[ \t]*(?:\n[ \t]*)+\n", "\n\n", piece) for piece in pieces[::2]]
        return "```".join(pieces).strip()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Writes what Markdown has for the element's beginning."""
        if tag in _SKIPPED:
            self._skipped += 1
        elif tag == "pre":
            self._code = True
            self._parts.append("\n\n```")
        elif tag == "code":
            language = next((value or "" for name, value in attrs if name == "class"), "")
            named = re.search(r"language-([A-Za-z0-9+#-]+)", language)
            self._parts.append(f"{named.group(1) if named else ''}\n" if self._code else "`")
        elif tag in ("ul", "ol"):
            self._parts.append("\n" if self._lists else "\n\n")
            self._lists.append(0 if tag == "ol" else None)
        elif tag == "li":
            self._item()
        elif tag == "br":
            self._parts.append("\n")
        elif tag in ("td", "th"):
            self._parts.append(" | ")
        elif tag in _MARKS:
            self._parts.append(_MARKS[tag])
        elif tag in _BLOCKS and not self._lists:
            level = int(tag[1]) if tag[0] == "h" and tag[1:].isdigit() else 0
            self._parts.append("\n\n" + ("#" * level + " " if level else ""))

    def handle_endtag(self, tag: str) -> None:
        """Writes what Markdown has for the element's end."""
        if tag in _SKIPPED:
            self._skipped = max(self._skipped - 1, 0)
        elif tag == "pre":
            self._code = False
            self._parts.append("\n```\n\n")
        elif tag == "code" and not self._code:
            self._parts.append("`")
        elif tag in ("ul", "ol") and self._lists:
            self._lists.pop()
            self._parts.append("\n" if self._lists else "\n\n")
        elif tag in _MARKS:
            self._parts.append(_MARKS[tag])

    def handle_data(self, data: str) -> None:
        """Keeps text as it is in code, and with single spaces elsewhere."""
        if self._skipped:
            return
        if self._code:
            # What stands between `pre` and `code` is the page's furniture: the language's name and a button.
            inside = self._parts[-1].endswith("\n") or not self._parts[-1].endswith("```")
            if inside:
                self._parts.append(data.rstrip("\n") if data.endswith("\n") else data)
            return
        self._parts.append(
            re.sub(r"\s+", " ", data) if data.strip() else (" " if data and "\n" not in data else "")
        )

    def _item(self) -> None:
        depth = max(len(self._lists) - 1, 0)
        number = self._lists[-1] if self._lists else None
        if number is None:
            mark = "-"
        else:
            self._lists[-1] = number + 1
            mark = f"{number + 1}."
        self._parts.append(f"\n{'  ' * depth}{mark} ")
