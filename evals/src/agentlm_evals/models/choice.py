"""Which model is asked, as the command line says it: URLs, ports, or a checkpoint that we serve. Refuses to know tasks."""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentlm_evals.errors import ConfigError
from agentlm_evals.models.cache import CallCache
from agentlm_evals.models.child import bundled_directory, serve, weights_digest
from agentlm_evals.models.connect import connect
from agentlm_evals.models.pool import Patience, Pool
from agentlm_evals.models.proxy import DIRECT, Proxies
from agentlm_evals.models.served import Api, ServedModel
from agentlm_evals.models.template import SERVER

_PORTS = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model and how it is spoken to."""

    model: str | None = None
    """A directory or hub name; with `urls` the name of the servers' model or adapter, or one for the report."""
    urls: tuple[str, ...] = ()
    weights: str | None = None
    """With `urls`: what tells their weights, and how they are served, from all others; by this answers are kept."""
    serve_arguments: tuple[str, ...] = ()
    api: Api | None = None
    template: str | None = None
    """How messages become a prompt; None: the protocol's, or the server's own."""
    api_key: str | None = None
    patience: Patience = field(default_factory=Patience)
    proxies: Proxies = DIRECT
    cache_directory: Path | None = None
    """Where answers to greedy requests are kept; None: nowhere."""

    def __post_init__(self) -> None:
        if self.urls and self.serve_arguments:
            raise ConfigError(
                "--serve-arg is for a checkpoint that we serve; --url and --port name servers that run already"
            )
        if self.weights is not None and (not self.urls or not self.weights.strip()):
            raise ConfigError(
                "--weights is for servers that run already (--url, --port), and says in a word what they hold; "
                "of a checkpoint that we serve the digest is taken"
            )

    def detours(self) -> list[str]:
        """Which servers are asked through a proxy, a line each: nobody's requests go another way without being told."""
        return [
            f"{url} is asked through the environment's proxy {proxy.shown}"
            for url in self.urls
            if (proxy := self.proxies.of(url)) is not None
        ]


def port_urls(host: str, ports: Sequence[str]) -> list[str]:
    """URLs of ports and ranges of ports, both ends included.

    Raises:
        ConfigError: What was given is neither.
    """
    base = (host if "://" in host else f"http://{host}").rstrip("/")
    urls = []
    for text in ports:
        found = _PORTS.fullmatch(text.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last <= 65535:
            raise ConfigError(
                f"a port is {text!r}; it must be a number from 1 to 65535, or a range such as 23330-23337"
            )
        urls += [f"{base}:{port}" for port in range(first, last + 1)]
    return urls


@contextmanager
def served_urls(choice: ModelChoice) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """The servers' URLs and the weights' digest if we know it; a checkpoint is served for as long as the block runs."""
    if choice.urls:
        yield choice.urls, choice.weights
        return
    digest = None
    directory = Path(choice.model) if choice.model else bundled_directory()
    if directory is not None:
        notes = choice.cache_directory / "weights.json" if choice.cache_directory else None
        digest = weights_digest(directory, notes)
    with serve(choice.model, choice.serve_arguments) as url:
        yield (url,), digest


@asynccontextmanager
async def open_model(
    choice: ModelChoice, urls: Sequence[str], weights: str | None = None
) -> AsyncIterator[ServedModel]:
    """Connects to the servers for as long as the block runs."""
    pool = Pool(urls, choice.patience, choice.api_key, choice.proxies)
    # A server that runs already may have been started with any flags, and given other weights since: the commit that it
    # tells does not stand for its answers. Of one that we have just started we know both.
    is_known = bool(weights) or not choice.urls
    cache = (
        CallCache(choice.cache_directory / "calls.sqlite") if choice.cache_directory and is_known else None
    )
    try:
        yield await connect(
            pool,
            api=choice.api,
            template=choice.template or SERVER,
            cache=cache,
            weights=weights,
            name=choice.model,
            settings=choice.serve_arguments,
        )
    finally:
        await pool.close()
        if cache:
            cache.close()
