"""From a model's name to a folder on disk: the bundled model, a local folder, or the Hugging Face Hub and its cache.

The Hub's own client does the downloads, so HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE work as everywhere.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TypeAlias, TypeVar

from genlm.errors import GenlmError, HubUnreachable, ModelError, first_line
from genlm.model.files import INDEX, PICKLED, PICKLED_INDEX, SINGLE, pickled_weights, shard_names, weight_files
from genlm.model.info import ModelSource
from genlm.model.tokenizer import names_hold_tokenizer

Notify: TypeAlias = Callable[[str], None]
T = TypeVar("T")

BUNDLED = "fable"
BUNDLED_FOLDER = Path(__file__).parent / "bundled"
# The model that runs if none is named and this one is available.
PREFERRED = "gpt2"
# How long the Hub may take to answer the first request before it counts as unreachable, in seconds.
FIRST_ANSWER_S = 6.0
CONFIG = "config.json"
# Files at the top of a repository to download besides the config and the weights.
SMALL_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
)


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder and where it came from.

    `revision` is the commit of a Hub model. `fingerprint` identifies the contents, if genlm.model.fingerprint computed
    it.
    """

    name: str
    source: ModelSource
    path: Path
    revision: str | None = None
    fingerprint: str | None = None


def find_model(
    name: str | None, *, revision: str | None = None, allow_pickle: bool = False, notify: Notify = lambda _: None
) -> ModelFolder:
    """Return the folder of the model called `name`, downloading it if necessary.

    Without a name that is gpt2, or the bundled model if gpt2 is not available. A given name is never replaced.

    Raises:
        ModelError: there is no such model, or it is not available.
    """
    if name is None:
        return _find_default(revision, allow_pickle, notify)
    if name == BUNDLED:
        return _bundled(revision)
    if not name.strip():
        raise ModelError("the model's name is empty", hint=f"the default is {PREFERRED}, or the bundled {BUNDLED}")
    if _is_folder(name):
        return _local(name, revision)
    return fetch_from_hub(name, revision, allow_pickle, notify)


def locate_model(name: str | None, revision: str | None) -> tuple[str, str | None]:
    """Return the folder or Hub id to give transformers for a model, and the revision. Nothing is downloaded.

    Raises:
        ModelError: the folder does not exist.
    """
    if name is None:
        return PREFERRED, revision
    if name == BUNDLED:
        return str(_bundled(revision).path), None
    return (str(_local(name, revision).path), None) if _is_folder(name) else (name, revision)


def _find_default(revision: str | None, allow_pickle: bool, notify: Notify) -> ModelFolder:
    try:
        return fetch_from_hub(PREFERRED, revision, allow_pickle, notify)
    except HubUnreachable as error:
        if revision is not None:
            raise
        notify(f"{PREFERRED} is not in the cache and {error.reason}: using the bundled model {BUNDLED}")
        return _bundled(None)


def _bundled(revision: str | None) -> ModelFolder:
    if revision is not None:
        raise ModelError(f"the bundled model {BUNDLED} has no revisions")
    return ModelFolder(BUNDLED, "bundled", BUNDLED_FOLDER / BUNDLED)


def _is_folder(name: str) -> bool:
    """Return whether a name means a local folder and not a Hub id."""
    has_drive = PureWindowsPath(name).drive != ""
    return has_drive or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or Path(name).is_dir()


def _local(name: str, revision: str | None) -> ModelFolder:
    path = Path(os.path.expanduser(name))
    if not path.is_dir():
        problem = "a file, not a folder" if path.exists() else "no such folder"
        raise ModelError(f"model {name}: {problem}", hint="a local model is a folder in Hugging Face format")
    if revision is not None:
        raise ModelError(f"model {name} is a local folder, which has no revisions")
    return ModelFolder(name, "local", path)


def fetch_from_hub(name: str, revision: str | None, allow_pickle: bool, notify: Notify) -> ModelFolder:
    """Return a Hub model's folder in the cache, downloading what is missing.

    Raises:
        HubUnreachable: it is not in the cache, and the Hub is offline or does not answer within seconds.
        ModelError: no such model or revision, no access, no weights that may be loaded, or no space for them.
    """
    path = _find_cached(name, revision, allow_pickle) or _download(name, revision, allow_pickle, notify)
    return ModelFolder(name, "hub", path, revision=path.name)


