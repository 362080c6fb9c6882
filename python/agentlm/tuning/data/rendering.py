"""A checkpoint's tokenizer and chat template as the data commands use them.

It is the renderer of the trainer and the server. Refuses to know files of records, and to render by any other way.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentlm._engine import ChatTemplate, Tokenizer
from agentlm.model.tokenizer_conversion import ensure_tokenizer
from agentlm.tuning.data.errors import DataError
from agentlm.tuning.record import Conversation


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as the trainer sees it."""

    text: str
    ids: list[int]
    trained: list[bool]
    """For each token whether it is under the loss."""

    @property
    def trained_tokens(self) -> int:
        """How many tokens are under the loss."""
        return sum(self.trained)


class Renderer:
    """A checkpoint's renderer.

    Raises:
        DataError: `directory` is no folder.
        TokenizerError, ChatTemplateError: It has no tokenizer, or no chat template that can be used.
    """

    def __init__(self, directory: str | Path, template: str | Path | None = None) -> None:
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise DataError(
                f"{directory} is not there; --model takes a checkpoint's folder with its tokenizer"
            )
        self.template_file = None if template is None else Path(template)
        self.tokenizer = Tokenizer(ensure_tokenizer(self.directory, None))
        self.template = ChatTemplate(self.directory, self.tokenizer, template)

    def render(self, conversation: Conversation) -> Rendered:
        """Text, token ids and mask. Raises `ChatTemplateError` where the template refuses, or leaves the mask open."""
        return Rendered(*self.template.conversation(conversation.messages_json(), conversation.tools_json()))

    def prompt(self, conversation: Conversation, until: int) -> list[int]:
        """Token ids of what the server gives the model before message `until`. Raises `ChatTemplateError`."""
        return self.template.prompt(*self._template_input(conversation, until))[1]

    def template_input(
        self, conversation: Conversation
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
        """Messages and tools as the server gives them to the template: in words where it knows no tools.

        Raises `ChatTemplateError` for what the server would refuse.
        """
        messages, tools = self._template_input(conversation)
        return json.loads(messages), None if tools is None else json.loads(tools)

    def _template_input(self, conversation: Conversation, until: int | None = None) -> tuple[str, str | None]:
        fields = [message.to_dict() for message in conversation.messages[:until]]
        for each in fields:
            each.pop("loss", None)  # the flag is ours; no client sends it
        return self.template.template_input(json.dumps(fields, ensure_ascii=False), conversation.tools_json())

    def count_tokens(self, conversation: Conversation) -> int:
        """Tokens of the conversation. Raises `ChatTemplateError`."""
        return len(self.render(conversation).ids)

    def context_length(self) -> int | None:
        """Positions that the model has, by its config.json; None where that does not say."""
        found = self.settings("config.json").get("max_position_embeddings")
        return found if isinstance(found, int) else None

    def bos_id(self) -> int | None:
        """The token that the tokenizer puts before a text, or that the configuration names; None without one."""
        empty = self.tokenizer.encode("")
        if empty and empty[0] not in self.tokenizer.eos_token_ids:
            return empty[0]
        token = self.settings("tokenizer_config.json").get("bos_token")
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            if len(ids) == 1:
                return ids[0]
        return None

    def settings(self, name: str) -> dict[str, Any]:
        """A JSON file of the checkpoint's folder; empty where there is none. Raises `DataError` if it is no JSON."""
        file = self.directory / name
        if not file.is_file():
            return {}
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{file} is not JSON: {error}") from error
        return value if isinstance(value, dict) else {}
