"""A tokenizer.json for every checkpoint: its own, or one converted from SentencePiece's tokenizer.model and cached.

Refuses to know how text is encoded later. Only BPE models with byte fallback are converted (Llama-2, Mistral), and a
conversion is kept only if it encodes `SAMPLES` as SentencePiece does.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentlm.errors import TokenizerError

SAMPLES = (
    "Hello world",
    " leading and  double   spaces " + " " * 37 + "end",
    "line\nbreaks\n\n\tand tabs",
    "Äußerst naïve façade: 東京 🙂 \u200d",
    "def f(x): return x**2 # 3.14159",
    "▁",
)
"""Texts on which a conversion must agree with SentencePiece."""

_VERSION = 2
"""Part of the cache key; changes with what `ensure_tokenizer` writes."""


COMPANIONS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files that belong to a tokenizer and are copied beside a converted one."""


def ensure_tokenizer(directory: str | Path, cache_dir: str | Path | None) -> Path:
    """A directory with the checkpoint's tokenizer.json and its settings: its own, or one in `cache_dir` if converted.

    Without `cache_dir`, `~/.cache/agentlm`. Beside a converted one, tokenizer_config.json names the first and the last
    token of a sequence also where the checkpoint left that to tokenizer.model. Raises `TokenizerError` if there is neither
    tokenizer.json nor tokenizer.model, if the latter cannot be converted, or if the cache cannot be written.
    """
    directory = Path(directory)
    if (directory / "tokenizer.json").is_file():
        return directory
    source = directory / "tokenizer.model"
    if not source.is_file():
        raise no_tokenizer(directory)
    companions = {
        name: (directory / name).read_bytes() for name in COMPANIONS if (directory / name).is_file()
    }
    digest = hashlib.sha256(b"%d" % _VERSION)
    for name, content in (("tokenizer.model", source.read_bytes()), *companions.items()):
        digest.update(b"%s %d " % (name.encode(), len(content)))
        digest.update(content)
    cache = Path(cache_dir) if cache_dir is not None else Path.home() / ".cache" / "agentlm"
    target = cache / "tokenizers" / digest.hexdigest()[:32]
    with _in_cache(target):
        is_complete = (target / "tokenizer.json").is_file()
    if is_complete:
        return target
    settings, special = (
        _object(directory / name, companions.get(name, b"{}"))
        for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    converted, names = _convert(source, settings)
    if unnamed := {key: text for key, text in names.items() if key not in settings and key not in special}:
        companions["tokenizer_config.json"] = _bytes(settings | unnamed)
    with _in_cache(target):
        target.mkdir(parents=True, exist_ok=True)
        # tokenizer.json comes last: its presence says that the directory is complete.
        for name, content in (*companions.items(), ("tokenizer.json", _bytes(converted))):
            with tempfile.NamedTemporaryFile(dir=target, delete=False) as beside:
                beside.write(content)
            Path(beside.name).chmod(0o644)
            Path(beside.name).rename(target / name)
    return target


def no_tokenizer(place: str | Path) -> TokenizerError:
    """The error for a directory or a model that has none."""
    return TokenizerError(
        f"{place} holds neither tokenizer.json nor tokenizer.model. Fetch one of them from the model's "
        "repository, or save it there with transformers' AutoTokenizer.save_pretrained."
    )


@contextmanager
def _in_cache(target: Path) -> Iterator[None]:
    """Tells what the system refuses there."""
    try:
        yield
    except OSError as error:
        raise TokenizerError(
            f"A converted tokenizer cannot be kept in {target}: {error}. Make the directory writable, or give another "
            "`cache_dir`."
        ) from error


def _object(file: Path, content: bytes) -> dict[str, Any]:
    """The JSON object in a file's content."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{file} is not valid JSON ({error}). Fetch it again.") from error
    if not isinstance(value, dict):
        raise TokenizerError(
            f"{file} holds a {type(value).__name__}; a JSON object is needed. Fetch it again."
        )
    return value


def _bytes(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _convert(source: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The tokenizer.json of a tokenizer.model, as a JSON object, and the texts of bos_token and eos_token."""
    # Imported here: transformers, and torch with it, take seconds and are needed only for a conversion.
    import sentencepiece
    import tokenizers
    import transformers

    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(source))
        tokenizer = transformers.LlamaTokenizerFast.from_pretrained(str(source.parent))
        converted: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise _refusal(source, f"it cannot be read: {error}") from error
    model = converted["model"]
    if model["type"] != "BPE" or not model.get("byte_fallback"):
        raise _refusal(source, f"it is a {model['type']} model")
    # SentencePiece merges by score, equal scores from the left. transformers 5 writes the merges in the order of the
    # ids, which differs where scores do not fall with the ids: Llama-2's runs of spaces.
    scores = {pieces.id_to_piece(i): pieces.get_score(i) for i in range(pieces.get_piece_size())}
    model["merges"] = sorted(
        map(_pair, model["merges"]),
        key=lambda pair: (scores.get("".join(pair), -math.inf), len(pair[0]), len(pair[1])),
        reverse=True,
    )
    # Versions of transformers disagree on what follows too, so it is said here, as Llama-2's own tokenizer.json has it:
    # a space before every stretch of text between special tokens.
    converted["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    converted["pre_tokenizer"] = None
    converted["post_processor"] = _post_processor(pieces, settings)
    exact = tokenizers.Tokenizer.from_str(json.dumps(converted))
    for sample in SAMPLES:
        ours = exact.encode(sample, add_special_tokens=False).ids
        theirs = pieces.encode(sample)
        if ours != theirs:
            raise _refusal(source, f"the conversion encodes {sample!r} as {ours}, SentencePiece as {theirs}")
    ends = {"bos_token": pieces.bos_id(), "eos_token": pieces.eos_id()}
    return converted, {key: pieces.id_to_piece(token) for key, token in ends.items() if token >= 0}


def _pair(merge: Any) -> tuple[str, str]:
    """A merge rule in either spelling: `"a b"` or `["a", "b"]`."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _post_processor(pieces: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Adds the beginning-of-sequence token (unless the settings say no) and the end's (if they say so)."""
    before: list[dict[str, Any]] = []
    after: list[dict[str, Any]] = []
    used: dict[str, Any] = {}
    for wanted, token, place in (
        (settings.get("add_bos_token", True), pieces.bos_id(), before),
        (settings.get("add_eos_token", False), pieces.eos_id(), after),
    ):
        if wanted and token >= 0:
            name = pieces.id_to_piece(token)
            used[name] = {"id": name, "ids": [token], "tokens": [name]}
            place.append({"SpecialToken": {"id": name, "type_id": 0}})
    single = [*before, {"Sequence": {"id": "A", "type_id": 0}}, *after]
    pair = [*single, *before, {"Sequence": {"id": "B", "type_id": 0}}, *after]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": used}


def _refusal(source: Path, reason: str) -> TokenizerError:
    return TokenizerError(
        f"{source} cannot be converted to tokenizer.json: {reason}. Put the model's own tokenizer.json beside it; "
        "agentlm converts BPE models with byte fallback only."
    )
