"""Start or resume a run: from a request to the run's settings, texts, tokenizer and model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

from genlm.errors import InputError, ModelError, OutputError, UsageError
from genlm.model.info import DeviceChoice
from genlm.model.source import Notify, find_model
from genlm.model.tokenizer import END_OF_TEXT
from genlm.records.serialize import from_builtins, parse, to_builtins
from genlm.records.train import TrainFacts
from genlm.tasks.score import UNBOUNDED
from genlm.tasks.train.data import Documents, Rows, Texts, TextSource, Windows, count_bytes, read_texts
from genlm.tasks.train.folder import (
    CARD,
    CHECKPOINT,
    CURVE,
    JOB,
    check_free,
    check_space,
    clear,
    copy_tokenizer,
    lock_folder,
    replacing_files,
    save_tokenizer,
    write_json,
)
from genlm.tasks.train.loop import HeldOut, TrainData, Trainer, has_finished, sample_text
from genlm.tasks.train.model import check_compiler, check_memory, choose_precision, new_gpt2, set_dropout
from genlm.tasks.train.settings import LEAST_CONTEXT, Recipe, SavedType, Shape, choose_recipe, choose_shape
from genlm.tasks.train.tokenizers import MADE, concatenate, encode, find_tokenizer, largest_id, make_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


# Per parameter: the float32 weight, its gradient, and its mean and square in AdamW.
MEMORY_BYTES = 4 * 4


@dataclass(frozen=True)
class TrainRequest:
    """A user's request. Settings that are missing from `shape` and `recipe` depend on the size of the corpus.

    `base` is the model to continue, at `revision` if it is on the Hub. With it, `shape` may only have `n_positions`,
    the part of its context to train on.
    """

    source: TextSource
    base: str | None = None
    tokenizer: str | None = None
    size: str | None = None
    shape: dict[str, int] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    save_dtype: SavedType | None = None
    device: DeviceChoice = "auto"
    revision: str | None = None

    @property
    def seed(self) -> int:
        """The seed of all random choices."""
        return int(self.recipe.get("seed", Recipe.seed))


@dataclass(frozen=True)
class TrainJob:
    """Everything that decides the result of a run, as saved in its folder.

    The model is `base`, or a new one of `shape`. A row has `context` tokens. `parameters` is approximate. `revision` is
    the commit of a `base` from the Hub.
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


class TrainingRun(NamedTuple):
    """A run that is ready to train, and its facts. `hold` keeps other runs out of its folder until it is closed."""

    trainer: Trainer
    facts: TrainFacts
    hold: ExitStack


def begin(request: TrainRequest, out: Path, *, overwrite: bool = False, notify: Notify = lambda _: None) -> TrainingRun:
    """Start a new run, whose model will be in `out`.

    Raises:
        InputError: a text cannot be used.
        ModelError: the base model is not available, or a model of this size does not fit in memory.
        OutputError: `out` exists, has no space, or another run is writing to it.
        UsageError: the settings are invalid.
    """
    check_free(out, overwrite=overwrite)
    texts = read_texts(request.source, request.seed, out)
    job = resolve(request, texts, notify)
    if job.base is not None and out.resolve() == find_model(job.base, revision=job.revision).path.resolve():
        raise OutputError(f"{out} is the base model itself", hint="name another folder")
    check_space(out, job.parameters)
    check_memory(
        job.device,
        job.parameters * MEMORY_BYTES,
        f"training {job.parameters:,} parameters",
        "a smaller model needs less",
    )
    tokenizer, end = _tokenizer(job, texts, notify)
    trainer, facts = _prepare(job, texts, tokenizer, end, out)
    with ExitStack() as hold:
        hold.enter_context(lock_folder(out))
        clear(out)
        # Written first: it marks the folder as that of a run, which may be overwritten.
        with replacing_files(out, JOB) as new:
            write_json(new / JOB, to_builtins(job))
        _write_tokenizer(job, tokenizer, end, out)
        return TrainingRun(trainer, facts, hold.pop_all())


