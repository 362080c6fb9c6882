"""How requests are put to TGI's routes and to OpenAI's, and how answers are read. Refuses to know connections."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentlm_evals.model import Decoding, Generation, Message
from agentlm_evals.models.endpoint import Answer

_REASONS = {
    "stop": "eos_token",
    "eos_token": "eos_token",
    "stop_sequence": "stop_sequence",
    "length": "length",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that a dialect has put into words."""

    path: str
    body: dict[str, Any]


def tgi_generate(prompt: str, decoding: Decoding, seed: int, adapter: str | None = None) -> Ask:
    """TGI's `/generate`; the prompt goes over the wire character for character."""
    parameters: dict[str, Any] = {"max_new_tokens": decoding.max_new_tokens, "details": True}
    if decoding.is_greedy:
        parameters["do_sample"] = False
    else:
        parameters |= {"do_sample": True, "temperature": decoding.temperature, "seed": seed}
        if decoding.top_p is not None and decoding.top_p < 1:
            parameters["top_p"] = decoding.top_p
    if decoding.stop:
        parameters["stop"] = list(decoding.stop)
    if decoding.truncate is not None:
        parameters["truncate"] = decoding.truncate
    if adapter is not None:
        parameters["adapter_id"] = adapter
    return Ask("/generate", {"inputs": prompt, "parameters": parameters})


def read_tgi(answer: Answer, stop: Sequence[str]) -> Generation:
    """Reads `/generate`'s answer; KeyError or TypeError where it is none."""
    details = answer.body["details"]
    text, reason = _text(answer.body["generated_text"]), str(details["finish_reason"])
    return Generation(
        _without(text, stop),
        reason,
        int(answer.headers.get("x-prompt-tokens", 0)),
        int(details["generated_tokens"]),
    )


def _openai(decoding: Decoding, seed: int, model: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": decoding.max_new_tokens,
        "temperature": decoding.temperature,
    }
    if not decoding.is_greedy:
        body["seed"] = seed
        if decoding.top_p is not None:
            body["top_p"] = decoding.top_p
    if decoding.stop:
        body["stop"] = list(decoding.stop)
    return body


def openai_chat(messages: Sequence[Message], decoding: Decoding, seed: int, model: str) -> Ask:
    """`/v1/chat/completions`: the server renders the messages by its own chat template."""
    body = _openai(decoding, seed, model)
    body["messages"] = [{"role": message.role, "content": message.content} for message in messages]
    return Ask("/v1/chat/completions", body)


def openai_completion(prompt: str, decoding: Decoding, seed: int, model: str) -> Ask:
    """`/v1/completions`: a raw prompt."""
    return Ask("/v1/completions", _openai(decoding, seed, model) | {"prompt": prompt})


def read_openai(answer: Answer, stop: Sequence[str]) -> Generation:
    """Reads the answer of either route; KeyError, IndexError or TypeError where it is none."""
    choice = answer.body["choices"][0]
    if "message" in choice:
        # A server may send null for an empty reply.
        content = choice["message"]["content"]
        text = "" if content is None and choice.get("finish_reason") else _text(content)
    else:
        text = _text(choice["text"])
    usage = answer.body.get("usage") or {}
    reason = str(choice["finish_reason"])
    return Generation(
        _without(text, stop),
        _REASONS.get(reason, reason),
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the answer's text is {type(value).__name__}")
    # JSON can hold half a character, which no file and no request can.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _without(text: str, stop: Sequence[str]) -> str:
    """TGI's native route keeps a stop string that ended the text, OpenAI's does not: here it is always left out."""
    for one in stop:
        if text.endswith(one):
            return text[: -len(one)]
    return text


def token_ids(answer: Answer) -> list[int]:
    """The ids of `/tokenize`'s or `/chat_tokenize`'s answer."""
    rows = answer.body["tokenize_response"] if isinstance(answer.body, dict) else answer.body
    return [int(row["id"]) for row in rows]
