"""Tells a checkpoint's chat template that cannot be one, where it would otherwise pass for none. Refuses to know Jinja."""

import json
from pathlib import Path
from typing import Any

from agentlm.errors import NoChatTemplateError, shown

_FILE = "chat_template.jinja"
_SETTINGS = ("tokenizer_config.json", "chat_template.json")
"""Files with a key `chat_template`, in the order in which they are looked at."""


def check_files(directory: Path) -> None:
    """Raises `NoChatTemplateError` that names the file. One that is absent or cannot be read is not judged here."""
    file = directory / _FILE
    if file.is_file():
        return
    if file.exists():
        raise NoChatTemplateError(f"{file} is no file. Put the template there, or take it away")
    for name in _SETTINGS:
        template = _setting(directory / name)
        if template is None:
            continue
        if not _is_template(template):
            raise NoChatTemplateError(
                f"{directory / name} gives chat_template = {shown(template)}; text is needed, or a list of objects with "
                "`name` and `template`"
            )
        return


def _setting(file: Path) -> Any:
    try:
        settings = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return settings.get("chat_template") if isinstance(settings, dict) else None


def _is_template(given: Any) -> bool:
    if isinstance(given, list):
        entries = [entry if isinstance(entry, dict) else {} for entry in given]
        return all(isinstance(entry.get(key), str) for entry in entries for key in ("name", "template"))
    texts = list(given.values()) if isinstance(given, dict) else [given]
    return all(isinstance(text, str) for text in texts)
