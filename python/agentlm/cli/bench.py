"""`agentlm bench`: how fast one model runs here. Beside other engines, `make bench` measures."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import click

from agentlm.cli.options import engine_settings, model_options

PROMPT_TOKENS = 128
NEW_TOKENS = 64
LEAST_NEW_TOKENS = 2
"""The first token is the prefill's."""
_FIRST_ID = 3
"""Smaller ids are often special tokens."""
_IDS = 200
"""How many ids the prompts are made of; every vocabulary has so many."""


@click.command("bench")
@click.option("--prompt-tokens", type=click.IntRange(min=1, max=2**31), help="Length of each prompt [default: 128, or fewer where the context is short]")  # fmt: skip
@click.option("--new-tokens", type=click.IntRange(min=LEAST_NEW_TOKENS, max=2**31), help="Tokens to generate for each [default: 64, or fewer where the context is short]")  # fmt: skip
@click.option("--batch", "batches", type=click.IntRange(min=1, max=2**16), multiple=True, default=(1, 4, 16), show_default=True, help="Requests at once; repeatable.")  # fmt: skip
@click.option("--repeat", type=click.IntRange(min=1, max=2**16), default=3, show_default=True, help="Runs of each; the median is shown.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@model_options
def command(
    prompt_tokens: int | None,
    new_tokens: int | None,
    batches: tuple[int, ...],
    repeat: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure prefill and decode of a model on this machine."""
    from statistics import median

    from agentlm import LLM

    settings = engine_settings(options)
    with LLM(settings.pop("model"), **settings) as llm:
        prompt, new = _lengths(prompt_tokens, new_tokens, llm.info.max_total_tokens)
        if (prompt, new) != (prompt_tokens or PROMPT_TOKENS, new_tokens or NEW_TOKENS):
            click.echo(
                f"note: requests have at most {llm.info.max_total_tokens} tokens: {prompt} of the prompt, {new} new ones",
                err=True,
            )
        if not as_json:
            click.echo(
                f"{llm.info.model}: {llm.info.backend}, weights {llm.info.dtype}, KV {llm.info.kv_cache_dtype}"
            )
            click.echo(f"{'batch':>5} {'prefill tokens/s':>17} {'decode tokens/s':>16} {'first token s':>14}")
        numbers = itertools.count()
        for batch in batches:
            prefill, decode, first = zip(
                *(_run(llm, batch, prompt, new, numbers) for _ in range(repeat)), strict=True
            )
            row = {
                "batch": batch,
                "prefill_tokens_per_second": median(prefill),
                "decode_tokens_per_second": median(decode),
                "first_token_seconds": median(first),
                "prompt_tokens": prompt,
                "new_tokens": new,
            }
            if as_json:
                click.echo(json.dumps(row))
            else:
                values = tuple(row.values())
                click.echo(f"{batch:>5} {values[1]:>17.1f} {values[2]:>16.1f} {values[3]:>14.3f}")


def _lengths(prompt: int | None, new: int | None, most: int) -> tuple[int, int]:
    """Tokens of a prompt and new ones; where nobody named them they give way to a request's `most` tokens."""
    if new is None:
        room = most - prompt if prompt else most // 3
        new = max(min(NEW_TOKENS, room), LEAST_NEW_TOKENS)
    if prompt is None:
        prompt = max(min(PROMPT_TOKENS, most - new), 1)
    if prompt + new > most:
        raise click.UsageError(
            f"--prompt-tokens and --new-tokens must together be at most {most}, the longest request of this model. "
            f"Given: {prompt} and {new}"
        )
    return prompt, new


def _run(
    llm: Any, batch: int, prompt_tokens: int, new_tokens: int, numbers: Iterator[int]
) -> tuple[float, float, float]:
    """Prefill tokens/s, decode tokens/s and seconds to the first token of one run."""
    from agentlm import SamplingParams

    prompts = [_prompt(number, prompt_tokens) for number in itertools.islice(numbers, batch)]
    params = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    usages = [completion.usage for completion in llm.generate(prompts, params, progress=False)]
    first = max(usage.first_token_seconds for usage in usages)
    rest = max(usage.total_seconds for usage in usages) - first
    return batch * prompt_tokens / first, batch * (new_tokens - 1) / max(rest, 1e-9), first


def _prompt(number: int, tokens: int) -> list[int]:
    """Token ids that begin with the number's digits, so that the prefix cache finds nothing of one prompt in another."""
    digits: list[int] = [number // _IDS**place % _IDS for place in range(4)]
    rest = [(31 * number + 17 * position) % _IDS for position in range(4, tokens)]
    return [_FIRST_ID + value for value in (digits + rest)[:tokens]]
