"""The part `attention`: paged decode by the bytes of keys and values, prefill by its operations, beside torch's.

Requests' blocks lie scattered, as in a cache that has been in use. Decodes rotate through caches, so that keys and values
come from memory as they do when layers follow each other.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from agentlm_kernels.attention import (
    BLOCK_SIZE,
    AttentionStep,
    DecodeWorkspace,
    SplitPolicy,
    decode_work,
    paged_decode,
    paged_prefill,
)
from bench.gpu.child import Say, Setup
from bench.gpu.timing import seconds_of, sets_for

HEAD_DIM = 128
HEADS = 32
KINDS = (("GQA 32/8", 8), ("MHA 32/32", 32))
"""Names and key-value heads."""
DECODES = ((1, 1024), (1, 8192), (1, 32768), (8, 4096), (32, 2048), (64, 4096), (256, 1536))
"""Requests and positions of each."""
PREFILLS = ((1, 1024), (1, 8192), (8, 2048))
PEERS = (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION))
MEMORY_SHARE = 0.8
"""Of the free memory, for one case."""


@dataclass(frozen=True, slots=True)
class Paged:
    """Requests of one length in a cache that holds `sets` times their blocks, scattered."""

    keys: Tensor
    values: Tensor
    tables: list[Tensor]
    """`[requests, blocks]` of each set."""
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None

    @classmethod
    def make(
        cls, requests: int, positions: int, kv_heads: int, sets: int, setup: Setup, fp8: bool = False
    ) -> "Paged":
        """Random keys and values."""
        blocks = -(-positions // BLOCK_SIZE)
        total = requests * blocks * sets
        shape = (total, kv_heads, BLOCK_SIZE, HEAD_DIM)
        keys, values = (
            torch.empty(shape, dtype=setup.dtype, device=setup.device).normal_() for _ in range(2)
        )
        scales: list[Tensor | None] = [None, None]
        if fp8:
            keys, values = (x.clamp(-4, 4).mul(100).to(torch.float8_e4m3fn) for x in (keys, values))
            scales = [torch.full(shape[:3], 0.01, dtype=torch.float32, device=setup.device) for _ in range(2)]
        order = torch.randperm(total, device=setup.device).to(torch.int32)
        return cls(keys, values, list(order.view(sets, requests, blocks)), *scales)

    def steps(self, positions: int, q_len: int, policy: SplitPolicy) -> list[AttentionStep]:
        """A step for each set: every request computes its last `q_len` of `positions`."""
        requests = self.tables[0].shape[0]
        place = self.keys.device
        q_start = torch.arange(0, (requests + 1) * q_len, q_len, dtype=torch.int32, device=place)
        context = torch.full((requests,), positions, dtype=torch.int32, device=place)
        row = torch.arange(requests, dtype=torch.int32, device=place)
        work, n_work = decode_work(q_start, context, policy)
        return [AttentionStep(q_start, context, row, table, work, n_work) for table in self.tables]


def run(setup: Setup, say: Say) -> None:
    """Decodes of both kinds, one with float8 keys and values, then prefills."""
    for kind, kv_heads in KINDS:
        for requests, positions in _sizes(DECODES, setup):
            with say.case(f"decode {kind} {requests}x{positions}"):
                _decode(f"decode {kind} {requests}x{positions}", requests, positions, kv_heads, setup, say)
    if not setup.rehearse:
        for requests, positions in ((8, 4096), (64, 4096)):
            with say.case(f"decode fp8 32/8 {requests}x{positions}"):
                name = f"decode fp8 32/8 {requests}x{positions}"
                _decode(name, requests, positions, 8, setup, say, fp8=True)
    for kind, kv_heads in KINDS if setup.long else KINDS[:1]:
        for requests, positions in _sizes(PREFILLS, setup):
            with say.case(f"prefill {kind} {requests}x{positions}"):
                _prefill(f"prefill {kind} {requests}x{positions}", requests, positions, kv_heads, setup, say)


def _sizes(sizes: tuple[tuple[int, int], ...], setup: Setup) -> Iterator[tuple[int, int]]:
    if setup.rehearse:
        yield 2, 40
    else:
        yield from sizes


@dataclass(frozen=True, slots=True)
class Case:
    """Something to be timed."""

    launch: Callable[[int], object]
    sets: int
    work: float
    """Bytes, or operations, of one launch."""
    out: Tensor

    def check(self) -> None:
        """Raises `ArithmeticError` where the last launch left or wrote what is no number."""
        if not bool(self.out.isfinite().all()):
            raise ArithmeticError("its result is not finite")


def decode_case(requests: int, positions: int, kv_heads: int, setup: Setup, fp8: bool = False) -> Case:
    """Decodes of equally long requests; their work is the bytes of keys and values. Raises `MemoryError`."""
    element = 1 if fp8 else setup.dtype.itemsize
    scale_bytes = 2 * requests * positions * kv_heads * 4 if fp8 else 0
    read = 2 * requests * positions * kv_heads * HEAD_DIM * element + scale_bytes
    sets = sets_for(read, setup.rehearse)
    if (
        setup.device.type == "cuda"
        and (4 if fp8 else 1) * read * sets > torch.cuda.mem_get_info()[0] * MEMORY_SHARE
    ):
        raise MemoryError(f"{read * sets / 1e9:.0f} GB of keys and values do not fit")
    paged = Paged.make(requests, positions, kv_heads, sets, setup, fp8)
    policy = SplitPolicy.for_step(requests, kv_heads)
    steps = paged.steps(positions, 1, policy)
    workspace = DecodeWorkspace.allocate(requests, HEADS, kv_heads, HEAD_DIM, setup.device)
    q = torch.randn(requests, (HEADS + 2 * kv_heads) * HEAD_DIM, dtype=setup.dtype, device=setup.device)
    out = torch.full((requests, HEADS * HEAD_DIM), float("nan"), dtype=setup.dtype, device=setup.device)

    def attend(i: int) -> None:
        paged_decode(
            q, paged.keys, paged.values, steps[i], policy, workspace, heads=HEADS, scale=HEAD_DIM**-0.5,
            k_scale=paged.key_scales, v_scale=paged.value_scales, out=out,
        )  # fmt: skip

    return Case(attend, sets, read, out)


def prefill_case(requests: int, positions: int, kv_heads: int, setup: Setup) -> Case:
    """Prefills of equally long requests; their work is operations."""
    paged = Paged.make(requests, positions, kv_heads, 1, setup)
    step = paged.steps(positions, positions, SplitPolicy.for_step(requests, kv_heads))[0]
    tokens = requests * positions
    width = (HEADS + 2 * kv_heads) * HEAD_DIM
    qkv = torch.randn(tokens, width, dtype=setup.dtype, device=setup.device)
    out = torch.full((tokens, HEADS * HEAD_DIM), float("nan"), dtype=setup.dtype, device=setup.device)

    def attend(_: int) -> None:
        paged_prefill(qkv, paged.keys, paged.values, step, heads=HEADS, scale=HEAD_DIM**-0.5, out=out)

    return Case(attend, 1, prefill_flops(requests, positions), out)


def torch_rates(requests: int, positions: int, kv_heads: int, setup: Setup) -> dict[str, float | str]:
    """Operations a second of torch's attentions on contiguous heads; why not, where one does not run."""
    q, k, v = (
        torch.randn(requests, heads, positions, HEAD_DIM, dtype=setup.dtype, device=setup.device)
        for heads in (HEADS, kv_heads, kv_heads)
    )
    found: dict[str, float | str] = {}
    for peer, backend in PEERS:
        try:
            with sdpa_kernel([backend]):
                seconds = seconds_of(
                    lambda _: scaled_dot_product_attention(
                        q, k, v, is_causal=True, enable_gqa=kv_heads != HEADS
                    )
                )
            found[peer] = prefill_flops(requests, positions) / seconds
        except RuntimeError as error:
            found[peer] = "none"
            print(f"torch's {peer}: {error}")
    return found


