"""How much memory is free, whether weights fit into it, how much the keys and values may take. Refuses to know models."""

import os
from dataclasses import dataclass
from pathlib import Path

from agentlm.config import EngineConfig
from agentlm.errors import ConfigError, OutOfMemoryError
from agentlm.runtime import control_group

BLOCK_SIZE = 16
"""KV positions in one block; the engine's own constant."""
DEFAULT_PREFILL_TOKENS = {"cpu": 512, "cuda": 4096, "mock": 512}
"""Most tokens in one step, by backend: enough for its large products, and decodes beside them do not wait long."""
MAX_BLOCKS = 2**31 // BLOCK_SIZE
"""A slot, `block * 16 + offset`, is a signed word of 32 bits on its way to a GPU."""
SHARE = 0.4
"""Share of the free memory that keys and values may take by default; pages are touched only as they fill."""


def available(root: Path = Path("/")) -> int:
    """Bytes that can be allocated without swapping; the limits of the control groups count too.

    `root` is the file system's.
    """
    return max(min([machine_free(root / "proc" / "meminfo"), *group_free(root)]), 0)


def machine_free(meminfo: Path) -> int:
    """Bytes that the machine could give."""
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    # macOS has no /proc; half of the physical memory is a cautious guess at what is free.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def group_free(root: Path) -> list[int]:
    """Bytes below each limit that is set of this process's control groups. `root` is the file system's.

    The file cache, a checkpoint's mapped pages among it, is given back under pressure, so that it counts as free.
    """
    free = []
    for version, limit, used, prefix in (
        (2, "memory.max", "memory.current", ""),
        (1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        for group in control_group.levels(root, version, "memory"):
            try:
                most, now = int((group / limit).read_text()), int((group / used).read_text())
                values = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):
                # No such control group, or its limit is "max".
                continue
            cache = sum(int(values.get(f"{prefix}{state}_file", 0)) for state in ("active", "inactive"))
            free.append(most - max(now - cache, 0))
    return free


def check_weights(needed: int, free: int, dtype: str) -> None:
    """Raises `OutOfMemoryError` if `needed` bytes of weights, in this storage, do not fit into `free`."""
    if needed > free:
        narrower = "dtype='float16' or 'bfloat16', " if dtype == "float32" else ""
        raise OutOfMemoryError(
            f"the weights need {needed} bytes of memory in {dtype}, and {free} are free. Give {narrower}a smaller model, "
            "or free some memory"
        )


@dataclass(frozen=True, slots=True)
class KvPlan:
    """What the key-value cache holds."""

    num_blocks: int
    max_total_tokens: int
    bytes: int


def plan_kv_cache(
    bytes_per_block: int,
    context_length: int,
    max_batch_size: int,
    memory: int | None,
    max_total_tokens: int | None,
    free: int,
) -> KvPlan:
    """Sizes the block pool.

    At most what `max_batch_size` full contexts need; `memory` bytes if given, else `SHARE` of `free`. The longest
    request is shortened to the pool when it was left open, and refused when it was asked for and does not fit.
    """
    wanted = max_total_tokens or context_length
    if wanted > context_length:
        raise ConfigError(
            f"`max_total_tokens` must be at most the model's context of {context_length}. Given: {wanted}"
        )
    budget = memory if memory is not None else int(free * SHARE)
    ceiling = max_batch_size * -(-wanted // BLOCK_SIZE)
    num_blocks = min(budget // bytes_per_block, ceiling, MAX_BLOCKS)
    tokens = num_blocks * BLOCK_SIZE
    least = min(wanted, 2 * BLOCK_SIZE)
    if tokens < least:
        need = -(-least // BLOCK_SIZE) * bytes_per_block
        raise OutOfMemoryError(
            f"{budget} bytes hold {num_blocks} blocks of {bytes_per_block} bytes, fewer than one request needs: give at "
            f"least {need} bytes by kv_cache_memory, or free some memory"
        )
    if max_total_tokens is not None and tokens < max_total_tokens:
        need = -(-max_total_tokens // BLOCK_SIZE) * bytes_per_block
        raise OutOfMemoryError(
            f"`max_total_tokens` of {max_total_tokens} needs {need} bytes of key-value cache; {budget} are "
            f"available. Lower it to {tokens}, or raise kv_cache_memory"
        )
    return KvPlan(num_blocks, min(wanted, tokens), num_blocks * bytes_per_block)


def step_tokens(config: EngineConfig) -> int:
    """Most tokens in one step: every running request must be able to decode, and one block of prefill beside them."""
    prefill = config.max_batch_prefill_tokens or DEFAULT_PREFILL_TOKENS[config.backend]
    return max(prefill, config.max_batch_size + BLOCK_SIZE)
