"""What agentlm-nano is before training: its shape and its vocabulary, learnt from the corpus. Refuses to know weights.

    python recipes/nano/base.py CORPUS_DIRECTORY BASE_DIRECTORY

Writes config.json, generation_config.json, tokenizer.json and tokenizer_config.json, from which `agentlm tune` draws
random weights. The vocabulary is byte-level BPE with Llama-2's special tokens and chat form; the same corpus gives the
same bytes.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm

SPECIALS = ("<unk>", "<s>", "</s>")
"""Llama-2's, with its ids 0, 1 and 2."""
VOCAB = 1_776
LAYERS, HIDDEN, INTER, HEADS, KV_HEADS = 5, 256, 640, 4, 2
POSITIONS = 4_096
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
    """Every turn of the corpus as it stands in the chat form."""
    for file in sorted(corpus.glob("*.jsonl")):
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
        "head_dim": HIDDEN // HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }


def parameters() -> int:
    """Weights of the model, the embedding table once."""
    head = HIDDEN // HEADS
    attention = 2 * HIDDEN * HEADS * head + 2 * HIDDEN * KV_HEADS * head
    return VOCAB * HIDDEN + LAYERS * (attention + 3 * HIDDEN * INTER + 2 * HIDDEN) + HIDDEN


def write_base(corpus: Path, directory: Path) -> None:
    """Writes the four files."""
    assert parameters() <= MOST_PARAMETERS
    directory.mkdir(parents=True, exist_ok=True)
    train_tokenizer(corpus).save(str(directory / "tokenizer.json"))
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