def _decode(
    name: str, requests: int, positions: int, kv_heads: int, setup: Setup, say: Say, fp8: bool = False
) -> None:
    case = decode_case(requests, positions, kv_heads, setup, fp8)
    seconds = seconds_of(case.launch, case.sets)
    case.check()
    rate = case.work / seconds
    say(name, us=seconds * 1e6, gb_per_s=rate / 1e9, of_read=setup.of_read(rate))


def _prefill(name: str, requests: int, positions: int, kv_heads: int, setup: Setup, say: Say) -> None:
    case = prefill_case(requests, positions, kv_heads, setup)
    seconds = seconds_of(case.launch)
    case.check()
    rate = case.work / seconds
    beside = {
        f"{peer}_tflop_per_s": peer_rate / 1e12 if isinstance(peer_rate, float) else peer_rate
        for peer, peer_rate in torch_rates(requests, positions, kv_heads, setup).items()
    }
    say(name, us=seconds * 1e6, tflop_per_s=rate / 1e12, of_matmul=setup.of_peak(rate), **beside)


def prefill_flops(requests: int, positions: int) -> int:
    """Operations of causal attention, counted exactly: query i sees i + 1 keys, and both products take 2 a cell."""
    return requests * 4 * HEADS * HEAD_DIM * positions * (positions + 1) // 2
