"""The package openai: `openai_client.py URL GUARDED_URL KEY`."""

import asyncio
import sys
from typing import Literal

from cases import case, run
from openai import AsyncOpenAI, LengthFinishReasonError, OpenAI, pydantic_function_tool
from pydantic import BaseModel, ConfigDict

URL, GUARDED, KEY = sys.argv[1:4]
PROMPT = "A gentle hum"
MESSAGES = [{"role": "user", "content": "Say something."}]
USAGE = {"include_usage": True}
LETTER = {"65": 100}
"""Makes "A" certain: the small model's first 256 ids are bytes."""


class Trip(BaseModel):
    """Where to."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["Oslo", "Rome"]


TOOL = pydantic_function_tool(Trip, name="travel")
NAMED = {"type": "function", "function": {"name": "travel"}}

client = OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
later = AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)


def asked(**more):
    return {"model": "any", "messages": MESSAGES, "max_tokens": 8, "seed": 1, **more}


def whole(answer):
    choice = answer.choices[0]
    return {
        "text": choice.message.content,
        "role": choice.message.role,
        "finish": choice.finish_reason,
        "usage": [answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens],
        "id": answer.id,
        "object": answer.object,
    }


def text_of(answer):
    return answer.choices[0].message.content


def streamed(chunks):
    said = [chunk.choices[0] for chunk in chunks if chunk.choices]
    return {
        "text": "".join(choice.delta.content or "" for choice in said),
        "roles": [choice.delta.role for choice in said if choice.delta.role],
        "finish": [choice.finish_reason for choice in said if choice.finish_reason],
        "usage": [chunk.usage.completion_tokens for chunk in chunks if chunk.usage],
        "ids": len({chunk.id for chunk in chunks}),
    }


def call_of(message):
    [call] = message.tool_calls
    return [call.type, call.function.name, call.function.arguments, bool(call.id)]


def calls_in(chunks):
    """The tool calls of a stream, put together as OpenAI says: fragments by index, the rest once."""
    calls = {}
    for chunk in chunks:
        for part in (chunk.choices[0].delta.tool_calls or ()) if chunk.choices else ():
            call = calls.setdefault(part.index, {"ids": [], "names": [], "arguments": ""})
            call["ids"] += [part.id] if part.id else []
            call["names"] += [part.function.name] if part.function.name else []
            call["arguments"] += part.function.arguments or ""
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    return {"calls": list(calls.values()), "finish": ends[-1]}


@case
def models():
    return [model.id for model in client.models.list()]


@case
def chat():
    return whole(client.chat.completions.create(**asked()))


@case
def chat_as_openai_clients_ask():
    return whole(
        client.chat.completions.create(
            **asked(
                top_p=1, presence_penalty=0, frequency_penalty=0, n=1, stop="\n\n\n", user="u", logit_bias={}
            )
        )
    )


@case
def chat_longer_name():
    return whole(client.chat.completions.create(model="any", messages=MESSAGES, max_completion_tokens=5))


@case
def chat_two():
    answer = client.chat.completions.create(**asked(n=2, temperature=1.5))
    return [[choice.index, choice.message.content] for choice in answer.choices]


@case
def chat_parts():
    content = [{"type": "text", "text": "Say "}, {"type": "text", "text": "something."}]
    messages = [{"role": "user", "content": content}]
    return whole(client.chat.completions.create(**{**asked(), "messages": messages}))


@case
def chat_stream():
    return streamed(list(client.chat.completions.create(**asked(stream=True, stream_options=USAGE))))


@case
def chat_stream_helper():
    deltas = []
    with client.chat.completions.stream(**asked()) as stream:
        try:
            deltas.extend(event.delta for event in stream if event.type == "content.delta")
            whole_answer = stream.get_final_completion()
        except LengthFinishReasonError as ended:
            # The helper calls an answer of full length an error, and carries it.
            whole_answer = ended.completion
    return ["".join(deltas), text_of(whole_answer)]


@case
def chat_logprobs():
    choice = client.chat.completions.create(**asked(logprobs=True, top_logprobs=2)).choices[0]
    return [
        [token.token, token.logprob, [[top.token, top.logprob] for top in token.top_logprobs]]
        for token in choice.logprobs.content
    ]


@case
def chat_bias():
    return whole(client.chat.completions.create(**asked(temperature=0, logit_bias=LETTER)))


@case
def chat_stop():
    choice = client.chat.completions.create(**asked(temperature=0, logit_bias=LETTER, stop=["AAA"])).choices[
        0
    ]
    return [choice.message.content, choice.finish_reason]


@case
def chat_object():
    answer = client.chat.completions.create(
        **asked(max_tokens=200, response_format={"type": "json_object"}, logit_bias={"125": 100})
    )
    return whole(answer)


@case
def chat_parsed():
    trip = (
        client.chat.completions.parse(**asked(max_tokens=64, response_format=Trip)).choices[0].message.parsed
    )
    return [type(trip).__name__, trip.city]


@case
def chat_tool():
    answer = client.chat.completions.create(**asked(max_tokens=100, tools=[TOOL], tool_choice=NAMED))
    return [call_of(answer.choices[0].message), answer.choices[0].finish_reason]


@case
def chat_tool_required():
    answer = client.chat.completions.create(
        **asked(max_tokens=100, tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    )
    return [call_of(answer.choices[0].message), answer.choices[0].finish_reason]


@case
def chat_tool_none():
    return whole(client.chat.completions.create(**asked(tools=[TOOL], tool_choice="none")))


@case
def chat_tool_stream():
    chunks = list(
        client.chat.completions.create(**asked(max_tokens=100, tools=[TOOL], tool_choice=NAMED, stream=True))
    )
    return calls_in(chunks)


@case
def chat_tool_helper():
    with client.chat.completions.stream(**asked(max_tokens=100, tools=[TOOL], tool_choice=NAMED)) as stream:
        message = stream.get_final_completion().choices[0].message
    return [call_of(message), message.tool_calls[0].function.parsed_arguments.city]


@case
def chat_tool_answered():
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "travel", "arguments": '{"city":"Oslo"}'},
    }
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Arrived."},
    ]
    return whole(client.chat.completions.create(**{**asked(), "messages": messages}))


@case
def completion():
    choice = client.completions.create(model="any", prompt=PROMPT, max_tokens=12, temperature=0).choices[0]
    return [choice.text, choice.finish_reason]


@case
def completion_several():
    answer = client.completions.create(
        model="any", prompt=[PROMPT, "Another"], max_tokens=6, temperature=0, n=2
    )
    return [[choice.index, choice.text] for choice in answer.choices]


@case
def completion_ids():
    ids = [256, *PROMPT.encode()]
    return client.completions.create(model="any", prompt=ids, max_tokens=12, temperature=0).choices[0].text


@case
def completion_echo():
    answer = client.completions.create(
        model="any", prompt=PROMPT, max_tokens=2, temperature=0, echo=True, logprobs=1
    )
    logprobs = answer.choices[0].logprobs
    return {
        "text": answer.choices[0].text,
        "usage": [answer.usage.prompt_tokens, answer.usage.completion_tokens],
        "tokens": len(logprobs.tokens),
        "logprobs": logprobs.token_logprobs,
        "top": [None if top is None else len(top) for top in logprobs.top_logprobs],
    }


@case
def completion_stream():
    chunks = list(
        client.completions.create(
            model="any", prompt=PROMPT, max_tokens=12, temperature=0, stream=True, stream_options=USAGE
        )
    )
    ends = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    return [text, ends, [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]]


@case
def refused():
    return client.chat.completions.create(**asked(top_p=1.5))


@case
def refused_stream():
    return client.chat.completions.create(**asked(max_tokens=0, stream=True))


@case
def refused_schema():
    wanted = {"type": "json_schema", "json_schema": {"name": "bad", "schema": {"type": "no such type"}}}
    return client.chat.completions.create(**asked(response_format=wanted))


@case
def too_long():
    return client.completions.create(model="any", prompt="long " * 400, max_tokens=4)


@case
def no_such_route():
    return client.embeddings.create(model="any", input="a")


@case
async def chat_later():
    return whole(await later.chat.completions.create(**asked()))


@case
async def chat_stream_later():
    chunks = await later.chat.completions.create(**asked(stream=True, stream_options=USAGE))
    return streamed([chunk async for chunk in chunks])


@case
async def chat_stream_helper_later():
    async with later.chat.completions.stream(**asked()) as stream:
        try:
            return text_of(await stream.get_final_completion())
        except LengthFinishReasonError as ended:
            return text_of(ended.completion)


@case
async def chat_parsed_later():
    answer = await later.chat.completions.parse(**asked(max_tokens=64, response_format=Trip))
    return answer.choices[0].message.parsed.city


@case
async def completion_later():
    answer = await later.completions.create(model="any", prompt=PROMPT, max_tokens=12, temperature=0)
    return answer.choices[0].text


@case
async def many_at_once():
    answers = await asyncio.gather(*(later.chat.completions.create(**asked()) for _ in range(8)))
    return [text_of(answer) for answer in answers]


@case
async def a_stream_left_early():
    stream = await later.chat.completions.create(
        **asked(max_tokens=300, stream=True, extra_body={"ignore_eos": True})
    )
    async for _ in stream:
        break
    await stream.close()
    return text_of(await later.chat.completions.create(**asked()))


@case
async def refused_later():
    return await later.chat.completions.create(**asked(top_p=1.5))


@case
def without_key():
    return OpenAI(base_url=f"{GUARDED}/v1", api_key="wrong", max_retries=0).chat.completions.create(**asked())


@case
def with_key():
    return whole(
        OpenAI(base_url=f"{GUARDED}/v1", api_key=KEY, max_retries=0).chat.completions.create(**asked())
    )


@case
def overloaded():
    guarded = OpenAI(base_url=f"{GUARDED}/v1", api_key=KEY, max_retries=0)
    first = iter(guarded.chat.completions.create(**asked(max_tokens=200, stream=True)))
    next(first)
    return guarded.chat.completions.create(**asked())


run()