def _find_cached(name: str, revision: str | None, allow_pickle: bool) -> Path | None:
    """Return the folder of a model that is complete in the cache, or None. No request is made."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, CONFIG, revision=revision)
    except HFValidationError as error:
        raise ModelError(
            f"{name!r} is not a valid model name",
            hint=f"a model is {BUNDLED}, a local folder, or a Hub id such as {PREFERRED}",
        ) from error
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        weight_files(folder, allow_pickle=allow_pickle)
    except ModelError:
        return None
    return folder if names_hold_tokenizer(path.name for path in folder.iterdir()) else None


def _download(name: str, revision: str | None, allow_pickle: bool, notify: Notify) -> Path:
    from huggingface_hub import hf_hub_download, logging

    logging.set_verbosity_error()
    small, weights = _choose_files(name, _list_files(name, revision), allow_pickle)
    notify(f"downloading {name} from the Hub")
    try:
        folder = Path(hf_hub_download(name, CONFIG, revision=revision)).parent
        # Take all other files from the same commit, even if the branch moves meanwhile.
        commit = folder.name
        for file in [*small, weights]:
            hf_hub_download(name, file, revision=commit)
        if weights in (INDEX, PICKLED_INDEX):
            for file in shard_names(folder / weights):
                hf_hub_download(name, file, revision=commit)
    except GenlmError:
        raise
    except Exception as error:
        raise _explain(error, name, revision, "the download failed") from error
    return folder


def _list_files(name: str, revision: str | None) -> list[str]:
    """Return the names of a Hub model's files. This first request is given up within seconds."""
    from huggingface_hub import HfApi

    def request() -> list[str]:
        info = HfApi().model_info(name, revision=revision, timeout=FIRST_ANSWER_S)
        return [file.rfilename for file in info.siblings or []]

    try:
        return _within(FIRST_ANSWER_S, request)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        # For example the login page of a hotel.
        raise HubUnreachable(name, "the answer does not come from a Hub") from error
    except Exception as error:
        raise _explain(error, name, revision, "the Hub cannot be reached") from error


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return the call's result, or abandon it after some time: a silent name server outlasts its timeout."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([future], seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return future.result()


def _choose_files(name: str, files: list[str], allow_pickle: bool) -> tuple[list[str], str]:
    """Return the small files to download, and the file of the weights or of their index, preferring safetensors.

    Raises:
        ModelError: a file that genlm needs is missing, or the weights are pickled only.
    """
    safe = next((file for file in (SINGLE, INDEX) if file in files), None)
    pickled = next((file for file in (PICKLED, PICKLED_INDEX) if file in files), None)
    if safe is None and pickled is not None and not allow_pickle:
        raise pickled_weights(f"{name} on the Hub", pickled)
    weights = safe or pickled
    needed = {CONFIG: CONFIG in files, "a tokenizer": names_hold_tokenizer(files), SINGLE: weights is not None}
    missing = [name for name, is_there in needed.items() if not is_there]
    if weights is None or missing:
        raise ModelError(f"genlm cannot run {name} from the Hub: it has no {' and no '.join(missing)}")
    small = [file for file in files if "/" not in file and any(fnmatch.fnmatchcase(file, p) for p in SMALL_FILES)]
    return small, weights


def _explain(error: Exception, name: str, revision: str | None, otherwise: str) -> GenlmError:
    """Return the error to show for one that the client raised."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        # Raised if a request failed; the cause says more.
        error = error.__cause__
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubUnreachable(name, "HF_HUB_OFFLINE is set")
    if isinstance(error, errors.GatedRepoError):
        return ModelError(f"{name} is a gated model", hint="request access on the Hub, then set HF_TOKEN to your token")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{name} has no revision {revision!r} on the Hub")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(
            f"no model {name!r} on the Hub, or no access to it",
            hint="check the name; for a private model set HF_TOKEN; a local folder needs its path",
        )
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500:
        hint = "check HF_TOKEN" if error.response.status_code in (401, 403) else None
        return ModelError(f"the Hub answered {error.response.status_code} for {name}", hint=hint)
    if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
        where = error.filename or "the cache"
        return ModelError(
            f"cannot save {name} in the cache: {where}: {error.strerror}",
            hint="set HF_HOME to a writable folder",
            code="hub-unreachable",
        )
    return HubUnreachable(name, f"{otherwise} ({first_line(error)[:100]})")
