"""`agentlm generate`: one prompt, a file of prompts, or standard input; text or JSON lines out."""

import json
import sys
from typing import IO, Any

import click

from agentlm.cli.options import engine_settings, model_options, sampling_options

Job = tuple[str, dict[str, Any]]
"""A prompt and its sampling parameters."""


@click.command("generate")
@click.argument("prompt", required=False)
@click.option("--file", "source", type=click.File("r"), help="Prompts from a file (- for standard input): one a line, or JSON lines with `prompt` and sampling parameters.")  # fmt: skip
@click.option(
    "--output", type=click.File("w"), default="-", help="Where the answers go [default: standard output]"
)
@click.option("--jsonl", is_flag=True, help="Write JSON lines instead of text.")
@click.option("--chat", is_flag=True, help="Render each prompt as a user's message by the chat template.")
@sampling_options
@model_options
def command(
    prompt: str | None, source: IO[str] | None, output: IO[str], jsonl: bool, chat: bool, **options: Any
) -> None:
    """Generate text for PROMPT, for each prompt of --file, or for standard input."""
    from agentlm import LLM, SamplingParams

    settings = engine_settings(options)
    base = {name: value for name, value in options.items() if value is not None}
    jobs = _jobs(prompt, source, base)
    params = [SamplingParams.from_dict(values) for _, values in jobs]
    with LLM(settings.pop("model"), **settings) as llm:
        if llm.info.is_random:
            click.echo("note: no model was given; this small random one's text means nothing", err=True)
        prompts: list[Any] = [text for text, _ in jobs]
        if chat:
            prompts = [llm.render_chat([{"role": "user", "content": text}]) for text in prompts]
        if len(prompts) == 1 and not jsonl:
            for chunk in llm.stream(prompts[0], params[0]):
                output.write(chunk.text)
                output.flush()
            output.write("\n")
            return
        for (text, _), completion in zip(jobs, llm.generate(prompts, params), strict=True):
            if jsonl:
                usage = completion.usage
                line = {
                    "prompt": text,
                    "text": completion.text,
                    "finish_reason": completion.finish_reason,
                    "prompt_tokens": usage.prompt_tokens,
                    "completion_tokens": usage.completion_tokens,
                }
                output.write(json.dumps(line, ensure_ascii=False) + "\n")
            else:
                output.write(completion.text + "\n")


def _read(source: IO[str], name: str) -> str:
    try:
        return source.read()
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{name} is not UTF-8 text: {error}") from error


def _jobs(prompt: str | None, source: IO[str] | None, base: dict[str, Any]) -> list[Job]:
    """Each prompt with its sampling parameters."""
    if prompt is not None:
        if source is not None:
            raise click.UsageError("give PROMPT or --file, not both")
        return [(prompt, base)]
    if source is None:
        if sys.stdin.isatty():
            raise click.UsageError("give PROMPT, --file, or text on standard input")
        return [(_read(sys.stdin, "standard input").removesuffix("\n"), base)]
    jobs: list[Job] = []
    for number, line in enumerate(_read(source, source.name).splitlines(), 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            jobs.append((line, base))
            continue
        try:
            values = json.loads(line)
            prompt = values.pop("prompt")
        except (json.JSONDecodeError, KeyError) as error:
            raise click.ClickException(
                f"{source.name}:{number} is not a JSON object with `prompt`: {error}"
            ) from error
        if not isinstance(prompt, str):
            raise click.ClickException(
                f"{source.name}:{number}: `prompt` must be text. Given: {prompt!r:.80}"
            )
        jobs.append((prompt, {**base, **values}))
    if not jobs:
        raise click.ClickException(f"{source.name} holds no prompt")
    return jobs
