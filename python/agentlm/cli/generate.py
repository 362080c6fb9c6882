"""`agentlm generate`: one prompt, a file of prompts, or standard input; text or JSON lines out."""

import json
import sys
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import click

from agentlm.cli.options import chat_template_option, engine_settings, model_options, sampling_options

if TYPE_CHECKING:
    from agentlm import LLM, Completion, SamplingParams
    from agentlm.errors import GenerationError


@dataclass(frozen=True, slots=True)
class Job:
    """A prompt and its sampling parameters."""

    prompt: str
    params: dict[str, Any]
    where: str
    """What an error calls it."""


@click.command("generate")
@click.argument("prompt", required=False)
@click.option("--file", "source", type=click.File("r"), help="Prompts from a file (- for standard input): one a line, or JSON lines with `prompt` and sampling parameters.")  # fmt: skip
@click.option(
    "--output",
    type=click.File("w", lazy=False),
    default="-",
    help="Where the answers go [default: standard output]",
)
@click.option("--jsonl", is_flag=True, help="Write JSON lines instead of text.")
@click.option("--chat", is_flag=True, help="Render each prompt as a user's message by the chat template.")
@chat_template_option
@sampling_options
@model_options
def command(
    prompt: str | None,
    source: IO[str] | None,
    output: IO[str],
    jsonl: bool,
    chat: bool,
    chat_template: str | None,
    **options: Any,
) -> None:
    """Generate text for PROMPT, for each prompt of --file, or for standard input.

    Answers are written in the prompts' order, each as soon as it and those before it are there.
    """
    from agentlm import LLM

    settings = engine_settings(options)
    base = {name: value for name, value in options.items() if value is not None}
    jobs = _jobs(prompt, source, base)
    params = [_params(job) for job in jobs]
    with LLM(settings.pop("model"), chat_template=chat_template, **settings) as llm:
        if llm.info.is_random:
            click.echo("note: no model was given; this small random one's text means nothing", err=True)
        prompts: list[Any] = [job.prompt for job in jobs]
        if chat:
            prompts = [llm.render_chat([{"role": "user", "content": text}]) for text in prompts]
        if len(prompts) == 1 and not jsonl:
            for chunk in llm.stream(prompts[0], params[0]):
                output.write(chunk.text)
                output.flush()
            output.write("\n")
            return
        failed = _write_all(llm, jobs, prompts, params, output, jsonl)
    if failed:
        raise click.ClickException(f"{failed} of {len(jobs)} prompts failed; the others are written")


def _write_all(
    llm: "LLM",
    jobs: list[Job],
    prompts: list[Any],
    params: "list[SamplingParams]",
    output: IO[str],
    jsonl: bool,
) -> int:
    """Generates and writes; the number of prompts that failed."""
    from agentlm.errors import GenerationError, InvalidRequestError

    failed = written = 0
    waiting: dict[int, Completion | GenerationError] = {}
    try:
        for index, done in llm.as_completed(prompts, params):
            waiting[index] = done
            while (done_next := waiting.pop(written, None)) is not None:
                job = jobs[written]
                if isinstance(done_next, GenerationError):
                    click.echo(f"{job.where}: {done_next}", err=True)
                    failed += 1
                output.write(_line(job, done_next, jsonl) + "\n")
                written += 1
            output.flush()
    except InvalidRequestError as error:
        if error.prompt is None:
            raise
        raise InvalidRequestError(f"{jobs[error.prompt].where}: {error.__cause__}") from error
    return failed


def _line(job: Job, done: "Completion | GenerationError", jsonl: bool) -> str:
    """One answer as it is written; a failed one is an empty line, or an object with `error`."""
    if isinstance(done, Exception):
        return json.dumps({"prompt": job.prompt, "error": str(done)}, ensure_ascii=False) if jsonl else ""
    if not jsonl:
        return done.text
    line = {
        "prompt": job.prompt,
        "text": done.text,
        "finish_reason": done.finish_reason,
        "prompt_tokens": done.usage.prompt_tokens,
        "completion_tokens": done.usage.completion_tokens,
    }
    return json.dumps(line, ensure_ascii=False)


def _params(job: Job) -> "SamplingParams":
    from agentlm import SamplingParams
    from agentlm.errors import InvalidRequestError

    try:
        return SamplingParams.from_dict(job.params)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{job.where}: {error}") from error


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
        return [Job(prompt, base, "PROMPT")]
    if source is None:
        if sys.stdin.isatty():
            raise click.UsageError("give PROMPT, --file, or text on standard input")
        return [Job(_read(sys.stdin, "standard input").removesuffix("\n"), base, "standard input")]
    jobs: list[Job] = []
    # Not `splitlines`, which also cuts at characters that may stand in a prompt.
    for number, line in enumerate(_read(source, source.name).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{source.name}:{number}"
        if not line.lstrip().startswith("{"):
            jobs.append(Job(line, base, where))
            continue
        try:
            values = json.loads(line)
            prompt = values.pop("prompt")
        except (json.JSONDecodeError, KeyError) as error:
            raise click.ClickException(f"{where} is not a JSON object with `prompt`: {error}") from error
        if not isinstance(prompt, str):
            raise click.ClickException(f"{where}: `prompt` must be text. Given: {prompt!r:.80}")
        jobs.append(Job(prompt, {**base, **values}, where))
    if not jobs:
        raise click.ClickException(f"{source.name} holds no prompt")
    return jobs
