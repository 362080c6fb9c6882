"""Compilations are counted once each, and their manifest says what a launcher without Python must know."""

import json
import os
import subprocess
import sys
from hashlib import sha256

from tests.kernels.compile_gate import CACHE, ROOT

SCRIPT = """
import sys
from pathlib import Path
from tests.kernels.compile_cases import CASES
from tests.kernels.compile_gate import compiling
from agentlm_kernels.compilations import watch

log = watch()
assert watch() is log
with compiling("sm_90", []):
    for case in ("norm", "lora", "norm"):
        before = log.count
        CASES[case].run()
        print(log.count - before)
print(log.write(Path(sys.argv[1])))
"""


def test_the_manifest_is_of_what_was_compiled(tmp_path):
    # A process of its own: this one interprets.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(CACHE), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    first, second, again, path = done.stdout.split()
    assert int(first) > 0
    assert int(second) == 4
    assert int(again) == 0, "what is compiled stays compiled"
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert path == str(tmp_path / "manifest.json")
    kernels = manifest["kernels"]
    assert len(kernels) == int(first) + int(second)
    for kernel in kernels:
        binary = (tmp_path / f"{kernel['binary']}.cubin").read_bytes()
        assert sha256(binary).hexdigest() == kernel["binary"]
        assert kernel["symbol"].encode() in binary
        assert kernel["target"] == "cuda:90"
    shrink = [kernel for kernel in kernels if kernel["function"] == "agentlm_kernels.lora._shrink"]
    assert sorted(kernel["constants"]["rank"] for kernel in shrink) == [16, 64]
    assert shrink[0]["parameters"][:2] == [["x", "*bf16"], ["token_adapter", "*i32"]]
    assert all("rank" not in dict(kernel["parameters"]) for kernel in shrink)
