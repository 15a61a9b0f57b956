"""What a user asks for, and what it comes to: all that decides how a run goes, kept beside its model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast, get_args

from genlm.errors import InputError, UsageError
from genlm.model.source import Notify, find_model
from genlm.records.serialize import from_builtins, parse, to_builtins
from genlm.tasks.score import UNBOUNDED
from genlm.tasks.train.checkpoint import replace_file
from genlm.tasks.train.defaults import choose_recipe, choose_shape
from genlm.tasks.train.folder import SavedType
from genlm.tasks.train.machine import check_compiler, choose_precision
from genlm.tasks.train.settings import LEAST_CONTEXT, Recipe, Shape
from genlm.tasks.train.texts import Texts, TextSource, count_bytes
from genlm.tasks.train.tokenizers import is_made

if TYPE_CHECKING:
    from genlm.model.load import DeviceChoice

PrecisionChoice: TypeAlias = Literal["auto", "float32", "bfloat16"]
NAME = "training.json"


@dataclass(frozen=True)
class TrainingRequest:
    """What a user asks for; what is not in `shape` and `recipe` has its default by the size of the corpus.

    `base` is the model to go on with, of the Hub at `revision`; of `shape` it takes `n_positions` only, how much of its
    context to train on.
    """

    source: TextSource
    base: str | None = None
    tokenizer: str | None = None
    size: str | None = None
    shape: dict[str, int] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    dtype: PrecisionChoice = "auto"
    save_dtype: SavedType | None = None
    device: DeviceChoice = "auto"
    revision: str | None = None

    @property
    def seed(self) -> int:
        """What decides all that is left to chance."""
        return int(self.recipe.get("seed", Recipe.seed))


@dataclass(frozen=True)
class TrainingJob:
    """All that decides what a run comes to. The model is a new one of `shape`, or `base`; a row has `context` tokens.

    `parameters` is how many numbers it learns, about. `revision` is the commit of a `base` from the Hub.
    """

    source: TextSource
    base: str | None
    tokenizer: str
    shape: Shape | None
    context: int
    parameters: int
    recipe: Recipe
    save_dtype: SavedType
    device: str
    fingerprint: str
    revision: str | None = None


class _Model(NamedTuple):
    """What a job takes from the model, before that is there."""

    base: str | None
    shape: Shape | None
    context: int
    parameters: int
    width: int
    dtype: SavedType
    revision: str | None = None


def resolve(request: TrainingRequest, texts: Texts, notify: Notify = lambda _: None) -> TrainingJob:
    """The job that a request comes to with these texts.

    Raises:
        UsageError: numbers that make no model or no run.
        ModelError: a model or device that is not there.
    """
    from genlm.model.load import choose_device

    if request.revision is not None and request.base is None:
        raise UsageError("a revision needs a base model")
    model = _new(request, texts) if request.base is None else _known(request, request.base, notify)
    recipe = choose_recipe(
        texts.num_bytes,
        count_bytes(texts.held_out),
        model.context,
        is_tuning=request.base is not None,
        given=request.recipe,
    )
    device = choose_device(request.device)
    if recipe.compile:
        check_compiler(device)
    if not texts.held_out:
        _refuse_evaluations(request)
    return TrainingJob(
        source=request.source,
        base=model.base,
        tokenizer=model.base or _absolute(request.tokenizer or "bpe"),
        shape=model.shape,
        context=model.context,
        parameters=model.parameters,
        recipe=replace(recipe, dtype=choose_precision(request.dtype, device, model.width)),
        save_dtype=request.save_dtype or model.dtype,
        device=device,
        fingerprint=texts.fingerprint,
        revision=model.revision,
    )


def _refuse_evaluations(request: TrainingRequest) -> None:
    """Raise UsageError for what has a meaning with held-out text only."""
    for name in ("patience", "eval_every"):
        if request.recipe.get(name):
            raise UsageError(f"{name} needs held-out text", code="needs-held-out-text")


def _new(request: TrainingRequest, texts: Texts) -> _Model:
    if request.tokenizer is not None and not is_made(request.tokenizer) and "vocab_size" in request.shape:
        raise UsageError(f"vocab_size cannot be set: the tokenizer {request.tokenizer} has its own size")
    shape = choose_shape(texts.num_bytes, request.size, request.shape)
    return _Model(None, shape, shape.n_positions, shape.parameters, shape.n_embd, "float32")


def _absolute(name: str) -> str:
    return name if is_made(name) or not Path(name).exists() else str(Path(name).absolute())


def _known(request: TrainingRequest, name: str, notify: Notify) -> _Model:
    from genlm.model.adapter import read_config
    from genlm.model.files import weight_files

    extra = [part for part in request.shape if part != "n_positions"]
    extra += [part for part in ("size", "tokenizer") if getattr(request, part) is not None]
    if extra:
        raise UsageError(f"{extra[0]} cannot be set: the base model {name} has its own")
    folder = find_model(name, revision=request.revision, notify=notify)
    config = read_config(folder.path)
    text_config = config.get_text_config()
    most = getattr(text_config, "max_position_embeddings", None)
    context = request.shape.get("n_positions", most or UNBOUNDED)
    if not LEAST_CONTEXT <= context <= (most or context):
        raise UsageError(
            f"n_positions must be between {LEAST_CONTEXT} and {most}, the context of {name}, not {context}"
        )
    dtype = str(config.dtype).removeprefix("torch.")
    size = sum(path.stat().st_size for path in weight_files(folder.path, allow_pickle=False))
    return _Model(
        str(folder.path.absolute()) if folder.source == "local" else name,
        None,
        context,
        size // (2 if dtype in ("float16", "bfloat16") else 4),
        text_config.hidden_size,
        cast(SavedType, dtype) if dtype in get_args(SavedType) else "float32",
        folder.revision,
    )


def write(job: TrainingJob, out: Path) -> None:
    """Keep the job in the folder of its model. Raises OutputError where that fails."""
    replace_file(out / NAME, lambda path: _write_json(path, to_builtins(job)))


def _write_json(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n", "utf-8", newline="\n")


def read(out: Path) -> TrainingJob:
    """The job whose run is in `out`. Raises InputError where there is none."""
    path = out / NAME
    if not path.is_file():
        raise InputError(f"{out} holds no {NAME}: no run was started there")
    try:
        return from_builtins(TrainingJob, parse(path.read_bytes()))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged, or written by another version of genlm: {error}") from error


def check_same(begun: TrainingJob, asked: TrainingJob, out: Path) -> None:
    """Raise UsageError where a run that was begun is asked to go on in another way."""
    for (name, before), (_, now) in zip(_flat(asdict(begun)), _flat(asdict(asked)), strict=False):
        if before != now:
            raise UsageError(f"the run in {out} was started with {name} {before}, not {now}", code="run-differs")


def _flat(record: dict[str, Any]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in record.items():
        pairs += _flat(value) if isinstance(value, dict) else [(name, value)]
    return pairs