def resume(out: Path, request: TrainRequest | None = None, notify: Notify = lambda _: None) -> TrainingRun:
    """Continue the run in `out` from its last checkpoint, or start it over if there is none.

    If the run has finished but its card or curve is missing, return it as finished, so that they can be written.

    Raises:
        InputError: there is no run, it is complete, or its texts have changed.
        ModelError: its device is not available.
        OutputError: another run is writing to `out`.
        UsageError: `request` has other settings.
    """
    from genlm.model.load import choose_device

    job = read_job(out)
    choose_device(cast(DeviceChoice, job.device))
    with ExitStack() as hold:
        hold.enter_context(lock_folder(out))
        is_finished = has_finished(out)
        if is_finished and all((out / name).is_file() for name in (CARD, CURVE)):
            raise InputError(f"the run in {out} has finished", code="run-finished")
        texts = read_texts(job.source, job.recipe.seed, out)
        if texts.fingerprint != job.fingerprint:
            raise InputError(f"the texts have changed since the run in {out} was started")
        if request is not None:
            _check_same(job, resolve(request, read_texts(request.source, request.seed, out), notify), out)
        can_continue = (out / CHECKPOINT).is_file()
        if can_continue or is_finished:
            tokenizer, end = find_tokenizer(str(out.absolute()), notify)
        else:
            # The run may have been killed before its tokenizer was written.
            tokenizer, end = _tokenizer(job, texts, notify)
            _write_tokenizer(job, tokenizer, end, out)
        trainer, facts = _prepare(job, texts, tokenizer, end, out)
        if can_continue:
            trainer.resume()
        trainer.is_finished = is_finished
        return TrainingRun(trainer, facts, hold.pop_all())


def read_job(out: Path) -> TrainJob:
    """Return the job of the run in `out`. Raise InputError if there is none."""
    path = out / JOB
    if not path.is_file():
        raise InputError(f"{out} holds no {JOB}: no run was started there")
    try:
        return from_builtins(TrainJob, parse(path.read_bytes()))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged, or written by another version of genlm: {error}") from error


def _check_same(started: TrainJob, asked: TrainJob, out: Path) -> None:
    """Raise UsageError if the settings of a job differ from those that the run was started with."""
    for (name, before), (_, now) in zip(_flat(asdict(started)), _flat(asdict(asked)), strict=False):
        if before != now:
            raise UsageError(f"the run in {out} was started with {name} {before}, not {now}", code="run-differs")


