"""The package text-generation, TGI's own client: `native.py URL GUARDED_URL KEY`.

Its `chat(stream=True)` fails against TGI itself, whose every chunk it wants `tool_calls` in, and is left out.
"""

import asyncio
import sys

from cases import case, run
from text_generation import AsyncClient, Client
from text_generation.types import Grammar, GrammarType, Message, Tool

URL, GUARDED, KEY = sys.argv[1:4]
PROMPT = "A gentle hum"
MESSAGES = [Message(role="user", content="Say something.")]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = Tool(type="function", function={"name": "travel", "description": "Go.", "parameters": SCHEMA})

client = Client(URL, timeout=60)
later = AsyncClient(URL, timeout=60)
holder = {"Authorization": f"Bearer {KEY}"}


def whole(answer):
    details = answer.details
    return {
        "text": answer.generated_text,
        "tokens": [[token.id, token.text, token.special] for token in details.tokens],
        "prefill": [[token.id, token.logprob] for token in details.prefill],
        "finish": details.finish_reason.value,
        "count": details.generated_tokens,
        "seed": details.seed,
    }


def streamed(events):
    return {
        "tokens": [[event.token.id, event.token.text, event.token.special] for event in events],
        "texts": [event.generated_text for event in events],
        "count": events[-1].details.generated_tokens,
        "finish": events[-1].details.finish_reason.value,
    }


def said(answer):
    choice = answer.choices[0]
    return [
        choice.message.role,
        choice.message.content,
        choice.finish_reason,
        answer.usage["completion_tokens"],
    ]


@case
def text():
    return whole(client.generate(PROMPT, max_new_tokens=12))


@case
def text_stream():
    return streamed(list(client.generate_stream(PROMPT, max_new_tokens=12)))


@case
def text_prefill():
    return whole(client.generate(PROMPT, max_new_tokens=2, decoder_input_details=True))


@case
def text_best_of():
    answer = client.generate(PROMPT, max_new_tokens=6, best_of=2, do_sample=True, temperature=1.5)
    return [answer.generated_text, len(answer.details.best_of_sequences)]


@case
def text_json():
    grammar = Grammar(type=GrammarType.Json, value=SCHEMA)
    return client.generate(PROMPT, max_new_tokens=64, grammar=grammar).generated_text


@case
def text_truncated():
    return whole(client.generate(PROMPT, max_new_tokens=2, truncate=5, decoder_input_details=True))


@case
def text_refused():
    return client.generate(PROMPT, stop_sequences=["a", "b", "c", "d", "e"])


@case
def text_stream_refused():
    return list(client.generate_stream(PROMPT, stop_sequences=["a", "b", "c", "d", "e"]))


@case
def chat():
    return said(client.chat(MESSAGES, max_tokens=8, temperature=0.7, seed=1))


@case
def chat_tool():
    answer = client.chat(MESSAGES, max_tokens=100, tools=[TOOL], tool_choice="travel")
    [call] = answer.choices[0].message.tool_calls
    return [call["type"], call["function"]["name"], call["function"]["arguments"]]


@case
def chat_refused():
    return client.chat(MESSAGES, max_tokens=0)


@case
async def text_later():
    return whole(await later.generate(PROMPT, max_new_tokens=12))


@case
async def text_stream_later():
    return streamed([event async for event in later.generate_stream(PROMPT, max_new_tokens=12)])


@case
async def chat_later():
    return said(await later.chat(MESSAGES, max_tokens=8, temperature=0.7, seed=1))


@case
async def many_at_once():
    answers = await asyncio.gather(*(later.generate(PROMPT, max_new_tokens=12) for _ in range(8)))
    return [answer.generated_text for answer in answers]


@case
async def text_refused_later():
    return await later.generate(PROMPT, stop_sequences=["a", "b", "c", "d", "e"])


@case
def with_key():
    return Client(GUARDED, headers=holder).generate(PROMPT, max_new_tokens=2).details.generated_tokens


@case
def overloaded():
    guarded = Client(GUARDED, headers=holder)
    first = guarded.generate_stream(PROMPT, max_new_tokens=200)
    next(first)
    return guarded.generate(PROMPT, max_new_tokens=2)


run()
