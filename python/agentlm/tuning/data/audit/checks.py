"""What the audit looks at in one conversation, and the reasons for which it refuses one. Refuses to know files.

Everything is judged on what the renderer made: the trainer takes its tokens and mask, the server its prompts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from types import MappingProxyType

from agentlm.errors import ChatTemplateError
from agentlm.tuning.data.audit import reference as references
from agentlm.tuning.data.audit.leaks import leaks
from agentlm.tuning.data.audit.reference import Reference
from agentlm.tuning.data.errors import DataError
from agentlm.tuning.data.rendering import Rendered, Renderer
from agentlm.tuning.record import Conversation

REASONS: Mapping[str, str] = MappingProxyType({
    "record": "not a conversation record",
    "template": "the chat template refuses the conversation, or leaves open which tokens the model writes",
    "untrained": "no token is trained, or none of a turn that should be",
    "truncated": "a trained turn is cut off at the longest length",
    "bos": "the beginning-of-sequence token stands twice in a row",
    "turn_end": "a turn's end is not trained, or is no token at which the server stops",
    "drift": "the tokens differ from the server's, or from what the checkpoint's own template and tokenizer make",
    "leak": "text of a template stands in a message",
    "dropped": "the template leaves out what a message says",
    "tools": "tools are offered, which the trainer does not render, or the template does not show calls",
})  # fmt: skip
"""Why a conversation is refused."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """What is looked at; wrong values raise `DataError`."""

    max_length: int
    """Most tokens of a conversation in training."""
    allow: tuple[str, ...] = ()
    """Reasons that are counted, but refuse nothing."""
    drift: bool = True
    """Whether conversations are rendered a second time by other hands."""

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise DataError(f"max_length must be at least 2; it is {self.max_length}")
        unknown = [reason for reason in self.allow if reason not in REASONS]
        if unknown:
            raise DataError(f"a reason must be one of {', '.join(REASONS)}; it is {unknown[0]!r}")


class Auditor:
    """Looks at conversations one by one.

    Raises:
        ChatTemplateError: With a template of its own, where the checkpoint's cannot be read.
    """

    def __init__(self, renderer: Renderer, settings: AuditSettings) -> None:
        self.renderer = renderer
        self.settings = settings
        self._bos = renderer.bos_id()
        self._ends = frozenset(renderer.tokenizer.eos_token_ids)
        self._reference: Reference | None = None
        self.reference = "not asked for"
        """What drift is judged by, or why it is not."""
        self._served: Renderer | None = None
        if settings.drift:
            self._reference, self.reference = references.find(renderer)
            self._served = _served_otherwise(renderer)

    def faults(self, conversation: Conversation) -> tuple[Rendered | None, list[tuple[str, str]]]:
        """What the conversation becomes, and everything that is wrong with it: reasons, each with its first detail."""
        try:
            rendered = self.renderer.render(conversation)
        except ChatTemplateError as error:
            return None, [*self._leaked(conversation), _refused(conversation, error)]
        looks = (self._trained, self._bos_twice, self._turn_ends, self._shown, self._drift, self._prompted)
        faults: dict[str, str] = {}
        for look in looks:
            for reason, detail in look(conversation, rendered):
                faults.setdefault(reason, detail)
        return rendered, [*faults.items(), *self._leaked(conversation)]

    def _trained(self, conversation: Conversation, rendered: Rendered) -> Iterator[tuple[str, str]]:
        # Nothing predicts the first token.
        turns = _runs([False, *rendered.trained[1:]])
        expected = sum(message.trained for message in conversation.messages)
        if not turns:
            why = "" if expected else ": no message of the assistant, or loss is false on each"
            yield "untrained", f"none of {len(rendered.ids)} tokens is trained{why}"
        elif len(turns) < expected:
            yield (
                "untrained",
                f"{expected} turns should be trained, but only {len(turns)} have trained tokens",
            )
        longest = self.settings.max_length
        cut = [index for index, (_, end) in enumerate(turns) if end > longest]
        if cut:
            detail = (
                f"trained turn {cut[0] + 1} of {len(turns)} goes on to token {turns[cut[0]][1]:,}, beyond {longest:,}; the "
                f"conversation has {len(rendered.ids):,} tokens"
            )
            yield "truncated", detail

    def _bos_twice(self, _: Conversation, rendered: Rendered) -> Iterator[tuple[str, str]]:
        ids, bos = rendered.ids, self._bos
        if bos is None:
            return
        at = next((i for i in range(len(ids) - 1) if ids[i] == bos == ids[i + 1]), None)
        if at is not None:
            yield "bos", f"tokens {at} and {at + 1} are both {self._name(bos)}"

    def _turn_ends(self, _: Conversation, rendered: Rendered) -> Iterator[tuple[str, str]]:
        for index, (_start, end) in enumerate(_runs(rendered.trained)):
            last = rendered.ids[end - 1]
            if last in self._ends:
                continue
            stops = ", ".join(self._name(each) for each in sorted(self._ends)) or "no token"
            detail = (
                f"trained turn {index + 1} ends with {self._name(last)}, but the server stops at {stops}: a model tuned on "
                "this does not stop; set eos_token_id in the checkpoint's generation_config.json, or the template right"
            )
            yield "turn_end", detail
            return

    def _shown(self, conversation: Conversation, rendered: Rendered) -> Iterator[tuple[str, str]]:
        text = rendered.text
        for index, message in enumerate(conversation.messages):
            said = (message.content or "").strip()
            if said not in text:
                yield "dropped", f"messages[{index}] of the {message.role} is not in the text: {said!r:.60}"
                break
        calls = [_function_name(call) for message in conversation.messages for call in message.tool_calls]
        hidden = next((name for name in calls if name not in text), None) or self._hidden_tool(
            conversation, text
        )
        if hidden is not None:
            yield "tools", f"the template does not show {hidden!r:.60}"

    def _hidden_tool(self, conversation: Conversation, text: str) -> str | None:
        """An offered tool that the text would name as often if nothing were offered."""
        if not conversation.tools:
            return None
        try:
            without = self.renderer.render(replace(conversation, tools=None)).text
        except ChatTemplateError:
            without = ""
        names = map(_function_name, conversation.tools)
        return next((name for name in names if text.count(name) <= without.count(name)), None)

    def _prompted(self, conversation: Conversation, rendered: Rendered) -> Iterator[tuple[str, str]]:
        """The server's prompts before the first and the last trained turn must be what was trained up to there."""
        turns = _runs(rendered.trained)
        places = [index for index, message in enumerate(conversation.messages) if message.trained]
        if not turns or len(turns) != len(places):
            return  # a turn without trained tokens is refused as such
        for turn in dict.fromkeys((0, len(turns) - 1)):
            start = turns[turn][0]
            try:
                prompt = self.renderer.prompt(conversation, places[turn])
            except ChatTemplateError as error:
                yield "drift", f"the server could not ask for trained turn {turn + 1}: {error}"
                return
            if prompt == rendered.ids[:start]:
                continue
            pairs = enumerate(zip(prompt, rendered.ids[:start], strict=False))
            at = next((i for i, (asked, seen) in pairs if asked != seen), min(len(prompt), start))
            asked, seen = self._names(prompt[at:]), self._names(rendered.ids[at:start])
            yield (
                "drift",
                f"from token {at} on, before trained turn {turn + 1}, the server writes {asked}, the trainer {seen}",
            )
            return

    def _drift(self, conversation: Conversation, rendered: Rendered) -> Iterator[tuple[str, str]]:
        if self._served is not None:
            try:
                served = self._served.render(conversation)
                same = served.ids == rendered.ids
            except ChatTemplateError:
                same = False
            if not same:
                detail = (
                    f"the server renders this with {self._served.template.source}, not with {self.renderer.template_file}: "
                    "serve with --chat-template too, or put the template into the checkpoint"
                )
                yield "drift", detail
                return
        if self._reference is not None:
            difference = self._reference.difference(conversation, rendered)
            if difference is not None:
                yield "drift", difference

    def _leaked(self, conversation: Conversation) -> Iterator[tuple[str, str]]:
        for index, what in leaks(conversation):
            yield "leak", f"messages[{index}] of the {conversation.messages[index].role} holds {what}"
            return

    def _names(self, tokens: list[int]) -> str:
        text = self.renderer.tokenizer.decode(tokens[:8], skip_special_tokens=False)
        return f"{text!r:.60}" if tokens else "nothing more"

    def _name(self, token: int) -> str:
        return repr(self.renderer.tokenizer.decode([token], skip_special_tokens=False))


def _refused(conversation: Conversation, error: ChatTemplateError) -> tuple[str, str]:
    if any(message.role == "tool" or message.tool_calls for message in conversation.messages):
        return "tools", f"the template cannot take these calls and results: {error}"
    text = str(error)
    return ("turn_end" if "no end-of-turn token" in text else "template"), text


def _runs(trained: list[bool]) -> list[tuple[int, int]]:
    """Stretches of trained tokens, each from its first to after its last: one a trained turn."""
    runs = []
    at = 0
    for on, group in groupby(trained):
        length = sum(1 for _ in group)
        if on:
            runs.append((at, at + length))
        at += length
    return runs


def _function_name(value: Mapping[str, object]) -> str:
    function = value.get("function")
    return str(function.get("name")) if isinstance(function, Mapping) else str(value.get("name"))


def _served_otherwise(renderer: Renderer) -> Renderer | None:
    """The checkpoint's own template, where the conversations are rendered with another and it has one."""
    if renderer.template_file is None:
        return None
    try:
        return Renderer(renderer.directory)
    except ChatTemplateError:
        return None