def _flat(record: dict[str, Any]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in record.items():
        pairs += _flat(value) if isinstance(value, dict) else [(name, value)]
    return pairs


# From a request to a job.


class _ModelFacts(NamedTuple):
    """Facts of a model that has not been loaded or made yet."""

    base: str | None
    shape: Shape | None
    context: int
    parameters: int
    width: int
    dtype: SavedType
    revision: str | None = None


def resolve(request: TrainRequest, texts: Texts, notify: Notify = lambda _: None) -> TrainJob:
    """Return the job for a request and these texts.

    Raises:
        UsageError: the settings are invalid.
        ModelError: the base model or the device is not available.
    """
    from genlm.model.load import choose_device

    if request.revision is not None and request.base is None:
        raise UsageError("a revision needs a base model")
    model = _new_facts(request, texts) if request.base is None else _base_facts(request, request.base, notify)
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
        for name in ("patience", "eval_every"):
            if request.recipe.get(name):
                raise UsageError(f"{name} needs held-out text", code="needs-held-out-text")
    return TrainJob(
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


def _new_facts(request: TrainRequest, texts: Texts) -> _ModelFacts:
    if request.tokenizer is not None and request.tokenizer not in MADE and "vocab_size" in request.shape:
        raise UsageError(f"vocab_size cannot be set: the tokenizer {request.tokenizer} has its own size")
    shape = choose_shape(texts.num_bytes, request.size, request.shape)
    return _ModelFacts(None, shape, shape.n_positions, shape.parameters, shape.n_embd, "float32")


def _base_facts(request: TrainRequest, name: str, notify: Notify) -> _ModelFacts:
    from genlm.model.adapter import read_config
    from genlm.model.files import weight_files

    extra = [part for part in request.shape if part != "n_positions"]
    extra += [part for part in ("size", "tokenizer") if getattr(request, part) is not None]
    if extra:
        raise UsageError(f"{extra[0]} cannot be set: the base model {name} has its own")
    try:
        folder = find_model(name, revision=request.revision, notify=notify)
        size = sum(path.stat().st_size for path in weight_files(folder.path, allow_pickle=False))
    except ModelError as error:
        # Training has no option that allows pickled weights.
        if error.code == "pickled-weights":
            error.code, error.hint = None, "training loads safetensors only"
        raise
    config = read_config(folder.path)
    text_config = config.get_text_config()
    most = getattr(text_config, "max_position_embeddings", None)
    context = request.shape.get("n_positions", most or UNBOUNDED)
    if not LEAST_CONTEXT <= context <= (most or context):
        raise UsageError(
            f"n_positions must be between {LEAST_CONTEXT} and {most}, the context of {name}, not {context}"
        )
    dtype = str(config.dtype).removeprefix("torch.")
    return _ModelFacts(
        base=str(folder.path.absolute()) if folder.source == "local" else name,
        shape=None,
        context=context,
        parameters=size // (2 if dtype in ("float16", "bfloat16") else 4),
        width=text_config.hidden_size,
        dtype=cast(SavedType, dtype) if dtype in get_args(SavedType) else "float32",
        revision=folder.revision,
    )


def _absolute(name: str) -> str:
    return name if name in MADE or not Path(name).exists() else str(Path(name).absolute())


# From a job to a trainer.


def _tokenizer(job: TrainJob, texts: Texts, notify: Notify) -> tuple[Tokenizer, str]:
    """Return the tokenizer, and its token that ends a text."""
    if job.shape is not None and job.tokenizer in MADE:
        return make_tokenizer(job.tokenizer, texts.documents, job.shape.vocab_size), END_OF_TEXT
    return find_tokenizer(job.tokenizer, notify, job.revision)


def _write_tokenizer(job: TrainJob, tokenizer: Tokenizer, end: str, out: Path) -> None:
    if job.base is None:
        save_tokenizer(tokenizer, end, job.context, out)
    else:
        copy_tokenizer(find_model(job.base, revision=job.revision).path, out)


def _prepare(job: TrainJob, texts: Texts, tokenizer: Tokenizer, end: str, out: Path) -> tuple[Trainer, TrainFacts]:
    end_id = tokenizer.token_to_id(end)
    assert end_id is not None
    model = _model(job, largest_id(tokenizer), end_id)
    documents, held_out = encode(tokenizer, texts.documents), encode(tokenizer, texts.held_out)
    num_tokens = sum(map(len, documents)) + len(documents)
    rows: Rows
    entropy = None
    if texts.is_small:
        rows = Documents(documents, end_id, job.context, job.recipe.seed)
        entropy = rows.entropy()
        held_rows = [[end_id, *ids, end_id] for ids in held_out]
    else:
        rows = Windows(concatenate(documents, end_id), job.context, job.recipe.seed)
        held_rows = [concatenate(held_out, end_id).tolist()]
    data = TrainData(
        rows,
        HeldOut(held_rows, count_bytes(texts.held_out)) if held_out else None,
        job.context,
        bytes_per_token=texts.num_bytes / num_tokens,
        sample=lambda seed: sample_text(model, tokenizer, end_id, seed),
    )
    trainer = Trainer(model, data, job.recipe, out, save_dtype=job.save_dtype, device=job.device)
    return trainer, _facts(job, texts, model, num_tokens, entropy)


def _model(job: TrainJob, largest: int, end_id: int) -> Any:
    """Return the model to train, for ids up to `largest`."""
    import torch

    torch.manual_seed(job.recipe.seed)
    if job.shape is None:
        model = _load_base(job, largest)
    else:
        model = new_gpt2(job.shape, largest + 1, end_id, job.device)
    if job.recipe.dropout is not None and (job.shape is None or job.recipe.dropout > 0):
        set_dropout(model, job.recipe.dropout)
    return model.train()


def _load_base(job: TrainJob, largest: int) -> Any:
    import torch

    from genlm.model.adapter import load_transformers_model

    folder = find_model(job.base, revision=job.revision).path
    model = load_transformers_model(folder, "cpu", torch.float32, allow_pickle=False)
    vocab_size = model.get_input_embeddings().weight.shape[0]
    if largest >= vocab_size:
        raise InputError(
            f"the tokenizer of {job.base} gives ids up to {largest}, beyond the model's vocabulary of {vocab_size}",
            hint="it may have no token that ends a text",
        )
    return model


def _facts(job: TrainJob, texts: Texts, model: Any, num_tokens: int, entropy: float | None) -> TrainFacts:
    config = model.config.get_text_config()
    return TrainFacts(
        base=job.base,
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        context=job.context,
        tokenizer=job.tokenizer,
        vocab_size=config.vocab_size,
        num_files=texts.num_files,
        num_documents=len(texts.documents),
        num_bytes=texts.num_bytes,
        num_tokens=num_tokens,
        per=texts.per,
        held_documents=len(texts.held_out),
        held_bytes=count_bytes(texts.held_out),
        entropy=entropy,
        recipe=asdict(job.recipe),
        save_dtype=job.save_dtype,
        device=job.device,
    )
