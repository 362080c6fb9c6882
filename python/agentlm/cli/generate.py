"""`agentlm generate`: one prompt, a file of prompts, or standard input; text or JSON lines out."""

import json
import re
import sys
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from agentlm.cli.answers import AnswerLines
from agentlm.cli.options import (
    as_flags,
    chat_template_option,
    engine_settings,
    model_options,
    sampling_options,
    sampling_params,
)
from agentlm.errors import shown

if TYPE_CHECKING:
    from agentlm import LLM, Completion, SamplingParams
    from agentlm.errors import GenerationError


_LINE_END = re.compile(r"\r?\n")
"""Not what `splitlines` cuts at: the other characters may stand in a prompt."""


@dataclass(frozen=True, slots=True)
class Job:
    """A prompt and its sampling parameters."""

    prompt: str
    params: dict[str, Any]
    where: str
    """What an error calls it."""
    flags: Set[str] = frozenset()
    """Which of the parameters flags gave."""

    def told(self, why: object) -> str:
        """What is said against it."""
        return f"{self.where}: {as_flags(str(why), self.flags)}"


class _Output(click.File):
    """A file to write to, or standard output, which may be closed."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> IO[Any]:
        """Opens it."""
        if value == "-" and sys.stdout is None:
            self.fail("standard output is closed: give a file", param, ctx)
        return super().convert(value, param, ctx)


@click.command("generate")
@click.argument("prompt", required=False)
@click.option("--file", "source", type=click.Path(exists=True, dir_okay=False, allow_dash=True), help="Prompts from a file (- for standard input): one a line, or JSON lines with `prompt` and sampling parameters.")  # fmt: skip
@click.option(
    "--output",
    type=_Output("w", lazy=False),
    default="-",
    help="Where the answers go [default: standard output]",
)
@click.option("--jsonl", is_flag=True, help="Write JSON lines instead of text: answers, and the log-probabilities that a prompt's line asks for.")  # fmt: skip
@click.option("--chat", is_flag=True, help="Render each prompt as a user's message by the chat template.")
@chat_template_option
@sampling_options
@model_options
def command(
    prompt: str | None,
    source: str | None,
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
    from agentlm.model import bundled

    settings = engine_settings(options)
    base = {name: value for name, value in options.items() if value is not None}
    sampling_params(base)
    jobs = _jobs(prompt, source, base)
    params = [_params(job, jsonl) for job in jobs]
    with LLM(settings.pop("model"), chat_template=chat_template, **settings) as llm:
        if not llm.info.is_chosen:
            click.echo(f"note: {bundled.note(llm.info.backend)}", err=True)
        prompts: list[Any] = [job.prompt for job in jobs]
        if chat:
            prompts = [_rendered(llm, job) for job in jobs]
        if len(prompts) == 1 and not jsonl:
            with _named(jobs[0]):
                for chunk in llm.stream(prompts[0], params[0]):
                    output.write(chunk.text)
                    output.flush()
            output.write("\n")
            return
        lines = AnswerLines(llm) if jsonl else None
        failed = _write_all(llm, jobs, prompts, params, output, lines)
    if failed:
        raise click.ClickException(f"{failed} of {len(jobs)} prompts failed; the others are written")


def _write_all(
    llm: "LLM",
    jobs: list[Job],
    prompts: list[Any],
    params: "list[SamplingParams]",
    output: IO[str],
    lines: AnswerLines | None,
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
                    click.echo(job.told(done_next), err=True)
                    failed += 1
                output.write(_line(job, prompts[written], done_next, lines) + "\n")
                written += 1
            output.flush()
    except InvalidRequestError as error:
        # Of several prompts the error names one by its place; its cause says only what is wrong.
        job, why = (jobs[0], error) if error.prompt is None else (jobs[error.prompt], error.__cause__)
        raise InvalidRequestError(job.told(why)) from error
    return failed


def _line(job: Job, given: Any, done: "Completion | GenerationError", lines: AnswerLines | None) -> str:
    """One answer as it is written; a failed one is an empty line, or an object with `error`."""
    if isinstance(done, Exception):
        return "" if lines is None else lines.failed(job.prompt, str(done))
    return done.text if lines is None else lines.answered(job.prompt, given, done)


@contextmanager
def _named(job: Job) -> Iterator[None]:
    """Names the prompt in what is said against it."""
    from agentlm.errors import ChatTemplateError, GenerationError, InvalidRequestError, NoChatTemplateError

    try:
        yield
    except NoChatTemplateError:
        # No prompt is to blame.
        raise
    except (ChatTemplateError, GenerationError, InvalidRequestError) as error:
        raise type(error)(job.told(error)) from error


def _params(job: Job, jsonl: bool) -> "SamplingParams":
    from agentlm import SamplingParams
    from agentlm.errors import InvalidRequestError

    with _named(job):
        params = SamplingParams.from_dict(job.params)
        for name in ("logprobs", "top_n_tokens", "prompt_logprobs"):
            if getattr(params, name) and not jsonl:
                raise InvalidRequestError(f"`{name}` needs --jsonl: text has no place for what it asks for")
    return params


def _rendered(llm: "LLM", job: Job) -> list[int]:
    """The prompt as a user's message."""
    with _named(job):
        return llm.render_chat([{"role": "user", "content": job.prompt}])


def _read(source: str) -> str:
    """A file's text, or standard input's, to the letter: where a line ends is for the caller to say."""
    if source == "-" and sys.stdin is None:
        raise click.UsageError("standard input is closed: give PROMPT, or --file a file")
    data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    try:
        # Some editors begin a file with a byte order mark.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{_name(source)} is not UTF-8 text: {error}") from error


def _name(source: str) -> str:
    return "standard input" if source == "-" else source


def _jobs(prompt: str | None, source: str | None, base: dict[str, Any]) -> list[Job]:
    """Each prompt with its sampling parameters."""
    if prompt is not None:
        if source is not None:
            raise click.UsageError("give PROMPT or --file, not both")
        return [Job(prompt, base, "PROMPT", base.keys())]
    if source is None:
        if sys.stdin is not None and sys.stdin.isatty():
            raise click.UsageError("give PROMPT, --file, or text on standard input")
        # The text is one prompt, but for the end of its last line.
        return [Job(re.sub(r"\r?\n\Z", "", _read("-")), base, _name("-"), base.keys())]
    lines = enumerate(_LINE_END.split(_read(source)), 1)
    jobs = [_job(line, base, f"{_name(source)}:{number}") for number, line in lines if line.strip()]
    if not jobs:
        raise click.ClickException(f"{_name(source)} holds no prompt")
    return jobs


def _job(line: str, base: dict[str, Any], where: str) -> Job:
    """One line of a file: a prompt as it is, or a JSON object."""
    if not line.lstrip().startswith("{"):
        return Job(line, base, where, base.keys())
    try:
        values = json.loads(line)
        prompt = values.pop("prompt")
    except (ValueError, KeyError, RecursionError) as error:
        raise click.ClickException(f"{where} is not a JSON object with `prompt`: {error}") from error
    if not isinstance(prompt, str):
        raise click.ClickException(f"{where}: `prompt` must be text. Given: {shown(prompt)}")
    return Job(prompt, {**base, **values}, where, base.keys() - values.keys())
