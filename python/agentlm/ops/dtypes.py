"""Element types by the names that safetensors gives them."""

from collections.abc import Mapping

import torch

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Those that weights may have."""

STORED_DTYPES: Mapping[str, torch.dtype] = {**TORCH_DTYPES, "I32": torch.int32}
"""Those that parts of narrow matrices may have, too."""
