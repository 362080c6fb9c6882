"""One answer of `agentlm generate` as a line of JSON, with the log-probabilities that were asked for.

The fields are those of `Completion`; where it has a token's id or log-probability alone, the line has an object with
`id`, `text` and `logprob`. Refuses to know prompts' files and flags.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlm import LLM, Completion


class AnswerLines:
    """Writes one model's answers."""

    def __init__(self, llm: "LLM") -> None:
        self._llm = llm
        # Decoders drop the space that a text begins with, so that a token's own is seen behind another only.
        self._before = llm.tokenize("a", add_special_tokens=False)
        self._skipped = len(llm.detokenize(self._before, skip_special_tokens=False))
        self._texts: dict[int, str] = {}

    def answered(self, prompt: str, given: str | Sequence[int], done: "Completion") -> str:
        """An answer's line. `prompt` is what the user wrote, `given` what the model was given for it."""
        line: dict[str, Any] = {
            "prompt": prompt,
            "text": done.text,
            "finish_reason": done.finish_reason,
            "prompt_tokens": done.usage.prompt_tokens,
            "completion_tokens": done.usage.completion_tokens,
        }
        if done.logprobs is not None:
            line["logprobs"] = self._tokens(zip(done.token_ids, done.logprobs, strict=True))
        if done.top_logprobs is not None:
            line["top_logprobs"] = [self._tokens(top) for top in done.top_logprobs]
        if done.prompt_logprobs is not None:
            ids = self._llm.tokenize(given) if isinstance(given, str) else given
            line["prompt_logprobs"] = self._tokens(zip(ids, done.prompt_logprobs, strict=True))
        if done.prompt_top_logprobs is not None:
            line["prompt_top_logprobs"] = [self._tokens(top) for top in done.prompt_top_logprobs]
        return json.dumps(line, ensure_ascii=False)

    def failed(self, prompt: str, why: str) -> str:
        """The line of a prompt that could not be answered."""
        return json.dumps({"prompt": prompt, "error": why}, ensure_ascii=False)

    def _tokens(self, tokens: Iterable[tuple[int, float | None]]) -> list[dict[str, Any]]:
        # JSON has no infinite numbers; the first token of a prompt has no log-probability at all.
        return [
            {
                "id": token,
                "text": self._text(token),
                "logprob": logprob if logprob is not None and math.isfinite(logprob) else None,
            }
            for token, logprob in tokens
        ]

    def _text(self, token: int) -> str:
        if token not in self._texts:
            text = self._llm.detokenize([*self._before, token], skip_special_tokens=False)
            self._texts[token] = text[self._skipped :]
        return self._texts[token]
