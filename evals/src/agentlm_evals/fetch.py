"""Brings official items and protocols to a data directory, from their addresses or a mirror. Refuses to know commands.

A file is there whole or not at all, and only if its SHA-256 is the pinned one; where none is pinned, the first fetch
records it and every later one is held to that.
"""

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath

import httpx
from tqdm import tqdm

from agentlm_evals.errors import DataError
from agentlm_evals.harness.journal import write_whole
from agentlm_evals.sources import DATA_SETS, File, protocol_files

RECORDED = "checksums.json"
_CHUNK = 1 << 20
Chunks = Callable[[File], Iterator[bytes]]


def files_of(name: str) -> Sequence[File]:
    """The files of a data set.

    Raises:
        DataError: There is none of this name.
    """
    data_set = DATA_SETS.get(name)
    if data_set is None:
        raise DataError(f"there is nothing to fetch for {name!r}; there is for {', '.join(DATA_SETS)}")
    return protocol_files() if name == "agenttuning" else data_set.files


def from_mirror(*mirrors: Path) -> Chunks:
    """Reads files from folders: at their place in the data directory, in a checkout's place, or by their name alone."""

    def read(file: File) -> Iterator[bytes]:
        inner, url = PurePosixPath(file.path), PurePosixPath(file.url)
        # An address at GitHub is https://HOST/OWNER/NAME/COMMIT/PLACE; a checkout has the place.
        checkout = PurePosixPath(*url.parts[5:]) if "githubusercontent" in file.url else inner
        for mirror in mirrors:
            for place in (inner, checkout, PurePosixPath(*inner.parts[1:]), PurePosixPath(url.name)):
                if (path := mirror / place).is_file():
                    with path.open("rb") as handle:
                        while chunk := handle.read(_CHUNK):
                            yield chunk
                    return
        named = ", ".join(map(str, mirrors))
        raise DataError(f"the mirror {named} holds neither {file.path} nor {checkout} nor {url.name}")

    return read


def from_network(file: File) -> Iterator[bytes]:
    """Downloads a file."""
    try:
        with httpx.stream("GET", file.url, follow_redirects=True, timeout=60.0) as response:
            if response.status_code != 200:
                raise DataError(
                    f"{file.url} answered HTTP {response.status_code}; --mirror DIR takes a copy that you have"
                )
            length = response.headers.get("content-length", "")
            total = int(length) if length.isdigit() else None
            # The bar is shown on a terminal only.
            with tqdm(
                total=total, unit="B", unit_scale=True, disable=None, desc=file.path, leave=False
            ) as bar:
                for chunk in response.iter_bytes(_CHUNK):
                    bar.update(len(chunk))
                    yield chunk
    except httpx.HTTPError as error:
        raise DataError(
            f"{file.url} cannot be fetched ({error}); --mirror DIR takes a copy that you have"
        ) from error


def fetch(name: str, directory: Path, chunks: Chunks, say: Callable[[str], None]) -> None:
    """Brings a data set's files.

    Args:
        name: Of the data set.
        directory: The data directory.
        chunks: Where the bytes come from.
        say: Is told each file and how its checksum was judged.

    Raises:
        DataError: A file cannot be had, or is not the one that its checksum promises.
    """
    record = directory / RECORDED
    recorded: dict[str, str] = json.loads(record.read_text()) if record.is_file() else {}
    for file in files_of(name):
        path = directory / file.path
        expected = file.sha256 or recorded.get(file.path)
        if path.is_file() and expected and _digest(path) == expected:
            say(f"{file.path}: there already")
            continue
        found = _bring(path, chunks(file), expected, file)
        if expected is None:
            recorded[file.path] = found
            write_whole(record, json.dumps(recorded, indent=1, sort_keys=True) + "\n")
            say(f"{file.path}: recorded SHA-256 {found}")
        else:
            say(f"{file.path}: SHA-256 as {'pinned' if file.sha256 else 'recorded'}")
        if path.suffix == ".tar":
            _unpack(path)
    if (make := DATA_SETS[name].make) is not None:
        say(make(directory))


def _bring(path: Path, chunks: Iterator[bytes], expected: str | None, file: File) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    digest = sha256()
    try:
        with temporary.open("wb") as handle:
            for chunk in chunks:
                digest.update(chunk)
                handle.write(chunk)
        if expected is not None and digest.hexdigest() != expected:
            raise DataError(
                f"{file.url} has the SHA-256 {digest.hexdigest()}, not {expected}: it was changed, or is no whole copy"
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return digest.hexdigest()


def _digest(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _unpack(path: Path) -> None:
    """Takes the CSV files out of an archive, into its folder; nothing else, and nothing outside it."""
    temporary = path.parent / f".unpack.{os.getpid()}"
    try:
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isfile() and member.name.endswith(".csv")]
            archive.extractall(temporary, members=members, filter="data")
        for folder in temporary.iterdir():
            target = path.parent / folder.name
            if target.exists():
                shutil.rmtree(target)
            folder.replace(target)
    except tarfile.TarError as error:
        raise DataError(f"{path} is no whole archive: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
