"""From a model's name to a folder on disk: the bundled model, a local folder, the cache or the Hub."""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TypeAlias, TypeVar

from genlm.errors import GenlmError, HubUnreachable, ModelError, first_line
from genlm.model.files import INDEX, PICKLED, PICKLED_INDEX, SINGLE, shard_names, weight_files
from genlm.model.info import Source
from genlm.model.tokenizer import names_hold_tokenizer

Notify: TypeAlias = Callable[[str], None]

BUNDLED = "fable"
BUNDLED_FOLDER = Path(__file__).parent / "bundled"
# What runs where no model is named, if it can be had.
PREFERRED = "gpt2"
# The Hub answers its first question within this, or it counts as unreachable. In seconds.
FIRST_ANSWER_S = 6.0
CONFIG = "config.json"
# What is downloaded besides the configuration and the weights, of files at the top of the repository.
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

T = TypeVar("T")


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder, and where it came from. `revision` is the commit of a Hub model.

    `fingerprint` tells what it holds, as genlm.model.fingerprint has it, where that was asked for.
    """

    name: str
    source: Source
    path: Path
    revision: str | None = None
    fingerprint: str | None = None


def find_model(
    name: str | None, *, revision: str | None = None, allow_pickle: bool = False, notify: Notify = lambda _: None
) -> ModelFolder:
    """The folder of the model called `name`; without a name gpt2, or the bundled model where gpt2 cannot be had.

    A name that was given is never replaced by another model.

    Raises:
        ModelError: no such model, or one that cannot be had.
    """
    if name is None:
        return _find_default(revision, allow_pickle, notify)
    if name == BUNDLED:
        return _bundled(revision)
    if not name.strip():
        raise ModelError("the model's name is empty", hint="without -m the model is gpt2, or the bundled fable")
    if _means_folder(name):
        return _local(name, revision)
    return fetch_from_hub(name, revision, allow_pickle, notify)


def locate_model(name: str | None, revision: str | None) -> tuple[str, str | None]:
    """The folder or Hub id that transformers knows a model by, and the revision; nothing is fetched.

    Raises:
        ModelError: a folder that is not there.
    """
    if name is None:
        return PREFERRED, revision
    if name == BUNDLED:
        return str(_bundled(revision).path), None
    return (str(_local(name, revision).path), None) if _means_folder(name) else (name, revision)


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


def _means_folder(name: str) -> bool:
    has_drive = PureWindowsPath(name).drive != ""
    return has_drive or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or Path(name).is_dir()


def _local(name: str, revision: str | None) -> ModelFolder:
    path = Path(os.path.expanduser(name))
    if not path.is_dir():
        kind = "a file, not a folder" if path.exists() else "no such folder"
        raise ModelError(f"model {name}: {kind}", hint="a local model is a folder in Hugging Face format")
    if revision is not None:
        raise ModelError(f"model {name} is a local folder, which has no revisions")
    return ModelFolder(name, "local", path)


def fetch_from_hub(name: str, revision: str | None, allow_pickle: bool, notify: Notify) -> ModelFolder:
    """A Hub model's folder in the cache, downloaded if it is not there whole.

    Raises:
        HubUnreachable: not in the cache, and the Hub does not answer within seconds or is switched off.
        ModelError: no such model or revision, no access to it, no weights that may be loaded, or no room for them.
    """
    path = _cached(name, revision, allow_pickle) or _download(name, revision, allow_pickle, notify)
    return ModelFolder(name, "hub", path, revision=path.name)


def _cached(name: str, revision: str | None, allow_pickle: bool) -> Path | None:
    """The folder of a model that lies whole in the cache. No request is made."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, CONFIG, revision=revision)
    except HFValidationError as error:
        raise ModelError(
            f"no model is called {name!r}", hint="a model is fable, a local folder, or a Hub id such as gpt2"
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
    small, weights = _choose(name, _ask(name, revision), allow_pickle)
    notify(f"downloading {name} from the Hub")
    try:
        folder = Path(hf_hub_download(name, CONFIG, revision=revision)).parent
        # All other files are of the same commit, though the branch may move on meanwhile.
        commit = folder.name
        for file in [*small, weights]:
            hf_hub_download(name, file, revision=commit)
        if weights in (INDEX, PICKLED_INDEX):
            for file in shard_names(folder / weights):
                hf_hub_download(name, file, revision=commit)
    except GenlmError:
        raise
    except Exception as error:
        raise _explain(error, name, revision, "the download broke off") from error
    return folder


def _ask(name: str, revision: str | None) -> list[str]:
    """The names of a Hub model's files; the first contact, which is given up within seconds."""
    from huggingface_hub import HfApi

    def ask() -> list[str]:
        info = HfApi().model_info(name, revision=revision, timeout=FIRST_ANSWER_S)
        return [file.rfilename for file in info.siblings or []]

    try:
        return _within(FIRST_ANSWER_S, ask)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        # The page of a proxy or a hotel, say.
        raise HubUnreachable(name, "what answers in its place is not a Hub") from error
    except Exception as error:
        raise _explain(error, name, revision, "the Hub cannot be reached") from error


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The call's result. A silent name server holds a call for longer than its timeout: then it is left behind."""
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


def _choose(name: str, files: list[str], allow_pickle: bool) -> tuple[list[str], str]:
    """The small files to download, and the one of the weights or of their index, safetensors where there are any.

    Raises:
        ModelError: something is not there that genlm needs, or only as a pickled file.
    """
    safe = next((file for file in (SINGLE, INDEX) if file in files), None)
    pickled = next((file for file in (PICKLED, PICKLED_INDEX) if file in files), None)
    if safe is None and pickled is not None and not allow_pickle:
        raise ModelError(
            f"{name} on the Hub has only pickled weights ({pickled}), which can run code when they are loaded",
            hint="--allow-pickle loads them all the same, if you trust where they come from",
        )
    weights = safe or pickled
    lacks = [
        *([] if CONFIG in files else [CONFIG]),
        *([] if names_hold_tokenizer(files) else ["a tokenizer"]),
    ]
    if weights is None or lacks:
        lacks += [] if weights else [SINGLE]
        raise ModelError(f"{name} on the Hub is not a model that genlm can run: it lacks {' and '.join(lacks)}")
    small = [file for file in files if "/" not in file and any(fnmatch.fnmatchcase(file, p) for p in SMALL_FILES)]
    return small, weights


def _explain(error: Exception, name: str, revision: str | None, otherwise: str) -> GenlmError:
    """The error to show for one of the client's."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        # The client's word for a request that failed on the way: the failure itself says more.
        error = error.__cause__
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubUnreachable(name, "HF_HUB_OFFLINE is set")
    if isinstance(error, errors.GatedRepoError):
        return ModelError(f"access to {name} must be asked for on the Hub", hint="then set HF_TOKEN to your token")
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
            f"cannot keep {name} in the cache: {where}: {error.strerror}",
            hint="set HF_HOME to a folder that can be written; -m fable runs the bundled model",
        )
    return HubUnreachable(name, f"{otherwise} ({first_line(error)[:100]})")
