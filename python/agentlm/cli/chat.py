"""`agentlm chat`: a conversation on the terminal."""

import sys
from typing import Any

import click

from agentlm.cli.options import (
    chat_template_option,
    engine_settings,
    model_options,
    sampling_options,
    sampling_params,
)


@click.command("chat")
@click.option("--system", help="System message.")
@chat_template_option
@sampling_options
@model_options
def command(system: str | None, chat_template: str | None, **options: Any) -> None:
    """Talk to a model. An empty line or Ctrl-D ends; Ctrl-C stops an answer; /reset forgets the conversation."""
    from agentlm import LLM
    from agentlm.errors import ChatTemplateError, InvalidRequestError, NoChatTemplateError
    from agentlm.model import bundled

    if sys.stdin is None:
        raise click.UsageError("standard input is closed: what is said is read from it")
    settings = engine_settings(options)
    params = sampling_params({name: value for name, value in options.items() if value is not None})
    start = [{"role": "system", "content": system}] if system else []
    with LLM(settings.pop("model"), chat_template=chat_template, **settings) as llm:
        if not llm.info.is_chosen:
            click.echo(f"note: {bundled.note(llm.info.backend)}", err=True)
        # What is wrong from the start is not said after somebody has typed.
        try:
            llm.render_chat([*start, {"role": "user", "content": "Hi"}])
        except NoChatTemplateError:
            raise
        except ChatTemplateError:
            # The template may take other words.
            pass
        messages = list(start)
        while True:
            try:
                said = click.prompt(click.style("you", fg="cyan"), default="", show_default=False)
            except click.Abort:
                click.echo()
                return
            if not said:
                return
            if said == "/reset":
                messages = list(start)
                continue
            messages.append({"role": "user", "content": said})
            try:
                answer = _answer(llm, messages, params)
            except InvalidRequestError as error:
                # The conversation has outgrown the context: what was said is taken back, the rest stands.
                click.secho(f"error: {error} (/reset starts again)", fg="red", err=True)
                messages.pop()
                continue
            messages.append({"role": "assistant", "content": answer})


def _answer(llm: Any, messages: list[dict[str, str]], params: Any) -> str:
    """Streams one answer to the terminal; Ctrl-C keeps what came so far."""
    said: list[str] = []
    try:
        for chunk in llm.stream(llm.render_chat(messages), params):
            said.append(chunk.text)
            click.echo(chunk.text, nl=False)
    except KeyboardInterrupt:
        click.echo(" [stopped]", nl=False)
    click.echo()
    return "".join(said)
