"""Nothing of an evaluation needs a network: it runs in a namespace that has none but the loopback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LONELY = """
import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.slow
def test_from_the_first_command_to_the_report(tmp_path: Path) -> None:
    lonely = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", LONELY]
    probe = subprocess.run([*lonely, "-c", ""], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"no network namespace can be made here: {probe.stderr.strip()}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENTLM_")}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    def run(*arguments: str) -> str:
        command = [*lonely, "-m", "agentlm", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "gold 5 of 5 right" in run("eval", "doctor", "gsm8k", "mmlu")
    # The bundled model, served on the CPU.
    assert "GSM8K (own samples)" in run("eval", "gsm8k", "--limit", "5", "--max-new-tokens", "16")
    assert "MMLU (own samples)" in run("eval", "mmlu", "--limit", "2")
    assert "GSM8K (own samples)" in run("report")
