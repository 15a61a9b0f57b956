"""From what a user asks for to a run: read the corpus, make the tokenizer and the model, or find them again."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from genlm.errors import InputError, OutputError
from genlm.tasks.corpus import encode_texts, find_texts, read_text, train_bpe
from genlm.tasks.train import checkpoint
from genlm.tasks.train.data import Batches, Windows
from genlm.tasks.train.folder import SavedType, save_tokenizer
from genlm.tasks.train.loop import Held, Training
from genlm.tasks.train.network import new_gpt2
from genlm.tasks.train.settings import Recipe, Shape

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SETTINGS = "training.json"
# A checkpoint holds the weights and two numbers of memory for each; while it is replaced there are two of them.
CHECKPOINT_BYTES = 2 * 3 * 4


@dataclass(frozen=True)
class Job:
    """All that decides what a run comes to."""

    corpus: list[str]
    valid: list[str]
    shape: Shape
    recipe: Recipe
    save_dtype: SavedType = "float32"
    device: str = "cpu"
    fingerprint: str = field(default="")


def begin(job: Job, out: Path, *, overwrite: bool = False) -> Training:
    """A new run that leaves its model in `out`.

    Raises:
        InputError: a text that cannot be used.
        OutputError: `out` is there already, or has no room.
    """
    texts, held_out = _texts(job)
    _check_folder(out, overwrite)
    _check_room(out, job)
    tokenizer = train_bpe(texts, job.shape.vocab_size)
    _clear(out)
    save_tokenizer(tokenizer, job.shape.n_positions, out)
    kept = asdict(job) | {"fingerprint": _fingerprint(texts, held_out)}
    (out / SETTINGS).write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
    return _training(job, texts, held_out, tokenizer, out)


def resume(out: Path) -> Training:
    """The run whose checkpoint is in `out`, at its place.

    Raises:
        InputError: there is none, or its corpus is not what it was.
    """
    from tokenizers import Tokenizer

    job = read_job(out)
    texts, held_out = _texts(job)
    if _fingerprint(texts, held_out) != job.fingerprint:
        raise InputError(f"the texts are not those that {out} was begun with")
    training = _training(job, texts, held_out, Tokenizer.from_file(str(out / "tokenizer.json")), out)
    training.resume()
    return training


def read_job(out: Path) -> Job:
    """What the run in `out` was asked to do. Raises InputError where that cannot be told."""
    path = out / SETTINGS
    if not path.is_file():
        raise InputError(f"{out} holds no {SETTINGS}: no run was begun there")
    try:
        kept = json.loads(path.read_bytes())
        return Job(**kept | {"shape": Shape(**kept["shape"]), "recipe": Recipe(**kept["recipe"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged, or not of this genlm") from error


def _texts(job: Job) -> tuple[list[str], list[str]]:
    corpus, valid = (
        [read_text(path) for path in find_texts(map(Path, paths))] if paths else [] for paths in (job.corpus, job.valid)
    )
    return corpus, valid


def _training(job: Job, texts: list[str], held_out: list[str], tokenizer: Tokenizer, out: Path) -> Training:
    import torch

    ids = encode_texts(tokenizer, texts)
    torch.manual_seed(job.recipe.seed)
    model = new_gpt2(job.shape, job.recipe.dropout, tokenizer.get_vocab_size(), int(ids[0]), job.device)
    rows = Windows(ids, job.shape.n_positions, job.recipe.seed)
    return Training(
        model,
        lambda epoch, at: Batches(rows, job.recipe.batch_size, epoch, at),
        _held(tokenizer, held_out),
        job.recipe,
        out,
        context=job.shape.n_positions,
        bytes_per_token=_num_bytes(texts) / (len(ids) - 1),
        save_dtype=job.save_dtype,
        device=job.device,
    )


def _held(tokenizer: Tokenizer, texts: list[str]) -> Held | None:
    return Held(encode_texts(tokenizer, texts), _num_bytes(texts)) if texts else None


def _num_bytes(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _fingerprint(*lists: list[str]) -> str:
    return hashlib.sha256(json.dumps(lists).encode()).hexdigest()


def _check_folder(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file, not a folder")
    if not overwrite and out.is_dir() and any(out.iterdir()):
        has_run = (out / checkpoint.NAME).is_file()
        hint = "--resume goes on with the run in it; --overwrite begins anew" if has_run else "--overwrite begins anew"
        raise OutputError(f"{out} is there already, and not empty", hint=hint)


def _check_room(out: Path, job: Job) -> None:
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    need, free = job.shape.parameters * (CHECKPOINT_BYTES + 2 * 4), shutil.disk_usage(place).free
    if need > free:
        raise OutputError(f"no space: the run needs {need / 1e6:,.0f} MB in {out}, and {free / 1e6:,.0f} MB are free")


def _clear(out: Path) -> None:
    """Make `out`, and take away what an earlier run left in it, and nothing else."""
    from genlm.tasks.train.loop import LOG

    out.mkdir(parents=True, exist_ok=True)
    for name in (checkpoint.NAME, SETTINGS, LOG, "model.safetensors"):
        (out / name).unlink(missing_ok=True)
