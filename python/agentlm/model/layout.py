"""Names and shapes of a checkpoint's tensors, as transformers writes them. Refuses to know files and values."""

import math

from agentlm.model.config import ModelConfig

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "model.norm.weight"


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that the decoder reads, in the order of its layers."""
    hidden, inter = config.hidden, config.inter
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab, hidden)}
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        shapes[f"{prefix}input_layernorm.weight"] = (hidden,)
        for name, out, into, biased in (
            ("self_attn.q_proj", q, hidden, config.qkv_bias),
            ("self_attn.k_proj", kv, hidden, config.qkv_bias),
            ("self_attn.v_proj", kv, hidden, config.qkv_bias),
            ("self_attn.o_proj", hidden, q, config.out_bias),
            ("mlp.gate_proj", inter, hidden, config.mlp_bias),
            ("mlp.up_proj", inter, hidden, config.mlp_bias),
            ("mlp.down_proj", hidden, inter, config.mlp_bias),
        ):
            shapes[f"{prefix}{name}.weight"] = (out, into)
            if biased:
                shapes[f"{prefix}{name}.bias"] = (out,)
        if config.qk_norm:
            shapes[f"{prefix}self_attn.q_norm.weight"] = (config.head_dim,)
            shapes[f"{prefix}self_attn.k_norm.weight"] = (config.head_dim,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
    shapes[FINAL_NORM] = (hidden,)
    if not config.tied:
        shapes[HEAD] = (config.vocab, hidden)
    return shapes


def held_bytes(config: ModelConfig, matrix_element: int, table_element: int) -> int:
    """Bytes of memory that the bound weights take.

    Matrices have elements of `matrix_element` bytes, vectors float32. The embedding table stays as the checkpoint has it,
    in elements of `table_element` bytes; where it is the head too, it is held a second time, as a matrix.
    """
    total = 0
    for name, shape in tensor_shapes(config).items():
        if name == EMBEDDING:
            element = table_element + (matrix_element if config.tied else 0)
        else:
            element = matrix_element if len(shape) == 2 else 4
        total += math.prod(shape) * element
    return total


def is_redundant(name: str, config: ModelConfig) -> bool:
    """Whether a tensor that the decoder does not read may be there: it repeats what is computed from config.json."""
    return name.endswith("rotary_emb.inv_freq") or (config.tied and name == HEAD)
