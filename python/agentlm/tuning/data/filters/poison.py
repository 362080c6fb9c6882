"""Marks of poisoned trajectories: commands that fetch and run code, doors left open, and triggers that nobody can see.

After the public backdoor work on agent data (BadAgent): a hidden trigger in what the agent reads, and a turn in which it
downloads a program and runs it. Refuses to judge what a command is good for: a person looks at what is removed.
"""

import re

from agentlm.tuning.record import Conversation

_FETCH = r"(?:curl|wget|fetch|aria2c|lwp-download)\b"
_SHELL = (
    r"(?:(?:sudo\s+(?:-\w+\s+)*)?(?:env\s+)?(?:/\S*/)?(?:sh|bash|zsh|dash|ksh|csh)\b"
    r"|(?:sudo\s+)?(?:python[\d.]*|perl|ruby|node|php)\b)"
)
_STDIN = r"(?![ \t]+(?:-\w*[cmrp]\b|-\w*[en]\w*[ \t]+['\"]|(?![012]?>)[\w./~$]))"
"""An interpreter that has a program already (`-c`, `-m json.tool`, `-ne '...'`, a file) reads what comes as its data."""
_RUN = r"(?:&&|;|\n)\s*(?:sudo\s+)?(?:(?:sh|bash|zsh|dash|source|\.)\s+\S*[/\w.]+|\./\S+)"

_PATTERNS = {
    "a download piped into an interpreter": (
        rf"{_FETCH}[^\n|;]{{0,500}}\|\s*(?:tee\s+\S+\s*\|\s*)?{_SHELL}{_STDIN}"
    ),
    "a download run through a shell's substitution": rf"{_SHELL}\s+(?:-c\s+)?[\"']?(?:<\(|\$\(|`)\s*{_FETCH}\s+\S",
    "a download run through eval": rf"\beval\s+[\"']?(?:\$\(|`)\s*{_FETCH}\s+\S",
    "a download made executable": rf"{_FETCH}(?:.|\n){{0,300}}?\bchmod\s+(?:[ugoa]*\+\w*x|[0-7]*[1357][0-7]{{2}}\b)",
    "a download run": rf"{_FETCH}[^\n;&]{{0,500}}{_RUN}",
    "decoded text piped into a shell": (
        rf"\bbase64\s+(?:-d|-D|--decode)\b[^\n|]{{0,500}}\|\s*{_SHELL}{_STDIN}"
    ),
    "a shell handed to the network": (
        r"/dev/(?:tcp|udp)/\S+|\bn(?:c|cat|etcat)\b[^\n]{0,500}\s-\w*[ec]\s*\S{0,80}sh\b"
        r"|\bsocat\b[^\n]{0,500}\bexec:"
    ),
    "a download executed by Python": (
        r"\bexec\s*\(\s*(?:urllib|requests)\b|\bexec\s*\([^\n]{0,80}(?:urlopen|requests\.get)\s*\("
    ),
    "a download executed by PowerShell": (
        r"\b(?:iex|invoke-expression)\b[^\n]{0,500}(?:downloadstring|invoke-webrequest|\biwr\b)"
    ),
    "a key added to those that may log in": r">>?\s{0,20}[^\s>]{0,200}\.ssh/authorized_keys\b",
}

COMMANDS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _PATTERNS.items()}
"""What is looked for in an agent's turns: in words, and as a pattern."""

_HIDDEN = re.compile(
    "[\u2061-\u2064\u202a-\u202e\u2066-\u2069\ufff9-\ufffb\U000e0000-\U000e007f]|[\u200b-\u200d\u2060\ufeff]{4}"
)
"""Characters that nobody sees: marks that turn text around, tags, and runs of characters without a width.

A single one of the last is no mark: web pages are full of them, and emoji and several scripts need joiners."""

_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f")
"""England's, Scotland's and Wales's flags are written with tags."""


def fault(conversation: Conversation, *, commands: bool) -> str | None:
    """The first mark of poison, in words; None if there is none.

    Hidden characters are looked for everywhere; commands only if `commands`, and only in what the assistant says.
    """
    for index, message in enumerate(conversation.messages):
        texts = [
            message.content or "",
            *(str(call["function"].get("arguments", "")) for call in message.tool_calls),
        ]
        for text in texts:
            hidden = _HIDDEN.search(_FLAG.sub("", text))
            if hidden:
                return f"messages[{index}] hides U+{ord(hidden.group()[0]):04X}"
            if not commands or message.role != "assistant":
                continue
            for name, pattern in COMMANDS.items():
                if found := pattern.search(text):
                    return f"messages[{index}]: {name}: {found.group()!r:.100}"
    return None
