"""The command `python -m bench.http`: what a streamed token costs the server, under a load generator that is not ours.

h2load opens connections at a fixed rate, whatever the server does; each streams one answer of the mock backend, 10 ms a
token. The figure is CPU time of the server's process, from the system's own accounts, over the tokens it streamed. Beside
it the floor: what a thread pays that writes as many bytes to as many sockets (`stream_cost`, in `engine/server/examples`).
Linux only. Refuses to know what a token is.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from bench.local import free_port, wait_until_ready

STEP_SECONDS = 0.01
TOKENS = 300
START_SECONDS = 60
MARGIN = 1.5
"""Places in the server for each stream that is open on average: h2load opens a second's connections at once."""


def main() -> int:
    """Runs it; 1 when h2load is missing or a stream failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.http", description=__doc__)
    parser.add_argument("--streams", type=int, default=240, help="streams at once, on average")
    parser.add_argument("--seconds", type=int, default=10)
    given = parser.parse_args()
    if shutil.which("h2load") is None:
        sys.exit("h2load is missing: install the system package nghttp2-client")
    port = free_port()
    places = str(int(given.streams * MARGIN))
    command = [sys.executable, "-m", "agentlm", "serve", "--backend", "mock", "--port", str(port)]
    command += ["--mock-step-time", str(STEP_SECONDS), "--max-concurrent-requests", places]
    server = subprocess.Popen(
        [*command, "--max-batch-size", places], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_ready(server, port, START_SECONDS)
        return _measure(server.pid, port, given.streams, given.seconds)
    finally:
        server.terminate()
        server.wait()


def _measure(process: int, port: int, streams: int, seconds: int) -> int:
    rate = max(1, round(streams / (TOKENS * STEP_SECONDS)))
    connections = rate * seconds
    cpu, tokens = _cpu_seconds(process), _tokens(port)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as body:
        json.dump({"inputs": "abc", "parameters": {"max_new_tokens": TOKENS}}, body)
        body.flush()
        load = ["h2load", "--h1", "-t", "1", "-m", "1", "-c", str(connections), "-n", str(connections)]
        load += ["-r", str(rate), "-d", body.name, "-H", "content-type: application/json"]
        done = subprocess.run(
            [*load, f"http://127.0.0.1:{port}/generate_stream"], check=True, capture_output=True, text=True
        )
    cpu, tokens = _cpu_seconds(process) - cpu, _tokens(port) - tokens
    requests = re.search(r"^requests: .*$", done.stdout, re.MULTILINE)
    print(requests.group() if requests else done.stdout)
    print(f"{tokens / cpu:.0f} streamed tokens a second of CPU; {1e6 * cpu / tokens:.2f} µs of CPU a token")
    # A stream that was turned away says so inside a 200.
    return 0 if tokens == connections * TOKENS else 1


def _cpu_seconds(process: int) -> float:
    accounts = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(account.read_text(encoding="ascii").split()[0]) for account in accounts) / 1e9


def _tokens(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    found = re.search(r"^tgi_request_generated_tokens_sum (\S+)$", metrics, re.MULTILINE)
    return int(float(found.group(1))) if found else 0


if __name__ == "__main__":
    sys.exit(main())
