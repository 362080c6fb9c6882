"""Folders with a tokenizer and a chat template, whole and sound or with one thing wrong. Refuses to know weights."""

import json
import shutil

from tests.model.small import make_small

SOUND = (
    "{{- bos_token -}}{%- for message in messages -%}{{- '<|' + message.role + '|>' + message.content + '<|end|>' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""The small random model's own template, without its check of roles."""

CALLS = (
    "{{- bos_token -}}{%- if tools -%}{{- '<|system|>' -}}{%- for t in tools -%}{{- (t | tojson) + '\\n' -}}{%- endfor -%}"
    "{{- '<|end|>' -}}{%- endif -%}{%- for m in messages -%}{{- '<|' + m.role + '|>' + m.content -}}"
    "{%- for c in m.tool_calls -%}{{- '<tool_call>' + (c.function | tojson) + '</tool_call>' -}}{%- endfor -%}"
    "{{- '<|end|>' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""Tools and calls as Hermes' template shows them."""

TWO_BOS = SOUND.replace("{{- bos_token -}}", "{{- bos_token -}}{{- bos_token -}}")
NO_END = SOUND.replace("<|end|>", "\\n")
OTHER_END = SOUND.replace("'<|end|>'", "('<|tool|>' if message.role == 'assistant' else '<|end|>')")
NO_SYSTEM = SOUND.replace(
    "{%- for message in messages -%}", "{%- for message in messages if message.role != 'system' -%}"
)
WITH_TOOLS = "{{- (tools | tojson) if tools else '' -}}" + SOUND
HIDES_TOOLS = "{%- if tools -%}{%- endif -%}" + SOUND
OTHER_PROMPT = SOUND.replace("'<|assistant|>' -", "'<|assistant|>Well, ' -")
OTHER_LATER_PROMPT = SOUND.replace(
    "'<|assistant|>' -", "'<|assistant|>' + 'Well, '[:6 * (messages | length - 1)] -"
)
PROMPT_LEAD = SOUND.replace("'|>' +", "('|> ' if message.role == 'assistant' else '|>') +")
"""Each differs from the sound one in what its name says."""


def checkpoint(directory, template=SOUND, **changes):
    """A folder with the small random model's tokenizer and this template; `changes` are settings of the tokenizer."""
    small = make_small(directory.parent / "small")
    directory.mkdir()
    for name in ("tokenizer.json", "config.json", "generation_config.json"):
        shutil.copy(small / name, directory / name)
    settings = json.loads((small / "tokenizer_config.json").read_text())
    settings |= {"chat_template": template, **changes}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory
