"""The tests' own model: small, random, made once a folder. Refuses to know what is tested on it."""

import shutil
import tempfile
from pathlib import Path

SMALL_NAME = "random-small-1"
"""Directory of the model; its number changes with what `make_small` writes."""


def make_small(cache_dir: str | Path) -> Path:
    """The model's directory: made at first use, in well under a second, and kept."""
    target = Path(cache_dir) / SMALL_NAME
    if (target / "config.json").is_file():
        return target
    from agentlm.model.random import SHAPES, family_config, write_model

    target.parent.mkdir(parents=True, exist_ok=True)
    # Made beside and renamed, so that two processes starting at once never see half a model.
    made = Path(tempfile.mkdtemp(prefix=f"{SMALL_NAME}.", dir=target.parent))
    try:
        write_model(made, family_config("llama2", SHAPES["small"]))
        made.chmod(0o755)
        try:
            made.rename(target)
        except OSError:
            if not (target / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target
