"""Which servers are asked through a proxy, by the usual variables' rules. Refuses to read the environment itself."""

import ipaddress
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from agentlm_evals.errors import ConfigError

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that is spoken to in plain HTTP, as nearly all are, whatever is asked through it."""

    host: str
    port: int
    authorization: str | None = None
    """The value of `Proxy-Authorization`, of a name and a password in its URL."""

    @property
    def shown(self) -> str:
        """For messages: without its password."""
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxy for each scheme, and the hosts that are asked directly; this machine always is."""

    by_scheme: Mapping[str, Proxy]
    direct: tuple[str, ...] = ()
    """Hosts, domains with all below them, networks (`10.0.0.0/8`), each with `:PORT` if only that is meant; `*` is all."""

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> "Proxies":
        """Of `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`; the names in small letters come first.

        Raises:
            ConfigError: A proxy is none that can be spoken to.
        """

        def value(name: str) -> tuple[str, str]:
            for one in (name, name.upper()):
                if environment.get(one, "").strip():
                    return one, environment[one].strip()
            return name, ""

        found = {}
        for scheme in _PORTS:
            name, url = value(f"{scheme}_proxy")
            if not url:
                name, url = value("all_proxy")
            if url:
                found[scheme] = _read(name, url)
        direct = value("no_proxy")[1].replace(",", " ").split()
        return Proxies(found, tuple(one.lower() for one in direct))

    def of(self, url: str) -> Proxy | None:
        """The proxy through which a URL is asked; None: directly, or it is no URL, which is for others to say."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            return None
        proxy = self.by_scheme.get(parts.scheme)
        if proxy is None or _is_here(host):
            return None
        return None if any(_covers(one, host, port) for one in self.direct) else proxy


DIRECT = Proxies({})
"""Every server is asked directly."""


def _read(name: str, url: str) -> Proxy:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if host is None or parts.scheme != "http":
        # A password may stand in it, so that it is not repeated.
        raise ConfigError(
            f"the environment's {name} is no proxy that can be used: it must be http://HOST:PORT "
            f"(SOCKS and proxies behind TLS are not spoken); unset it to ask servers directly"
        )
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {b64encode(pair.encode()).decode()}"
    return Proxy(f"[{host}]" if ":" in host else host, port, authorization)


def _is_here(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        # Linux takes 0.0.0.0 for this machine, and servers print it as where they listen.
        return address.is_loopback or address.is_unspecified
    return False


def _covers(one: str, host: str, port: int) -> bool:
    if one == "*":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(one, strict=False)
    name, colon, number = one.rpartition(":")
    if colon and number.isdigit() and (":" not in name or name.startswith("[")):
        if int(number) != port:
            return False
        one = name
    domain = one.strip("[]").removeprefix("*").lstrip(".")
    return host == domain or (bool(domain) and host.endswith(f".{domain}"))
