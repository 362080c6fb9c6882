"""`agentlm bench`: how fast one model runs here. Beside other engines, `make bench` measures."""

import json
from typing import Any

import click

from agentlm.cli.options import engine_settings, model_options


@click.command("bench")
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Length of each prompt.")  # fmt: skip
@click.option("--new-tokens", type=click.IntRange(min=2), default=64, show_default=True, help="Tokens to generate for each.")  # fmt: skip
@click.option("--batch", "batches", type=click.IntRange(min=1), multiple=True, default=(1, 4, 16), show_default=True, help="Requests at once; repeatable.")  # fmt: skip
@click.option("--repeat", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each; the median is shown.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@model_options
def command(
    prompt_tokens: int, new_tokens: int, batches: tuple[int, ...], repeat: int, as_json: bool, **options: Any
) -> None:
    """Measure prefill and decode of a model on this machine."""
    from statistics import median

    from agentlm import LLM

    settings = engine_settings(options)
    with LLM(settings.pop("model"), **settings) as llm:
        if not as_json:
            click.echo(
                f"{llm.info.model}: {llm.info.backend}, weights {llm.info.dtype}, KV {llm.info.kv_cache_dtype}"
            )
            click.echo(f"{'batch':>5} {'prefill tokens/s':>17} {'decode tokens/s':>16} {'first token s':>14}")
        for batch in batches:
            prefill, decode, first = zip(
                *(_run(llm, batch, prompt_tokens, new_tokens, run) for run in range(repeat)), strict=True
            )
            row = {
                "batch": batch,
                "prefill_tokens_per_second": median(prefill),
                "decode_tokens_per_second": median(decode),
                "first_token_seconds": median(first),
            }
            if as_json:
                click.echo(json.dumps(row))
            else:
                values = tuple(row.values())
                click.echo(f"{batch:>5} {values[1]:>17.1f} {values[2]:>16.1f} {values[3]:>14.3f}")


def _run(llm: Any, batch: int, prompt_tokens: int, new_tokens: int, run: int) -> tuple[float, float, float]:
    """Prefill tokens/s, decode tokens/s and seconds to the first token of one run; prompts differ from run to run."""
    from agentlm import SamplingParams

    vocab = 200
    prompts = [
        [(7919 * (run + 1) + 31 * row + 17 * position) % vocab + 3 for position in range(prompt_tokens)]
        for row in range(batch)
    ]
    params = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    usages = [completion.usage for completion in llm.generate(prompts, params, progress=False)]
    first = max(usage.first_token_seconds for usage in usages)
    rest = max(usage.total_seconds for usage in usages) - first
    return batch * prompt_tokens / first, batch * (new_tokens - 1) / max(rest, 1e-9), first
