"""Whether the server of this container is well: exit status 0, or 1 with the reason. Needs only Python.

PORT is the server's own variable. A port that is given as a flag instead needs a health check of its own.
"""

import http.client
import os
import ssl
import sys
import urllib.request

SECONDS = 4


def why_unwell(port: str, secure: bool) -> str | None:
    """What is wrong, or None."""
    # The certificate names the service, not the loopback; nobody else answers there.
    context = ssl._create_unverified_context() if secure else None
    handlers = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    opener = urllib.request.build_opener(*handlers)
    url = f"{'https' if secure else 'http'}://127.0.0.1:{port}/health"
    try:
        with opener.open(url, timeout=SECONDS):
            return None
    except (OSError, http.client.HTTPException) as error:
        return f"{url}: {error}"


def main() -> int:
    """The exit status."""
    why = why_unwell(os.environ.get("PORT") or "80", bool(os.environ.get("SSL_CERTFILE")))
    if why:
        print(why, file=sys.stderr)
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main())
