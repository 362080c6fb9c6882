"""Several runs, one after the other, by the ranks of one torchrun: `python -m torch.distributed.run … ranks.py FILE…`.

Or by forks of one process, which import torch once: `python ranks.py --forks N FILE…`.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from agentlm.tuning.config import TuneConfig

SECONDS = 240.0


def launch(ranks: int, *configs: TuneConfig, forks: bool = False) -> None:
    """Carries out the runs on so many processes of one thread, each going on if it was begun."""
    with tempfile.TemporaryDirectory() as directory:
        files = []
        for index, config in enumerate(configs):
            file = Path(directory) / f"{index}.toml"
            file.write_text(config.to_toml(), encoding="utf-8")
            files.append(str(file))
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), __file__]
        words = [__file__, "--forks", str(ranks)] if forks else torchrun
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        with subprocess.Popen(
            [sys.executable, *words, *files],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                # With all its ranks: they would wait for one another for ever.
                os.killpg(process.pid, signal.SIGKILL)
                raise
    assert process.returncode == 0, said[-4000:]


def forked(ranks: int) -> None:
    """Returns in each of so many processes; the first one ends when all have ended, badly if one did."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    for rank in range(ranks):
        if os.fork() == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            return
    for _ in range(ranks):
        _, status = os.wait()
        if status:
            os.killpg(0, signal.SIGKILL)
    sys.exit(0)


def main(files: list[str]) -> None:
    import torch.distributed as dist

    from agentlm.tuning.parallel import launched
    from agentlm.tuning.run import run

    if files[0] == "--forks":
        ranks, files = int(files[1]), files[2:]
        forked(ranks)
    rank, world, local_rank = launched()
    # Met once for all runs.
    dist.init_process_group()
    for file in files:
        run(TuneConfig.load(file), resume=True, quiet=True, rank=rank, world=world, local_rank=local_rank)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
