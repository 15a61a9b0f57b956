"""Models from the Hugging Face Hub, by its own client: the cache first, then a download.

HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are the client's and work as everywhere.
"""

from __future__ import annotations

import errno
import fnmatch
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from genlm.errors import GenlmError, HubUnreachable, ModelError
from genlm.model.source import ModelFolder, Notify
from genlm.model.weights import INDEX, PICKLED, PICKLED_INDEX, SINGLE, weight_files

# The Hub answers its first question within this, or it counts as unreachable. In seconds.
FIRST_ANSWER_S = 6.0
CONFIGS = ("config.json", "generation_config.json")
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
)
SAFE_WEIGHTS = (SINGLE, INDEX, "model-*-of-*.safetensors")
PICKLED_WEIGHTS = (PICKLED, PICKLED_INDEX, "pytorch_model-*-of-*.bin")

T = TypeVar("T")


def fetch(name: str, revision: str | None, allow_pickle: bool, notify: Notify) -> ModelFolder:
    """A Hub model's folder in the cache, downloaded if it is not there whole.

    Raises:
        HubUnreachable: not in the cache, and the Hub does not answer within seconds or is switched off.
        ModelError: no such model or revision, no access to it, or no weights that may be loaded.
    """
    cached = _cached(name, revision, allow_pickle)
    path = cached or _download(name, revision, allow_pickle, notify)
    return ModelFolder(name, "hub", path, revision=path.name)


def _cached(name: str, revision: str | None, allow_pickle: bool) -> Path | None:
    """The folder of a model that lies whole in the cache. No request is made."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        weight_files(folder, allow_pickle=allow_pickle)
    except HFValidationError as error:
        raise ModelError(
            f"no model is called {name!r}", hint="a model is fable, a local folder, or a Hub id such as gpt2"
        ) from error
    except (LocalEntryNotFoundError, ModelError):
        return None
    has_tokenizer = any(path.name in TOKENIZERS or path.suffix == ".model" for path in folder.iterdir())
    return folder if (folder / "config.json").is_file() and has_tokenizer else None


def _download(name: str, revision: str | None, allow_pickle: bool, notify: Notify) -> Path:
    from huggingface_hub import hf_hub_download, logging

    logging.set_verbosity_error()
    chosen = _choose(name, _ask(name, revision), allow_pickle)
    notify(f"downloading {name} from the Hub")
    try:
        # The weights come last, so a folder that has them is whole.
        paths = [Path(hf_hub_download(name, file, revision=revision)) for file in chosen]
    except Exception as error:
        raise _explain(error, name, revision, "the download broke off") from error
    return paths[0].parent


def _ask(name: str, revision: str | None) -> list[str]:
    """The names of a Hub model's files; the first contact, which is given up within seconds."""
    from huggingface_hub import HfApi

    def ask() -> list[str]:
        info = HfApi().model_info(name, revision=revision, timeout=FIRST_ANSWER_S)
        return [file.rfilename for file in info.siblings or []]

    try:
        return _within(FIRST_ANSWER_S, ask)
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


def _choose(name: str, files: list[str], allow_pickle: bool) -> list[str]:
    """The files to download: configuration and tokenizer first, then weights, safetensors where there are any."""

    def matching(patterns: tuple[str, ...]) -> list[str]:
        return [file for file in files if any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)]

    weights = [SINGLE] if SINGLE in files else matching(SAFE_WEIGHTS)
    pickled = [PICKLED] if PICKLED in files else matching(PICKLED_WEIGHTS)
    if not weights and pickled and not allow_pickle:
        raise ModelError(
            f"{name} on the Hub has only pickled weights ({PICKLED}), which can run code when they are loaded",
            hint="--allow-pickle loads them all the same, if you trust where they come from",
        )
    if "config.json" not in files or not (weights or pickled):
        raise ModelError(f"{name} on the Hub is not a model that genlm can run: it lacks config.json or weights")
    return matching(CONFIGS) + matching(TOKENIZERS) + (weights or pickled)


def _explain(error: Exception, name: str, revision: str | None, otherwise: str) -> GenlmError:
    """The error to show for one of the client's."""
    from huggingface_hub import errors

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
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None and error.response.status_code < 500:
        hint = "check HF_TOKEN" if error.response.status_code in (401, 403) else None
        return ModelError(f"the Hub answered {error.response.status_code} for {name}", hint=hint)
    if isinstance(error, PermissionError) or getattr(error, "errno", None) in (errno.EROFS, errno.ENOSPC):
        where = getattr(error, "filename", None) or "the cache"
        reason = getattr(error, "strerror", None) or error
        return ModelError(f"cannot write {where}: {reason}", hint="set HF_HOME to a folder that can be written")
    return HubUnreachable(name, f"{otherwise} ({_brief(error)})")


def _brief(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:100] if lines else type(error).__name__
