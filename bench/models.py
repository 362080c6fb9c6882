"""Random models on disk, in each engine's form. Refuses to know workloads.

Runs in two interpreters: agentlm's own writes checkpoints, the peers' converts them.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.install import HOME, ROOT

MODELS = HOME / "models"


@dataclass(frozen=True, slots=True)
class Files:
    """Where one model lies in each form."""

    checkpoint: Path
    """Hugging Face's form, read by agentlm and transformers."""
    gguf: Path
    """llama.cpp's."""
    ctranslate2: Path
    """CTranslate2's."""

    @classmethod
    def of(cls, model: str, precision: str) -> "Files":
        """The places of a model, whether it is there or not."""
        name = f"{model}-{precision}"
        return cls(MODELS / name, MODELS / f"{name}.gguf", MODELS / f"{name}-ctranslate2")


def write_checkpoint(model: str, precision: str) -> Path:
    """Writes the random checkpoint unless it is there. Runs where agentlm is installed."""
    from agentlm.model.random import SHAPES, family_config, write_model

    place = Files.of(model, precision).checkpoint
    if not (place / "config.json").is_file():
        write_model(place, family_config("llama2", SHAPES[model], precision))  # type: ignore[arg-type]
    return place


def convert(python: Path, form: str, model: str, precision: str) -> Path:
    """Converts a checkpoint to "gguf" or "ctranslate2" with the peers' interpreter unless it is there."""
    files = Files.of(model, precision)
    place = files.gguf if form == "gguf" else files.ctranslate2
    if not place.exists():
        command = [str(python), "-m", "bench.models", form, model, precision]
        subprocess.run(command, cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
    return place


def write_gguf(files: Files) -> None:
    """Writes the checkpoint's tensors under llama.cpp's names, with a vocabulary of made-up pieces."""
    import gguf
    import numpy as np

    config: dict[str, Any] = json.loads((files.checkpoint / "config.json").read_text(encoding="utf-8"))
    tensors = _read_safetensors(files.checkpoint / "model.safetensors")
    partial = files.gguf.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    half = tensors["model.embed_tokens.weight"].dtype == np.float16
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)
    _add_vocabulary(writer, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in tensors.items():
        if name.endswith("q_proj.weight"):
            tensor = _interleaved(tensor, heads)
        elif name.endswith("k_proj.weight"):
            tensor = _interleaved(tensor, kv_heads)
        elif tensor.ndim == 1:
            # llama.cpp takes vectors in single precision only.
            tensor = tensor.astype(np.float32)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(files.gguf)


def _interleaved(weight: Any, heads: int) -> Any:
    """Rows in the order of llama.cpp's rotary embedding: pairs side by side instead of half a head apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _add_vocabulary(writer: Any, config: dict[str, Any]) -> None:
    """A SentencePiece vocabulary of the right size: three marks, the bytes, then made-up pieces."""
    import gguf

    size = config["vocab_size"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [
        gguf.TokenType.UNKNOWN,
        gguf.TokenType.CONTROL,
        gguf.TokenType.CONTROL,
        *[gguf.TokenType.BYTE] * 256,
    ]
    made_up = size - len(pieces)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces + [f"\u2581w{number}" for number in range(made_up)])
    writer.add_token_scores([0.0] * len(pieces) + [-float(number) for number in range(made_up)])
    writer.add_token_types([*kinds, *[gguf.TokenType.NORMAL] * made_up])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def _read_safetensors(file: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(file)


def write_ctranslate2(files: Files, precision: str) -> None:
    """Runs CTranslate2's own converter."""
    from ctranslate2.converters import TransformersConverter

    partial = files.ctranslate2.with_suffix(".partial")
    TransformersConverter(str(files.checkpoint)).convert(str(partial), quantization=precision, force=True)
    partial.rename(files.ctranslate2)


if __name__ == "__main__":
    form, model, precision = sys.argv[1:]
    if form == "gguf":
        write_gguf(Files.of(model, precision))
    else:
        write_ctranslate2(Files.of(model, precision), precision)
