"""Conversations as token ids and loss masks, rendered once a run by the server's own renderer and kept on disk.

Refuses to know mixtures, packs and models. What is not trained on is counted by reason, never cut short in silence.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from agentlm import __version__
from agentlm._engine import ChatTemplate, Tokenizer
from agentlm.errors import AgentLMError, ChatTemplateError, ConfigError
from agentlm.model.tokenizer_conversion import ensure_tokenizer
from agentlm.tuning.config import SourceSection
from agentlm.tuning.record import Conversation, Message, read

LAYOUT = 4
"""Changes with what is kept."""
GROUP = 256
"""Conversations that are rendered between two looks at the files: what is in memory besides the tokens."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""What decides how text becomes tokens, as far as a checkpoint has them."""

NO_TRAINED = "no trained token"
TOO_LONG = "too long"
LOST_TURNS = "left out in part: turns that are too long even alone"
REFUSED = "refused by the chat template"


class RenderingError(AgentLMError):
    """Conversations cannot be turned into tokens."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Conversations as tokens. Indices count conversations, those that were split by their pieces."""

    ids: npt.NDArray[np.int32]
    """Of all conversations, one after the other."""
    mask: npt.NDArray[np.bool_]
    """Whether each token is trained."""
    offsets: npt.NDArray[np.int64]
    """`[conversations + 1]`: where each begins, and the end."""
    trained: npt.NDArray[np.int64]
    """Trained tokens of each; a first token is none, for nothing predicts it."""
    source: npt.NDArray[np.int32]
    """Index of each one's source."""
    tags: npt.NDArray[np.int32]
    """Index into `tag_sets`."""
    item: npt.NDArray[np.int64]
    """Number of each one's task and item, the same for those that tried the same; -1 where it has none."""
    reward: npt.NDArray[np.float64]
    """What each one got; not a number where that is not known."""
    tag_sets: tuple[tuple[str, ...], ...]
    conversations: tuple[int, ...]
    """For each source, how many were taken, in however many pieces."""
    left_out: tuple[Mapping[str, int], ...]
    """For each source, how many were not taken, or not as a whole, by reason."""
    examples: tuple[str, ...]
    """For each source and reason, the first one and what was wrong, in words."""

    def __len__(self) -> int:
        return len(self.trained)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each conversation."""
        return np.diff(self.offsets)

    def tokens(self, conversation: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """One conversation's ids and mask."""
        own = slice(int(self.offsets[conversation]), int(self.offsets[conversation + 1]))
        return self.ids[own], self.mask[own]

    def digest(self) -> str:
        """SHA-256 of all tokens and masks, in hexadecimal."""
        digest = hashlib.sha256()
        for array in (self.ids, self.mask, self.offsets):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def factors(self, tag_weights: Mapping[str, float]) -> npt.NDArray[np.float64]:
        """For each conversation the product of its tags' weights; a tag without one counts 1."""
        known = {tag for tags in self.tag_sets for tag in tags}
        if unknown := sorted(set(tag_weights) - known):
            raise ConfigError(
                f"`data.tag_weights` names {', '.join(map(repr, unknown))}, which no conversation has. "
                f"Tags that some have: {', '.join(sorted(known)) or 'none'}"
            )
        of_set = [float(np.prod([tag_weights.get(tag, 1.0) for tag in tags])) for tags in self.tag_sets]
        return np.asarray(of_set, dtype=np.float64)[self.tags]


def files_of(source: SourceSection) -> list[Path]:
    """The files that a source names. Raises `ConfigError` if one is not there."""
    found: list[Path] = []
    for given in (source.path,) if isinstance(source.path, str) else source.path:
        names = _expanded(given) if any(sign in given for sign in "*?[") else [given]
        missing = [name for name in names if not Path(name).is_file()]
        if missing or not names:
            raise ConfigError(f"source {source.name!r}: there is no file {missing[0] if missing else given}")
        found.extend(map(Path, names))
    return found


def _expanded(pattern: str) -> list[str]:
    path = Path(pattern)
    return sorted(map(str, Path(path.anchor).glob(str(path.relative_to(path.anchor)))))


