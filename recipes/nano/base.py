"""What agentlm-nano is before training: its shape, its vocabulary learnt from the corpus, and its first weights.

    python recipes/nano/base.py CORPUS_DIRECTORY BASE_DIRECTORY

Writes a checkpoint that `agentlm tune` takes. The vocabulary is byte-level BPE with Llama-2's special tokens and chat form;
the same corpus gives the same bytes. The weights are random but for two heads, see `look_back`.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm

from agentlm.model.config import ModelConfig
from agentlm.model.layout import tensor_shapes

SPECIALS = ("<unk>", "<s>", "</s>")
"""Llama-2's, with its ids 0, 1 and 2."""
VOCAB = 1_776
WORDED = ("agent", "general", "practice")
"""The files that the vocabulary is learnt from: arithmetic is digits, which stand alone, and words that these have."""
SEED = 1
LAYERS, HIDDEN, INTER, HEADS, KV_HEADS = 5, 256, 640, 4, 2
POSITIONS = 4_096
THETA = 10_000.0
HEAD = HIDDEN // HEADS
MOST_PARAMETERS = 3_900_000

WORDS = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\n+|\s+"
"""Digits stand alone, so that sums are learnt digit by digit; a word or digit takes the space before it along."""

CHAT_TEMPLATE = (
    "{%- if messages[0].role == 'system' -%}"
    "{%- set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' -%}{%- set turns = messages[1:] -%}"
    "{%- else -%}{%- set system = '' -%}{%- set turns = messages -%}{%- endif -%}"
    "{%- for message in turns -%}"
    "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('After an optional system message, user and assistant must take turns, the user first.') -}}"
    "{%- endif -%}"
    "{%- set content = (system if loop.first else '') + message.content -%}"
    "{%- if message.role == 'user' -%}{{- bos_token + '[INST] ' + content | trim + ' [/INST]' -}}"
    "{%- else -%}{{- ' ' + message.content | trim + ' ' + eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
)
"""Llama-2-chat's form; the system prompt stands in the first user turn."""


def texts(corpus: Path) -> Iterator[str]:
    """Every turn of the corpus' words as it stands in the chat form.

    Raises:
        SystemExit: A file of the corpus is missing.
    """
    for file in (corpus / f"{name}.jsonl" for name in WORDED):
        if not file.exists():
            raise SystemExit(f"{file} is missing: python -m agentlm_evals.nano.corpus {corpus}")
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                for message in json.loads(line)["messages"]:
                    content = message["content"]
                    yield f" {content} " if message["role"] == "assistant" else f"[INST] {content} [/INST]"


def train_tokenizer(corpus: Path) -> Tokenizer:
    """Byte-level BPE over the corpus.

    Raises:
        SystemExit: The corpus has too few different words for the vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tqdm(texts(corpus), desc="vocabulary", disable=None), trainer)
    if tokenizer.get_vocab_size() != VOCAB:
        raise SystemExit(
            f"{corpus} gives {tokenizer.get_vocab_size()} pieces, and {VOCAB} are needed: take more text"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", SPECIALS.index("<s>"))]
    )
    return tokenizer


def model_config() -> dict[str, Any]:
    """config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INTER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "hidden_act": "silu",
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": THETA,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }


def parameters() -> int:
    """Weights of the model, the embedding table once."""
    return sum(math.prod(shape) for shape in shapes().values())


def shapes() -> dict[str, tuple[int, ...]]:
    """Each tensor of the checkpoint; the embedding table serves as the head too."""
    return tensor_shapes(ModelConfig.from_json(model_config()))


def first_weights(seed: int) -> dict[str, NDArray[np.float32]]:
    """Normal matrices that keep a vector's length, those that write to the residual stream narrower; norms are 1.

    A model this narrow learns to attend sooner from this spread (1/16) than from the usual 0.02.
    """
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in shapes().items():
        if len(shape) == 1:
            tensors[name] = np.ones(shape, np.float32)
            continue
        writes = name.endswith(("o_proj.weight", "down_proj.weight"))
        spread = 1 / math.sqrt(HIDDEN * (2 * LAYERS if writes else 1))
        tensors[name] = rng.normal(0.0, spread, shape).astype(np.float32)
    look_back(tensors, rng)
    return tensors


def look_back(tensors: dict[str, NDArray[np.float32]], rng: np.random.Generator) -> None:
    """Sets two heads of the first layer to look one and two tokens back, and gives all tokens a part in common for that.

    Copying needs a head that knows what came before a token. Models find it by themselves, but one of this size would
    spend most of its hour on the search: Llama's attention has no biases, so that without a common part nothing in a key
    depends on the position alone. All of it is free to change in training.
    """
    frequencies, sharpness = (
        8,
        4.0,
    )  # The fastest turning pairs tell neighbours apart; nats that each adds at most.
    common = rng.normal(0.0, 1.0, HIDDEN)
    tensors["model.embed_tokens.weight"] += (common / math.sqrt(HIDDEN)).astype(np.float32)
    # Half of a normalised embedding's length of sqrt(HIDDEN) is, in squares, the common part.
    length = math.sqrt(HIDDEN / 2)
    row = common / np.linalg.norm(common) * math.sqrt(sharpness * math.sqrt(HEAD)) / length
    query = tensors["model.layers.0.self_attn.q_proj.weight"]
    key = tensors["model.layers.0.self_attn.k_proj.weight"]
    half = HEAD // 2
    for pair in range(frequencies):
        key[pair], key[pair + half] = row, 0.0
        for head, back in enumerate((1, 2)):
            angle = -back * THETA ** (-pair / half)
            query[head * HEAD + pair] = math.cos(angle) * row
            query[head * HEAD + pair + half] = math.sin(angle) * row


def write_base(corpus: Path, directory: Path) -> None:
    """Writes the five files."""
    assert parameters() <= MOST_PARAMETERS
    directory.mkdir(parents=True, exist_ok=True)
    train_tokenizer(corpus).save(str(directory / "tokenizer.json"))
    save_file(first_weights(SEED), directory / "model.safetensors", {"format": "pt"})
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": POSITIONS,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    generation = {"bos_token_id": 1, "eos_token_id": 2}
    for name, body in (
        ("tokenizer_config.json", settings),
        ("generation_config.json", generation),
        ("config.json", model_config()),
    ):
        (directory / name).write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python recipes/nano/base.py", description=main.__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("base", type=Path)
    given = parser.parse_args()
    write_base(given.corpus, given.base)
    print(f"{given.base}: {parameters():,} parameters, {VOCAB:,} pieces")


if __name__ == "__main__":
    main()
