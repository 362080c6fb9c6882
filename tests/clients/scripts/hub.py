"""huggingface_hub's InferenceClient, of any major: `hub.py URL GUARDED_URL KEY`."""

import asyncio
import sys

from cases import case, run
from huggingface_hub import AsyncInferenceClient, InferenceClient

URL, GUARDED, KEY = sys.argv[1:4]
PROMPT = "A gentle hum"
MESSAGES = [{"role": "user", "content": "Say something."}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "travel", "description": "Go to a city.", "parameters": SCHEMA},
}

client = InferenceClient(base_url=URL)
later = AsyncInferenceClient(base_url=URL)


def shown(tokens):
    return [[token.id, token.text, token.special] for token in tokens]


def whole(answer):
    choice = answer.choices[0]
    return [choice.message.content, choice.finish_reason, answer.usage.completion_tokens, answer.model]


def streamed(chunks):
    said = [chunk.choices[0] for chunk in chunks if chunk.choices]
    usage = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    return [
        "".join(choice.delta.content for choice in said if choice.delta.content),
        said[-1].finish_reason,
        usage,
    ]


@case
def text():
    return client.text_generation(PROMPT, max_new_tokens=12, return_full_text=False)


@case
def text_with_prompt():
    return client.text_generation(PROMPT, max_new_tokens=12)


@case
def text_on_generate():
    return InferenceClient(base_url=f"{URL}/generate").text_generation(PROMPT, max_new_tokens=12)


@case
def text_details():
    answer = client.text_generation(
        PROMPT,
        max_new_tokens=12,
        details=True,
        decoder_input_details=True,
        top_n_tokens=2,
        return_full_text=False,
    )
    details = answer.details
    return {
        "text": answer.generated_text,
        "tokens": shown(details.tokens),
        "logprobs": [token.logprob for token in details.tokens],
        "prefill": [[token.id, token.logprob] for token in details.prefill],
        "top": [len(top) for top in details.top_tokens],
        "finish": details.finish_reason,
        "count": details.generated_tokens,
        "seed": details.seed,
    }


@case
def text_stream():
    return list(client.text_generation(PROMPT, max_new_tokens=12, stream=True, return_full_text=False))


@case
def text_stream_details():
    events = list(
        client.text_generation(PROMPT, max_new_tokens=12, stream=True, details=True, return_full_text=False)
    )
    last = events[-1]
    return {
        "tokens": shown(event.token for event in events),
        "texts": [event.generated_text for event in events],
        "count": last.details.generated_tokens,
        "finish": last.details.finish_reason,
    }


@case
def text_seeded():
    def draw(seed):
        return client.text_generation(
            PROMPT, max_new_tokens=16, temperature=1.5, seed=seed, return_full_text=False
        )

    return [draw(7), draw(7), draw(8)]


@case
def text_regex():
    grammar = {"type": "regex", "value": "(yes|no), [0-9]{2}"}
    return client.text_generation(PROMPT, max_new_tokens=64, grammar=grammar, return_full_text=False)


@case
def text_json():
    grammar = {"type": "json", "value": SCHEMA}
    return client.text_generation(PROMPT, max_new_tokens=64, grammar=grammar, return_full_text=False)


@case
def text_refused():
    return client.text_generation(PROMPT, stop=["a", "b", "c", "d", "e"])


@case
def text_stream_refused():
    return list(client.text_generation(PROMPT, stop=["a", "b", "c", "d", "e"], stream=True))


@case
def chat():
    return whole(client.chat_completion(MESSAGES, max_tokens=8, temperature=0.7, seed=1))


@case
def chat_by_the_other_name():
    return whole(
        client.chat.completions.create(model="tgi", messages=MESSAGES, max_tokens=8, seed=1, temperature=0.7)
    )


@case
def chat_stream():
    options = {"include_usage": True}
    chunks = client.chat_completion(
        MESSAGES, max_tokens=8, temperature=0.7, seed=1, stream=True, stream_options=options
    )
    return streamed(list(chunks))


@case
def chat_schema():
    wanted = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}
    return client.chat_completion(MESSAGES, max_tokens=64, response_format=wanted).choices[0].message.content


@case
def chat_tool():
    choice = {"type": "function", "function": {"name": "travel"}}
    answer = client.chat_completion(MESSAGES, max_tokens=100, tools=[TOOL], tool_choice=choice)
    [call] = answer.choices[0].message.tool_calls
    return [call.type, call.function.name, call.function.arguments, answer.choices[0].finish_reason]


@case
def chat_refused():
    return client.chat_completion(MESSAGES, max_tokens=0)


@case
def chat_stream_refused():
    return list(client.chat_completion(MESSAGES, max_tokens=0, stream=True))


@case
def endpoint():
    told = InferenceClient(model=URL, provider="hf-inference")
    info = told.get_endpoint_info()
    return [told.health_check(), info["router"], info["max_best_of"]]


@case
async def text_later():
    return await later.text_generation(PROMPT, max_new_tokens=12, return_full_text=False)


@case
async def text_stream_later():
    events = await later.text_generation(PROMPT, max_new_tokens=12, stream=True, return_full_text=False)
    return [event async for event in events]


@case
async def chat_later():
    return whole(await later.chat_completion(MESSAGES, max_tokens=8, temperature=0.7, seed=1))


@case
async def chat_stream_later():
    chunks = await later.chat_completion(
        MESSAGES, max_tokens=8, temperature=0.7, seed=1, stream=True, stream_options={"include_usage": True}
    )
    return streamed([chunk async for chunk in chunks])


@case
async def many_at_once():
    def ask(_):
        return later.text_generation(PROMPT, max_new_tokens=12, return_full_text=False)

    return await asyncio.gather(*map(ask, range(8)))


@case
async def text_refused_later():
    return await later.text_generation(PROMPT, stop=["a", "b", "c", "d", "e"])


@case
def without_key():
    return InferenceClient(base_url=GUARDED, api_key="wrong").text_generation(PROMPT)


@case
def with_key():
    return InferenceClient(base_url=GUARDED, api_key=KEY).text_generation(PROMPT, max_new_tokens=2)


@case
def overloaded():
    guarded = InferenceClient(base_url=GUARDED, api_key=KEY)
    first = iter(guarded.text_generation(PROMPT, max_new_tokens=200, stream=True))
    next(first)
    return guarded.text_generation(PROMPT, max_new_tokens=2)


run()
