"""Whether the wheels in dist/ install and work under other interpreters than their builder. `make test-wheel` calls it.

For each interpreter a fresh environment gets the wheels, with the pinned versions of what they need, and stands in an empty
directory: the version is told, a prompt is answered from the command line, from Python and over HTTP, each time the same.
With `--tests` the engine's and the server's tests follow in it. It refuses to know how wheels are built.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300
"""How long one command may take; installing may take longer."""
TESTS = ("tests/engine", "tests/server", "tests/model", "tests/cli")
TESTED_WITH = ("hypothesis", "jsonschema", "pytest", "peft", "matplotlib", "pyarrow", "tensorboard")
PROMPT = "[INST] Hello! [/INST]"
TOKENS = 16

FROM_PYTHON = f"""
import json, sys
import agentlm
from agentlm import LLM, SamplingParams

with LLM(progress=False) as llm:
    [answer] = llm.generate({PROMPT!r}, SamplingParams(max_new_tokens={TOKENS}))
print(json.dumps({{"text": answer.text, "place": agentlm.__file__, "python": sys.version.split()[0]}}))
"""


def run(*command: object, cwd: Path, seconds: int = SECONDS) -> str:
    """Standard output of a command that must succeed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=seconds, env=environment())
    if done.returncode != 0:
        sys.exit(
            f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
    return done.stdout


def environment() -> dict[str, str]:
    """This process's, without what would lead into the tree."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    }


def served(agentlm: Path, cwd: Path) -> str:
    """What a server answers to the prompt."""
    command = [str(agentlm), "serve", "--port", "0", "--hostname", "127.0.0.1"]
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True, env=environment()) as server:
        assert server.stderr is not None
        try:
            said = []
            for line in server.stderr:
                said.append(line)
                if ready := re.search(r"ready: (http://\S+) serves", line):
                    break
            else:
                sys.exit(f"the server ended:\n{''.join(said)}")
            body = {"inputs": PROMPT, "parameters": {"max_new_tokens": TOKENS}}
            request = urllib.request.Request(
                f"{ready[1]}/generate", json.dumps(body).encode(), {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                return str(json.load(answer)["generated_text"])
        finally:
            server.terminate()


def check(interpreter: str, uv: str, tests: bool, keep: Path | None) -> None:
    """Installs and asks; ends the process with the reason where something fails."""
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    if len(wheels) != 3:
        sys.exit(f"dist/ holds {len(wheels)} wheels, not three: run `make wheel` first")
    with tempfile.TemporaryDirectory(prefix="agentlm-wheel-") as temporary:
        empty = Path(temporary) / "empty"
        empty.mkdir()
        place = keep or Path(temporary) / "venv"
        run(uv, "venv", "--quiet", "--python", interpreter, place, cwd=empty)
        python, agentlm = place / "bin" / "python", place / "bin" / "agentlm"
        install = (uv, "pip", "install", "--quiet", "--python", python, "-c", ROOT / "constraints.txt")
        run(*install, *wheels, *(TESTED_WITH if tests else ()), cwd=empty, seconds=3600)
        version = run(agentlm, "--version", cwd=empty).strip()
        told = json.loads(run(python, "-c", FROM_PYTHON, cwd=empty))
        if not Path(told["place"]).is_relative_to(place):
            sys.exit(f"the package comes from {told['place']}, not from the wheel")
        answers = {
            "python": told["text"],
            "command": run(agentlm, "generate", PROMPT, "--max-new-tokens", TOKENS, cwd=empty).removesuffix(
                "\n"
            ),
            "server": served(agentlm, empty),
        }
        if len(set(answers.values())) != 1 or not told["text"].strip():
            sys.exit(f"answers differ, or are empty: {answers}")
        print(f"Python {told['python']}: {version} answers {told['text']!r}", flush=True)
        if tests:
            ran = subprocess.run([str(python), "-m", "pytest", "-q", *TESTS], cwd=ROOT, env=environment())
            if ran.returncode != 0:
                sys.exit(f"the tests failed under Python {told['python']}")


def main() -> None:
    """Checks each interpreter named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("interpreters", nargs="+", help="as `uv venv --python` takes them")
    parser.add_argument("--tests", action="store_true", help="run the engine's and the server's tests, too")
    parser.add_argument("--keep", type=Path, help="where the environment stays; for one interpreter")
    asked = parser.parse_args()
    if asked.keep is not None and len(asked.interpreters) > 1:
        parser.error("--keep is for one interpreter")
    uv = shutil.which("uv") or sys.exit("uv is not on PATH")
    for interpreter in asked.interpreters:
        check(interpreter, uv, asked.tests, asked.keep)


if __name__ == "__main__":
    main()