def render(
    sources: Sequence[SourceSection],
    directory: Path,
    *,
    template: str | None,
    length: int,
    over_length: Literal["drop", "split", "refuse"],
    cache: Path,
    progress: Callable[[str, int], None] | None = None,
) -> Rendered:
    """Renders every source with a model directory's tokenizer and template, or takes what an earlier call left in `cache`.

    `progress(source, conversations)` is called now and then. Raises `ConfigError`, `RecordError`, `RenderingError`.
    """
    files = [files_of(source) for source in sources]
    kept = cache / _key(files, directory, template, length, over_length)
    if not kept.is_dir():
        renderer = _Renderer(directory, template, length, over_length)
        _keep(kept, _render_all(renderer, sources, files, progress))
    return _kept(kept)


def _render_all(
    renderer: "_Renderer",
    sources: Sequence[SourceSection],
    files: Sequence[Sequence[Path]],
    progress: Callable[[str, int], None] | None,
) -> Rendered:
    ids: list[npt.NDArray[np.int32]] = []
    mask: list[npt.NDArray[np.bool_]] = []
    source_of: list[int] = []
    tags: dict[tuple[str, ...], int] = {}
    tag_of: list[int] = []
    items: dict[tuple[str | None, str], int] = {}
    item_of: list[int] = []
    reward_of: list[float] = []
    taken: list[int] = []
    left_out: list[dict[str, int]] = []
    examples: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for index, source in enumerate(sources):
            missing: Counter[str] = Counter()
            whole = 0
            found = _pieces(pool, renderer, files[index])
            for count, (place, conversation, pieces, reason, why) in enumerate(found, 1):
                if progress is not None and count % GROUP == 0:
                    progress(source.name, count)
                if reason is not None:
                    if reason == TOO_LONG and renderer.over_length == "refuse":
                        raise RenderingError(
                            f'{place}: {why}; `data.over_length` is "refuse": drop or split such '
                            "conversations, or raise `data.length`"
                        )
                    if not missing[reason]:
                        examples.append(f"{source.name}: {place} ({conversation.id}): {why}")
                    missing[reason] += 1
                whole += bool(pieces)
                for own_ids, own_mask in pieces:
                    ids.append(own_ids)
                    mask.append(own_mask)
                    source_of.append(index)
                    tag_of.append(tags.setdefault(tuple(sorted(conversation.tags)), len(tags)))
                    tried = (conversation.task, conversation.item or "")
                    item_of.append(items.setdefault(tried, len(items)) if conversation.item else -1)
                    reward_of.append(math.nan if conversation.reward is None else conversation.reward)
            taken.append(whole)
            left_out.append(dict(missing))
    if not ids:
        raise RenderingError(
            f"no conversation is left to train on. {'; '.join(examples) or 'The files are empty.'}"
        )
    lengths = np.asarray([len(one) for one in ids], dtype=np.int64)
    return Rendered(
        ids=np.concatenate(ids),
        mask=np.concatenate(mask),
        offsets=np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(lengths))),
        trained=np.asarray([int(one[1:].sum()) for one in mask], dtype=np.int64),
        source=np.asarray(source_of, dtype=np.int32),
        tags=np.asarray(tag_of, dtype=np.int32),
        item=np.asarray(item_of, dtype=np.int64),
        reward=np.asarray(reward_of, dtype=np.float64),
        tag_sets=tuple(tags),
        conversations=tuple(taken),
        left_out=tuple(left_out),
        examples=tuple(examples),
    )


_Tokens = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]
_Pieces = tuple[list[_Tokens], str | None, str]
"""What one conversation gives to train on, and the reason why (part of) it is left out, as a kind and in words."""


def _pieces(
    pool: ThreadPoolExecutor, renderer: "_Renderer", files: Iterable[Path]
) -> Iterator[tuple[str, Conversation, list[_Tokens], str | None, str]]:
    """Each conversation with its pieces, in the files' order, a group at a time on all cores."""
    rows = ((f"{file}:{line}", conversation) for file in files for line, conversation in read(file))
    while group := list(islice(rows, GROUP)):
        for (place, conversation), pieces in zip(
            group, pool.map(renderer.pieces, [conversation for _, conversation in group]), strict=True
        ):
            yield place, conversation, *pieces


