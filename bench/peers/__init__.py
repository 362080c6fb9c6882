"""The engines that are compared: which there are, and what each can be asked. Refuses to know how they are driven."""

from dataclasses import dataclass

from bench.cells import Cell


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """What the table needs to know of an engine before it is started."""

    name: str
    module: str
    """The file under `bench.peers` that drives it, with a class `Engine`."""
    form: str
    """Which form of the model it reads: "checkpoint", "gguf" or "ctranslate2"."""
    kinds: tuple[str, ...]
    precisions: tuple[str, ...]
    prefix_cache: bool = False
    """Whether an agent's earlier turns need not be computed again."""
    ours: bool = False
    batches: tuple[int, ...] | None = None
    """Which batch sizes it is asked for in decode, None for all."""
    long_batches: tuple[int, ...] | None = None
    """The same after long prompts."""

    def takes(self, cell: Cell) -> bool:
        """Whether this engine is measured in that cell."""
        fits = cell.kind in self.kinds and cell.precision in self.precisions
        batches = self.batches if cell.context == "short" else self.long_batches
        return fits and (cell.kind != "decode" or batches is None or cell.batch in batches)


BOTH = ("float32", "float16")
PEERS = (
    PeerInfo(
        "agentlm", "ours", "checkpoint", ("prefill", "decode", "agents"), BOTH, prefix_cache=True, ours=True
    ),
    PeerInfo("llama.cpp", "llama_bench", "gguf", ("prefill", "decode"), BOTH),
    PeerInfo("llama.cpp server", "llama_server", "gguf", ("agents",), BOTH, prefix_cache=True),
    PeerInfo("llama.cpp server, no prefix cache", "llama_server", "gguf", ("agents",), BOTH),
    PeerInfo("CTranslate2", "ctranslate", "ctranslate2", ("prefill", "decode", "agents"), ("float32",)),
    PeerInfo(
        "transformers", "transformers_generate", "checkpoint", ("prefill", "decode", "agents"), ("float32",)
    ),
    PeerInfo(
        "transformers, continuous batching",
        "transformers_continuous",
        "checkpoint",
        ("decode", "agents"),
        ("float32",),
        prefix_cache=True,
        batches=(1, 16),
        # Its requests begin to decode while others are still prefilled, and long ones are never all at it.
        long_batches=(1,),
    ),
)
"""Half precision has one peer: the others compute it on a CPU many times slower than single precision, or not at all."""
