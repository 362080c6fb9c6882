"""From a model's name to a directory: a local one, the bundled one, or a download. Refuses to know what the files mean."""

import errno
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agentlm.errors import (
    ConfigError,
    CorruptFileError,
    GatedModelError,
    HubError,
    HubUnreachableError,
    ModelNotFoundError,
    WeightsNotFoundError,
    shown,
)
from agentlm.model import bundled
from agentlm.model.tokenizer_conversion import no_tokenizer

ALLOWED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
"""Files of a checkpoint that agentlm reads."""
IGNORED = ("*/*", "consolidated*")
"""The same weights again: original formats in folders, and unsplit copies."""

SETTINGS = ("config.json", "generation_config.json")
"""Files of a model that say its shape and its end."""

CONVERT = (
    "Convert it with transformers: AutoModelForCausalLM.from_pretrained({given!r}, dtype='auto')"
    ".save_pretrained('converted') and AutoTokenizer.from_pretrained({given!r}).save_pretrained('converted'), then give "
    "the directory 'converted'."
)
"""The way out for weights in another format."""

_TOKEN_HINT = "Make an access token in your account's settings, then run `hf auth login` or set HF_TOKEN."


def resolve(
    model: str,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
    progress: bool = True,
    endpoint: str | None = None,
) -> Path:
    """The directory that holds the model: `model` itself if it is one, else a snapshot in the hub's cache.

    The bundled model is found by its name. A download that was interrupted is resumed. `cache_dir`, `token` and `endpoint`
    default to the hub library's own settings; `offline` uses only what is cached.
    Raises `ModelNotFoundError`, `GatedModelError`, `HubUnreachableError`, `WeightsNotFoundError`, `HubError`.
    """
    try:
        local = Path(model).expanduser()
        is_directory, is_file = local.is_dir(), local.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        # Too long, with a null in it, of a user that is not there, behind a door that is closed.
        raise ModelNotFoundError(
            f"{shown(model)} cannot be looked at ({shown(error)}). Give a checkpoint's directory, or a hub name owner/name."
        ) from error
    if is_directory:
        return local
    if is_file:
        raise ModelNotFoundError(f"{model} is a file. Give the directory that holds it and config.json.")
    if model == bundled.NAME:
        return bundled.directory()
    if local.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise ModelNotFoundError(
            f"There is no directory {model}. Give a checkpoint's directory, or a hub name owner/name."
        )
    directory = _snapshot(model, revision, token, cache_dir, offline, progress, endpoint)
    if next(directory.glob("*.safetensors"), None) is None:
        raise _no_safetensors(model, _named(model, revision))
    return directory


def is_bundled(directory: Path) -> bool:
    """Whether what `resolve` found is the bundled model, by whatever name and link; its files need not be there."""
    return directory.resolve() == (Path(bundled.__file__).parent / bundled.NAME).resolve()


def cached(
    model: str, revision: str | None = None, token: str | None = None, cache_dir: str | Path | None = None
) -> Path | None:
    """What `resolve` gives where that needs no download, else None. Raises as `resolve` does."""
    try:
        return resolve(model, revision, token, cache_dir, offline=True)
    except (HubUnreachableError, WeightsNotFoundError):
        # A snapshot without weights is what another program left that wanted only the configuration.
        return None