class _Renderer:
    def __init__(self, directory: Path, template: str | None, length: int, over_length: str) -> None:
        self.length = length
        self.over_length = over_length
        self.template = ChatTemplate(directory, Tokenizer(ensure_tokenizer(directory, None)), template)

    def pieces(self, conversation: Conversation) -> _Pieces:
        try:
            whole = self.tokens(conversation)
            if len(whole[0]) <= self.length:
                if not whole[1][1:].any():
                    return [], NO_TRAINED, "none of its tokens is trained"
                return [whole], None, ""
            why = f"{len(whole[0])} tokens; `data.length` and the model's positions allow {self.length}"
            if self.over_length != "split":
                return [], TOO_LONG, why
            pieces, lost = self.split(conversation)
        except ChatTemplateError as error:
            return [], REFUSED, str(error)
        if lost:
            reason = LOST_TURNS if pieces else TOO_LONG
            return pieces, reason, f"{why}; {lost} turns did not fit even alone"
        if not pieces:
            return [], NO_TRAINED, f"{why}, and none of them is trained"
        return pieces, None, ""

    def tokens(self, conversation: Conversation) -> _Tokens:
        _, ids, mask = self.template.conversation(conversation.messages_json(), conversation.tools_json())
        return np.asarray(ids, dtype=np.int32), np.asarray(mask, dtype=np.bool_)

    def split(self, conversation: Conversation) -> tuple[list[_Tokens], int]:
        """The conversation in pieces that fit, cut before a user's turn, and how many turns were too long alone.

        Each piece begins with the system message, if there is one, and each trained turn is whole and in one piece.
        """
        system, turns = _turns(conversation.messages)
        pieces: list[_Tokens] = []
        start = lost = 0
        while start < len(turns):
            best: _Tokens | None = None
            low, high = start, len(turns)
            # The most turns that fit: lengths grow with turns.
            while low < high:
                middle = (low + high + 1) // 2
                messages = (*system, *(message for turn in turns[start:middle] for message in turn))
                tried = self.tokens(replace(conversation, messages=messages))
                if len(tried[0]) <= self.length:
                    low, best = middle, tried
                else:
                    high = middle - 1
            if best is None:
                lost += 1
                start += 1
                continue
            if best[1][1:].any():
                pieces.append(best)
            start = low
        return pieces, lost


def _turns(messages: Sequence[Message]) -> tuple[tuple[Message, ...], list[list[Message]]]:
    """The system message, and turns: a user's message with all that follows it up to the next one's."""
    system = tuple(messages[:1]) if messages[0].role == "system" else ()
    turns: list[list[Message]] = []
    for message in messages[len(system) :]:
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return system, turns


def digest_of_tokenizer(directory: Path, template: str | None) -> str:
    """SHA-256 of all that decides how a model directory's conversations become tokens."""
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        file = directory / name
        if file.is_file():
            digest.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    if template is not None:
        digest.update(b"explicit\0" + hashlib.sha256(Path(template).read_bytes()).digest())
    return digest.hexdigest()


def digest_of_files(files: Sequence[Path]) -> bytes:
    """The files' SHA-256, one after the other."""
    digests = []
    for file in files:
        with file.open("rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256").digest())
    return b"".join(digests)


def _key(
    files: Sequence[Sequence[Path]], directory: Path, template: str | None, length: int, over_length: str
) -> str:
    digest = hashlib.sha256(f"{__version__} {LAYOUT} {length} {over_length} ".encode())
    digest.update(digest_of_tokenizer(directory, template).encode())
    for source in files:
        digest.update(b"source")
        digest.update(digest_of_files(source))
    return digest.hexdigest()[:32]


def _keep(kept: Path, rendered: Rendered) -> None:
    """Writes arrays beside their place and renames: they are there whole, or not at all."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{kept.name}.", dir=kept.parent))
    try:
        for name in _ARRAYS:
            np.save(made / f"{name}.npy", getattr(rendered, name))
        told = {
            name: getattr(rendered, name) for name in ("tag_sets", "conversations", "left_out", "examples")
        }
        (made / "about.json").write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
        made.chmod(0o755)
        made.rename(kept)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _kept(kept: Path) -> Rendered:
    about = json.loads((kept / "about.json").read_text(encoding="utf-8"))
    arrays = {name: np.load(kept / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    return Rendered(
        **arrays,
        tag_sets=tuple(map(tuple, about["tag_sets"])),
        conversations=tuple(about["conversations"]),
        left_out=tuple(about["left_out"]),
        examples=tuple(about["examples"]),
    )


_ARRAYS = ("ids", "mask", "offsets", "trained", "source", "tags", "item", "reward")
