"""What a conversation should have become, by other hands than our renderer's: jinja2's and the checkpoint's own tokenizer.

Refuses to know what a difference means. Which reference there is depends on what the checkpoint's folder holds:
transformers' tokenizer with the checkpoint's template, or SentencePiece's model with Llama-2's form as Meta wrote it.
"""

from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

from agentlm.tuning.data.rendering import Rendered, Renderer
from agentlm.tuning.record import Conversation

_PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes, by their names of two versions, that take tokenizer.json as it is."""


class Reference(Protocol):
    """Renders conversations independently."""

    what: str
    """In words, for reports."""

    def difference(self, conversation: Conversation, rendered: Rendered) -> str | None:
        """How the reference's rendering differs, in words; None where it is the same."""
        ...


def find(renderer: Renderer) -> tuple[Reference | None, str]:
    """The best reference that the checkpoint's folder allows, and what it is, or why there is none."""
    template = renderer.template_file.read_text(encoding="utf-8") if renderer.template_file else None
    built_in = renderer.template.source.startswith("Llama-2's own")
    model = renderer.directory / "tokenizer.model"
    if built_in and template is None:
        if model.is_file():
            reference = SentencePieceReference(model, renderer)
            return reference, reference.what
        return None, "the template is built in and there is no tokenizer.model to compare with"
    try:
        tokenizer = _tokenizer(renderer)
    except (
        Exception
    ) as error:  # transformers raises whatever its many loaders do; the audit goes on and says so
        return None, f"transformers cannot load the checkpoint's tokenizer: {str(error).splitlines()[0]:.120}"
    template = template or getattr(tokenizer, "chat_template", None)
    if not isinstance(template, str):
        return None, "transformers finds no chat template in the checkpoint"
    made = TransformersReference(tokenizer, template, renderer)
    return made, made.what


def _tokenizer(renderer: Renderer) -> Any:
    """The tokenizer of transformers, of the class that the checkpoint names."""
    if renderer.settings("tokenizer_config.json").get("tokenizer_class") in _PLAIN:
        # Without the table of all models' classes, which takes seconds to import, torch among it.
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(renderer.directory)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(renderer.directory)


class TransformersReference:
    """transformers: the template by jinja2, the text by the checkpoint's own tokenizer."""

    what = "jinja2 and the checkpoint's tokenizer, by transformers"

    def __init__(self, tokenizer: Any, template: str, renderer: Renderer) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._renderer = renderer
        ours = renderer.tokenizer
        self._special = [
            text
            for text, token in tokenizer.get_added_vocab().items()
            if ours.encode(text, add_special_tokens=False) == [token]
        ]
        """Special to the renderer too, which keeps such text in a message from becoming special."""

    def difference(self, conversation: Conversation, rendered: Rendered) -> str | None:
        """Compares the text, then the ids."""
        messages, tools = self._renderer.template_input(conversation)
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=self._template, tokenize=False
            )
        except Exception as error:  # a template raises what it likes
            return f"jinja2 refuses what the renderer takes: {error}"
        if text != rendered.text:
            return f"jinja2 renders {_first_difference(rendered.text, text)}"
        contents = [message["content"] for message in messages]
        if any(special in content for special in self._special for content in contents):
            return None  # what the tokenizer alone would make of it is no measure
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return _ids_differ(rendered.ids, ids, self._tokenizer.convert_ids_to_tokens)


class SentencePieceReference:
    """Llama-2's chat form as Meta's code encodes it: each exchange by itself, between BOS and EOS."""

    what = "SentencePiece and Llama-2's form as Meta encodes it"

    def __init__(self, model: Path, renderer: Renderer) -> None:
        from sentencepiece import SentencePieceProcessor

        self._renderer = renderer

        self._model = SentencePieceProcessor(model_file=str(model))

    def difference(self, conversation: Conversation, rendered: Rendered) -> str | None:
        """Compares the ids."""
        system = ""
        turns, _ = self._renderer.template_input(conversation)
        if turns[0]["role"] == "system":
            system = f"<<SYS>>\n{turns.pop(0)['content']}\n<</SYS>>\n\n"
        ids: list[int] = []
        for index, (ask, answer) in enumerate(zip_longest(turns[::2], turns[1::2])):
            question = f"{system if index == 0 else ''}{ask['content']}".strip()
            text = f"[INST] {question} [/INST]" + (f" {answer['content'].strip()} " if answer else "")
            ids += [self._model.bos_id(), *self._model.encode(text)]
            if answer:
                ids.append(self._model.eos_id())
        return _ids_differ(
            rendered.ids, ids, lambda several: [self._model.id_to_piece(each) for each in several]
        )


def _ids_differ(ours: list[int], theirs: list[int], name: Callable[[list[int]], list[str]]) -> str | None:
    if ours == theirs:
        return None
    at = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    return (
        f"the checkpoint's tokenizer makes {name(theirs[at : at + 3])} of token {at} on, where the renderer makes "
        f"{name(ours[at : at + 3])}"
    )


def _first_difference(ours: str, theirs: str) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    start = max(at - 12, 0)
    return (
        f"{theirs[start : at + 20]!r} at character {at}, where the renderer writes {ours[start : at + 20]!r}"
    )
