"""Several runs, one after the other, by the ranks of one torchrun: `python -m torch.distributed.run … ranks.py FILE…`."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from agentlm.tuning.config import TuneConfig


def launch(ranks: int, *configs: TuneConfig) -> None:
    """Carries out the runs on so many processes of one thread, each going on if it was begun."""
    with tempfile.TemporaryDirectory() as directory:
        files = []
        for index, config in enumerate(configs):
            file = Path(directory) / f"{index}.toml"
            file.write_text(config.to_toml(), encoding="utf-8")
            files.append(str(file))
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), __file__,
            *files,
        ]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-4000:]


def main() -> None:
    import torch.distributed as dist

    from agentlm.tuning.parallel import launched
    from agentlm.tuning.run import run

    rank, world, local_rank = launched()
    # Met once for all runs.
    dist.init_process_group()
    for file in sys.argv[1:]:
        run(TuneConfig.load(file), resume=True, quiet=True, rank=rank, world=world, local_rank=local_rank)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
