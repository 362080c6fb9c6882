"""What the connections ask, and how an answer is told whole: the text that the same request has when the server is idle.

Refuses to know sockets and time.
"""

import json
import random
from dataclasses import dataclass
from typing import Any, Final

PROMPTS: Final = tuple(f"Once upon a time number {number} there was" for number in range(8))
ROUTES: Final = ("/generate_stream", "/v1/completions", "/generate")
WEIGHTS: Final = (6, 3, 1)
"""Most answers are streams; one in ten comes whole."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request's shape. Greedy, so that equal asks have equal answers."""

    route: str
    prompt: int
    tokens: int

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream of events."""
        return self.route != "/generate"

    def body(self, *, stream: bool) -> bytes:
        """The JSON body."""
        text = PROMPTS[self.prompt]
        if self.route == "/v1/completions":
            fields: dict[str, Any] = {
                "prompt": text,
                "max_tokens": self.tokens,
                "temperature": 0,
                "ignore_eos": True,
            }
            return json.dumps({**fields, "stream": stream}).encode()
        parameters = {"max_new_tokens": self.tokens, "ignore_eos": True, "top_n_tokens": 5}
        return json.dumps({"inputs": text, "parameters": parameters}).encode()

    def request(self, *, stream: bool = True) -> bytes:
        """The bytes of the request, as it comes (`stream`) or as its reference."""
        route = "/generate" if self.route == "/generate_stream" and not stream else self.route
        body = self.body(stream=stream)
        head = f"POST {route} HTTP/1.1\r\nhost: load\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def draw_ask(draw: random.Random, lengths: tuple[int, ...]) -> Ask:
    """Any of the asks whose answers have one of `lengths` tokens."""
    route = draw.choices(ROUTES, WEIGHTS)[0]
    return Ask(route, draw.randrange(len(PROMPTS)), draw.choice(lengths))


def every_ask(lengths: tuple[int, ...]) -> list[Ask]:
    """All that `draw_ask` may give."""
    return [
        Ask(route, prompt, tokens) for route in ROUTES for prompt in range(len(PROMPTS)) for tokens in lengths
    ]


class WrongAnswerError(ValueError):
    """An answer that is not whole, or not what it should be."""


def whole_text(body: bytes, ask: Ask) -> str:
    """The text of an answer that came whole. Raises `WrongAnswerError`."""
    try:
        answer = json.loads(body)
        if ask.route == "/v1/completions":
            text: str = answer["choices"][0]["text"]
        else:
            text = answer["generated_text"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise WrongAnswerError(f"{error!r} in {body[:200]!r}") from error
    return text


def streamed_text(body: bytes, ask: Ask) -> str:
    """The text of a stream, every event of which is looked at. Raises `WrongAnswerError`."""
    events = body.split(b"\n\n")
    if events.pop():
        raise WrongAnswerError(f"half an event at the end: {body[-200:]!r}")
    # A silent stream is kept open by comments.
    data = [event.removeprefix(b"data: ") for event in events if not event.startswith(b":")]
    try:
        if ask.route == "/v1/completions":
            if data.pop() != b"[DONE]":
                raise WrongAnswerError(f"a stream without its mark: {body[-200:]!r}")
            choices = [json.loads(event)["choices"][0] for event in data]
            if [bool(choice["finish_reason"]) for choice in choices] != [False] * (len(choices) - 1) + [True]:
                raise WrongAnswerError(f"a stream without its finish: {body[-200:]!r}")
            return "".join(choice["text"] for choice in choices)
        tokens = [json.loads(event) for event in data]
        if [token["index"] for token in tokens] != list(range(1, ask.tokens + 1)):
            raise WrongAnswerError(f"{len(tokens)} events for {ask.tokens} tokens, or not in order")
        text: str | None = tokens[-1]["generated_text"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise WrongAnswerError(f"{error!r} in {body[-200:]!r}") from error
    # The end's token may come in the middle of what goes on beyond it: the last event's text has no special ones.
    told = "".join(token["token"]["text"] for token in tokens if not token["token"]["special"])
    # A character that the last token leaves unfinished is no token's text.
    if (
        text is None
        or text.removeprefix(told).strip("\N{REPLACEMENT CHARACTER}")
        or not text.startswith(told)
    ):
        raise WrongAnswerError("the events' texts are not the last event's text")
    return text
