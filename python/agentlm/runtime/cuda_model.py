"""A checkpoint on a CUDA device: its weights, and the memory of their keys and values.

Refuses to know plans, requests and graphs.
"""

import math

import torch
from torch import Tensor

from agentlm.config import EngineConfig
from agentlm.errors import ConfigError
from agentlm.model import rope
from agentlm.model.config import ModelConfig
from agentlm.model.decoder import Decoder, checked
from agentlm.model.layout import EMBEDDING, HEAD, tensor_shapes
from agentlm.model.weights import WEIGHT_DTYPES, Checkpoint, Progress
from agentlm.ops.triton import LayerCache, StepShape, TritonOps, Value
from agentlm.ops.upload import Upload
from agentlm.runtime import memory
from agentlm.runtime.device import Device
from agentlm_kernels.arena import Expansion, Rows
from agentlm_kernels.attention import DecodeWorkspace

TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class CudaModel:
    """A checkpoint on the device, before the engine's sizes are known."""

    def __init__(
        self,
        model: ModelConfig,
        checkpoint: Checkpoint,
        config: EngineConfig,
        device: Device,
        progress: Progress | None,
    ) -> None:
        model = checked(model, checkpoint)
        narrow = model.quantization
        if narrow is not None and config.quantize is not None:
            raise ConfigError(
                f"`quantize` narrows float weights; {checkpoint.directory} is {narrow.method}'s already. Given: "
                f"{config.quantize!r}. Leave it out"
            )
        self.config = model
        self.device = device
        self.dtype = _dtype(checkpoint, config.dtype)
        self.kv_dtype = self.dtype if config.kv_cache_dtype == "auto" else config.kv_cache_dtype
        self.storage = config.quantize or (f"int4 ({narrow.method})" if narrow is not None else self.dtype)
        needed = weights_bytes(model, self.dtype, config.quantize)
        if narrow is not None:
            needed = sum(checkpoint.nbytes_of(name) for name in tensor_shapes(model))
        memory.check_weights(needed, device.free_bytes(), self.storage)
        upload = Upload(device.place)
        self.ops = TritonOps(
            model.attention, upload, TORCH_DTYPES[self.dtype], config.quantize, config.batch_invariant
        )
        self.decoder: Decoder = Decoder.bind(model, checkpoint, self.ops, progress)
        upload.finish()

    @property
    def bytes_per_block(self) -> int:
        """Bytes of keys and values of one block, all layers together."""
        cells = sum(2 * a.kv_heads * memory.BLOCK_SIZE * a.head_dim for a in self.config.attention)
        if self.kv_dtype == "fp8":
            scales = sum(2 * a.kv_heads * memory.BLOCK_SIZE for a in self.config.attention)
            return cells + 4 * scales
        return cells * TORCH_DTYPES[self.kv_dtype].itemsize

    def refill(self, checkpoint: Checkpoint) -> None:
        """Copies another checkpoint's weights, of the same shapes, over these."""
        upload = Upload(self.device.place)
        with self.ops.refilled_by(upload):
            Decoder.bind(self.config, checkpoint, self.ops)
        upload.finish()

    def forward(self, shape: StepShape, logits: Tensor) -> None:
        """Computes a step that lies in the attached memory into `logits`, float32 `[rows, vocab]`."""
        self.ops.begin(shape)
        head: Value = self.decoder.forward(self.ops)
        self.ops.logits(head, logits)


def weights_bytes(model: ModelConfig, dtype: str, quantize: str | None) -> int:
    """Bytes of the weights on the device, a tied table once."""
    element = float(TORCH_DTYPES[dtype].itemsize)
    narrow = {None: element, "int8": 1.0, "fp8": 1.0, "int4": 0.53}[quantize]
    return int(
        sum(
            math.prod(shape) * (narrow if len(shape) == 2 and name not in (EMBEDDING, HEAD) else element)
            for name, shape in tensor_shapes(model).items()
        )
    )


def _dtype(checkpoint: Checkpoint, asked: str) -> str:
    """How weights are stored and multiplied: 16-bit checkpoints as they are, 32-bit ones in bfloat16."""
    if asked != "auto":
        return asked
    matrices = (tensor for tensor in checkpoint.tensors() if len(tensor.shape) == 2)
    kinds = {tensor.dtype for tensor in matrices if tensor.dtype in WEIGHT_DTYPES}
    return "float16" if kinds == {"F16"} else "bfloat16"


def attach(model: CudaModel, expansion: Expansion, rows: Rows, num_blocks: int, positions: int) -> None:
    """Allocates the key-value cache and what else the model's kernels need, and hands it to them."""
    config, place = model.config, model.device.place
    cos, sin = (torch.from_numpy(t).to(place) for t in rope.tables(config.rope, config.head_dim, positions))
    fp8 = model.kv_dtype == "fp8"
    dtype = torch.float8_e4m3fn if fp8 else TORCH_DTYPES[model.kv_dtype]
    cache = []
    for spec in config.attention:
        shape = (num_blocks, spec.kv_heads, memory.BLOCK_SIZE, spec.head_dim)
        scales: list[Tensor | None] = [None, None]
        if fp8:
            scales = [torch.zeros(shape[:3], dtype=torch.float32, device=place) for _ in range(2)]
        # Zeros: what a tile reads past the last key is multiplied by a weight of zero, and must be finite.
        keys, values = (torch.zeros(shape, dtype=dtype, device=place) for _ in range(2))
        cache.append(LayerCache(keys, values, *scales))
    workspace = DecodeWorkspace.allocate(
        rows.tokens.shape[0] - 1, config.heads, config.kv_heads, config.head_dim, place
    )
    model.ops.attach(expansion, rows.block_tables, cache, cos, sin, workspace)
