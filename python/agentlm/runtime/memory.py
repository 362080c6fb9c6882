"""How much memory the keys and values may take. Refuses to know what is cached."""

import os
from dataclasses import dataclass
from pathlib import Path

from agentlm.errors import ConfigError, OutOfMemoryError

BLOCK_SIZE = 16
"""KV positions in one block; the engine's own constant."""
SHARE = 0.4
"""Share of the free memory that keys and values may take by default; pages are touched only as they fill."""


def available() -> int:
    """Bytes that can be allocated without swapping; the control group's limit counts too."""
    return max(min([machine_free(Path("/proc/meminfo")), *group_free(Path("/sys/fs/cgroup"))]), 0)


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
    """Bytes below each limit of the control group (version 2, version 1) that is set.

    The file cache is given back under pressure, so that what it has not touched for long counts as free.
    """
    free = []
    for limit, used, statistics, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            most, now = int((root / limit).read_text()), int((root / used).read_text())
            values = dict(line.split() for line in (root / statistics).read_text().splitlines())
        except (OSError, ValueError):
            # No such control group, or its limit is "max".
            continue
        free.append(most - max(now - int(values.get(cache, 0)), 0))
    return free


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
    num_blocks = min(budget // bytes_per_block, ceiling, 2**31 - 1)
    tokens = num_blocks * BLOCK_SIZE
    if tokens < min(wanted, 2 * BLOCK_SIZE):
        raise OutOfMemoryError(
            f"{budget} bytes hold {num_blocks} blocks of {bytes_per_block} bytes, fewer than one request needs; "
            "give more by kv_cache_memory, or free some memory"
        )
    if max_total_tokens is not None and tokens < max_total_tokens:
        need = -(-max_total_tokens // BLOCK_SIZE) * bytes_per_block
        raise OutOfMemoryError(
            f"`max_total_tokens` of {max_total_tokens} needs {need} bytes of key-value cache; {budget} are "
            f"available. Lower it to {tokens}, or raise kv_cache_memory"
        )
    return KvPlan(num_blocks, min(wanted, tokens), num_blocks * bytes_per_block)
