"""Who the servers are: asked once, before any request of a task. Refuses to know what is asked of them afterwards."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from agentlm_evals.errors import ConfigError, ModelError, RefusedError
from agentlm_evals.model import Limits
from agentlm_evals.models.cache import CallCache
from agentlm_evals.models.endpoint import Answer
from agentlm_evals.models.pool import Pool
from agentlm_evals.models.served import (
    DEFAULT_CONCURRENCY,
    MOST_CONCURRENCY,
    Api,
    ServedModel,
    ServerFacts,
    last_logprobs,
)
from agentlm_evals.models.template import SERVER


async def connect(
    pool: Pool,
    *,
    api: Api | None = None,
    template: str = SERVER,
    cache: CallCache | None = None,
    weights: str | None = None,
    name: str | None = None,
    settings: Sequence[str] = (),
    wait: float = 60.0,
) -> ServedModel:
    """Asks the servers who they are and makes a model of them.

    Args:
        pool: The servers.
        api: Which routes to use; None asks.
        template: How messages become a prompt.
        cache: Where answers to greedy requests are kept.
        weights: A digest of the weights, if the caller knows it.
        name: Which of the servers' models is asked, by the name that they list (an adapter's, too); where they list one
            only, what the report calls it. None: theirs.
        settings: Flags that the server was started with.
        wait: Seconds that servers have to become well.

    Raises:
        ModelError: A server is not there, or servers differ in their model.
        ConfigError: The template's name is not known, or servers list several models and none of this name.
    """
    await pool.wait_well(wait)
    infos = [answer for answer in await pool.probe("/info") if answer and answer.status == 200]
    infos = [answer for answer in infos if isinstance(answer.body, dict) and "model_id" in answer.body]
    is_tgi = len(infos) == len(pool.endpoints)
    lists = [answer for answer in await pool.probe("/v1/models") if answer and answer.status == 200]
    if api is None:
        if not is_tgi and not lists:
            raise ModelError(
                f"{pool.endpoints[0].url} speaks neither TGI's routes (/info) nor OpenAI's (/v1/models)"
            )
        api = "tgi" if is_tgi else "openai"
    bases = {str(answer.body["model_id"]) for answer in infos} if is_tgi else set()
    digests = {answer.body.get("model_sha") for answer in infos}
    if len(bases) > 1 or len(digests) > 1:
        raise ModelError(f"the servers hold different models: {', '.join(sorted(map(str, bases | digests)))}")
    asked = _asked(name, next(iter(bases), None), lists)
    totals = [
        int(answer.body[key]) for answer in infos for key in ("max_total_tokens",) if answer.body.get(key)
    ]
    inputs = [
        int(answer.body[key]) for answer in infos for key in ("max_input_tokens",) if answer.body.get(key)
    ]
    at_once = [int(answer.body.get("max_concurrent_requests") or DEFAULT_CONCURRENCY) for answer in infos]
    most = min(MOST_CONCURRENCY, sum(at_once) if is_tgi else DEFAULT_CONCURRENCY * len(pool.endpoints))
    versions = {f"{answer.body.get('router', 'tgi')} {answer.body.get('version', '?')}" for answer in infos}
    adapter = asked if bases and asked not in bases and asked in _listed(lists) else None
    if not weights and is_tgi and not adapter:
        # Of an adapter nobody knows which weights its name stands for, unless the caller does.
        weights = next(iter(digests))
    facts = ServerFacts(
        model=_shown(name) if name else _shown(asked),
        asked=asked,
        api=api,
        weights=weights,
        version=", ".join(sorted(versions)) or "OpenAI-compatible",
        limits=Limits(min(inputs, default=None), min(totals, default=None)),
        concurrency=most,
        takes_ids=False,
        adapter=adapter,
        settings=tuple(settings),
    )
    model = ServedModel(pool, facts, template, cache)
    if is_tgi and lists and await _takes_ids(pool, facts.asked):
        model.facts = replace(facts, takes_ids=True)
    return model


def _shown(name: str) -> str:
    """A directory's or a hub name's last part."""
    return PurePath(name).name or name


def _listed(lists: Sequence[Answer]) -> list[str]:
    """Every name that all servers list, in the first one's order."""
    names = [
        [str(row["id"]) for row in answer.body["data"]]
        for answer in lists
        if isinstance(answer.body, dict) and answer.body.get("data")
    ]
    if not names:
        return []
    return [one for one in names[0] if all(one in of_server for of_server in names)]


def _asked(name: str | None, base: str | None, lists: Sequence[Answer]) -> str:
    """What requests call the model."""
    listed = _listed(lists)
    if name is not None and name in listed:
        return name
    if base is not None:
        return base
    if name is not None and not lists:
        return name
    if lists and not listed:
        raise ModelError("the servers hold different models: no name is listed by all of them")
    if len(listed) > 1:
        shown = ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "")
        raise ConfigError(
            f"the server lists several models, and the one that was named is {name!r}: it must be one of {shown}"
        )
    return next(iter(listed), "model")


async def _takes_ids(pool: Pool, model: str) -> bool:
    """Whether prompts of token ids are scored without generating a token: our server does so, TGI's does not."""
    body = {"model": model, "prompt": [[1, 1]], "max_tokens": 0, "echo": True, "logprobs": 0}
    try:
        await pool.ask("POST", "/v1/completions", body, last_logprobs)
    except (RefusedError, ModelError):
        return False
    return True