def describe(
    model: str,
    directory: Path,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    """Element type and shape of each tensor of a model on the hub; its `SETTINGS` are put into `directory`.

    Of the weights only the headers are fetched, and nothing is cached. Raises as `resolve` does, and `ConfigError`,
    `TokenizerError` and `CorruptFileError`.
    """
    from huggingface_hub import HfApi, errors

    name = _named(model, revision)
    api = HfApi(endpoint=endpoint, token=token)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    with _told(model, revision, offline=False), _bars(shown=False):
        info = api.model_info(model, revision=revision)
        # A commit, so that all of what follows is of one state.
        revision = info.sha or revision
        files = [file.rfilename for file in info.siblings or ()]
        weights = [
            file
            for file in files
            if file.endswith(".safetensors") and "/" not in file and not file.startswith("consolidated")
        ]
        if not weights:
            raise _no_safetensors(model, name)
        if "config.json" not in files:
            raise ConfigError(f"{name} holds no config.json. Choose a repository that does.")
        if not {"tokenizer.json", "tokenizer.model"} & set(files):
            raise no_tokenizer(name)
        for file in SETTINGS:
            if file in files:
                api.hf_hub_download(model, file, revision=revision, local_dir=directory)
        for file in weights:
            try:
                header = api.parse_safetensors_file_metadata(model, file, revision=revision)
            except (errors.SafetensorsParsingError, struct.error) as error:
                # Older hub libraries unpack a length that a file of a few bytes has not.
                raise CorruptFileError(f"{name}: {file} is not a safetensors file ({error})") from error
            for key, tensor in header.tensors.items():
                tensors[key] = (str(tensor.dtype), tuple(tensor.shape))
    return tensors


def _no_safetensors(model: str, name: str) -> WeightsNotFoundError:
    return WeightsNotFoundError(
        f"{name} holds no safetensors weights. Choose a repository that does. {CONVERT.format(given=model)} "
        "(GGUF files are not read.)"
    )


def _snapshot(
    model: str,
    revision: str | None,
    token: str | None,
    cache_dir: str | Path | None,
    offline: bool,
    progress: bool,
    endpoint: str | None,
) -> Path:
    """The hub library's snapshot, its errors told as ours."""
    # Imported here: a local directory needs no hub library, and importing it takes longer than starting.
    from huggingface_hub import snapshot_download

    with _told(model, revision, offline), _bars(progress):
        found = snapshot_download(
            model,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=offline,
            allow_patterns=list(ALLOWED),
            ignore_patterns=list(IGNORED),
            endpoint=endpoint,
        )
    return Path(found)


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Hides the hub library's progress bars meanwhile, unless they are to be shown."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    quiet = not shown and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            enable_progress_bars()


@contextmanager
def _told(model: str, revision: str | None, offline: bool) -> Iterator[None]:
    """Tells the hub library's errors as ours."""
    from huggingface_hub import errors

    # The transport's own base class differs between versions of the library: requests, httpx.
    transport_errors: tuple[type[BaseException], ...] = (OSError, *errors.HfHubHTTPError.__bases__)
    name = _named(model, revision)
    try:
        yield
    except errors.HFValidationError as error:
        raise ModelNotFoundError(
            f"{model!r} is neither a directory here nor a hub name of the form owner/name."
        ) from error
    except errors.GatedRepoError as error:
        raise GatedModelError(
            f"{name} is gated: its owner gives access to accounts. Accept the conditions on the model's page. {_TOKEN_HINT}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"There is no directory {model!r} here and no such model on the hub that this account may see. "
            f"Check the spelling; if the model is private: {_TOKEN_HINT}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFoundError(
            f"The model {model} has no revision {revision!r}. Give a branch, a tag or a full commit hash, or leave it out."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if offline or isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            raise HubUnreachableError(
                f"{name} is not, or not completely, in the local cache, and downloads are off. Run once without "
                "--offline and HF_HUB_OFFLINE, or give a local directory."
            ) from error
        # What the hub answered, if it did, is the cause.
        raise _failed(name, error.__cause__ or error) from error
    except transport_errors as error:
        raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> HubError:
    """The error for a failure that the hub library does not name: refused, not written, or not answered."""
    reason = str(error).partition("\n")[0]
    response = getattr(error, "response", None)
    if response is not None and response.status_code in (401, 403):
        return GatedModelError(f"{name} is refused to this account ({reason}). {_TOKEN_HINT}")
    if isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EACCES,
        errno.EROFS,
        errno.EPERM,
    ):
        return HubError(
            f"{name} could not be written to the cache ({reason}). Free some space there, or give another cache "
            "directory; the download is resumed."
        )
    return HubUnreachableError(
        f"{name} could not be fetched: the hub did not answer ({reason}). Check the network and run again, the download "
        "is resumed. Without a network: give a local directory, or set HF_HUB_OFFLINE=1 to use the local cache only."
    )


def _named(model: str, revision: str | None) -> str:
    return f"The model {model}" + (f" at revision {revision}" if revision else "")
