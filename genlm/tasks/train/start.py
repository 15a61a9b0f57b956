"""From a request to a run: read the corpus, make the tokenizer and the model; or find them again, and go on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from genlm.errors import InputError, OutputError
from genlm.formats.folder import LocalFolder
from genlm.model.source import Notify, find_model
from genlm.model.tokenizer import END_OF_TEXT
from genlm.records.train import TrainFacts
from genlm.tasks.train import checkpoint, jobs
from genlm.tasks.train.data import Documents, Rows, Windows
from genlm.tasks.train.evaluate import Held, sample_text
from genlm.tasks.train.folder import check_free, check_room, clear, copy_tokenizer, is_complete, save_tokenizer
from genlm.tasks.train.jobs import TrainingJob, TrainingRequest
from genlm.tasks.train.loop import Data, Training, came_to_its_end
from genlm.tasks.train.network import new_gpt2, set_dropout
from genlm.tasks.train.texts import Texts, count_bytes, gather
from genlm.tasks.train.tokenizers import encode, find_tokenizer, in_one_row, is_made, largest_id, make_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from genlm.model.load import DeviceChoice


class Vocabulary(NamedTuple):
    """A tokenizer, and the token that ends a text."""

    tokenizer: Tokenizer
    end: str

    @property
    def end_id(self) -> int:
        """The id of `end`."""
        id = self.tokenizer.token_to_id(self.end)
        assert id is not None
        return id


class TrainingRun(NamedTuple):
    """A run that is ready, and what there is to say of it. Until `hold` is left no other may write where it does."""

    training: Training
    facts: TrainFacts
    hold: ExitStack


def begin(
    request: TrainingRequest, out: Path, *, overwrite: bool = False, notify: Notify = lambda _: None
) -> TrainingRun:
    """A new run that leaves its model in `out`.

    Raises:
        InputError: a text that cannot be used.
        ModelError: a model to go on with that cannot be had.
        OutputError: `out` is there already, has no room, or another run is writing there.
        UsageError: numbers that make no model or no run.
    """
    check_free(out, overwrite=overwrite)
    texts = gather(request.source, request.seed, out)
    job = jobs.resolve(request, texts, notify)
    if job.base is not None and out.resolve() == find_model(job.base, revision=job.revision).path.resolve():
        raise OutputError(f"{out} is the base model itself", hint="name another folder")
    check_room(out, job.parameters)
    vocabulary = _vocabulary(job, texts, notify)
    training, facts = _prepared(job, texts, vocabulary, out)
    with ExitStack() as hold:
        hold.enter_context(LocalFolder(str(out)).locked())
        clear(out)
        if job.base is None:
            save_tokenizer(vocabulary.tokenizer, vocabulary.end, job.context, out)
        else:
            copy_tokenizer(find_model(job.base, revision=job.revision).path, out)
        jobs.write(job, out)
        return TrainingRun(training, facts, hold.pop_all())


def resume(out: Path, request: TrainingRequest | None = None, notify: Notify = lambda _: None) -> TrainingRun:
    """The run in `out`, at the place of its last checkpoint, or at its beginning if it came to none.

    One that came to its end, but has left no card or curve, is a finished run, for which these can be made.

    Raises:
        InputError: there is no run, it is finished, or its texts are not what they were.
        ModelError: the device it runs on is not there.
        OutputError: another run is writing in `out`.
        UsageError: `request` asks for another.
    """
    from genlm.model.load import choose_device

    job = jobs.read(out)
    choose_device(cast("DeviceChoice", job.device))
    with ExitStack() as hold:
        hold.enter_context(LocalFolder(str(out)).locked())
        training, facts = _resumed(job, out, request, notify)
        return TrainingRun(training, facts, hold.pop_all())


def _resumed(
    job: TrainingJob, out: Path, request: TrainingRequest | None, notify: Notify
) -> tuple[Training, TrainFacts]:
    is_at_end = came_to_its_end(out)
    if is_at_end and is_complete(out):
        raise InputError(f"the run in {out} has finished", code="run-finished")
    texts = gather(job.source, job.recipe.seed, out)
    if texts.fingerprint != job.fingerprint:
        raise InputError(f"the texts have changed since the run in {out} was started")
    if request is not None:
        jobs.check_same(job, jobs.resolve(request, gather(request.source, request.seed, out), notify), out)
    training, facts = _prepared(job, texts, Vocabulary(*find_tokenizer(str(out.absolute()), notify)), out)
    if checkpoint.is_there(out):
        training.resume()
    training.is_finished = is_at_end
    return training, facts


def _vocabulary(job: TrainingJob, texts: Texts, notify: Notify) -> Vocabulary:
    if job.shape is not None and is_made(job.tokenizer):
        return Vocabulary(make_tokenizer(job.tokenizer, texts.documents, job.shape.vocab_size), END_OF_TEXT)
    return Vocabulary(*find_tokenizer(job.tokenizer, notify, job.revision))


def _prepared(job: TrainingJob, texts: Texts, vocabulary: Vocabulary, out: Path) -> tuple[Training, TrainFacts]:
    tokenizer, end = vocabulary.tokenizer, vocabulary.end_id
    model = _model(job, vocabulary)
    documents = encode(tokenizer, texts.documents)
    rows, entropy = _rows(job, documents, texts, end)
    num_tokens = sum(map(len, documents)) + len(documents)
    data = Data(
        rows,
        _held(tokenizer, texts, end),
        job.context,
        bytes_per_token=texts.num_bytes / num_tokens,
        sample=lambda seed: sample_text(model, tokenizer, end, seed),
    )
    training = Training(model, data, job.recipe, out, save_dtype=job.save_dtype, device=job.device)
    return training, _facts(job, texts, model, num_tokens, entropy)


def _rows(job: TrainingJob, documents: Sequence[Sequence[int]], texts: Texts, end: int) -> tuple[Rows, float | None]:
    if not texts.is_small:
        return Windows(in_one_row(documents, end), job.context, job.recipe.seed), None
    rows = Documents(documents, end, job.context, job.recipe.seed)
    return rows, rows.entropy()


def _held(tokenizer: Tokenizer, texts: Texts, end: int) -> Held | None:
    """The held-out text in rows as those to train on: of a small corpus each document by itself."""
    if not texts.held_out:
        return None
    documents = encode(tokenizer, texts.held_out)
    rows = [[end, *ids, end] for ids in documents] if texts.is_small else [in_one_row(documents, end).tolist()]
    return Held(rows, count_bytes(texts.held_out))


def _model(job: TrainingJob, vocabulary: Vocabulary) -> Any:
    import torch

    torch.manual_seed(job.recipe.seed)
    size = largest_id(vocabulary.tokenizer) + 1
    if job.shape is None:
        model = _base(job.base, job.revision, size)
    else:
        model = new_gpt2(job.shape, size, vocabulary.end_id, job.device)
    if job.recipe.dropout is not None and (job.shape is None or job.recipe.dropout > 0):
        set_dropout(model, job.recipe.dropout)
    return model.train()


def _base(name: str | None, revision: str | None, vocab_size: int) -> Any:
    import torch

    from genlm.model.adapter import load_transformers_model

    model = load_transformers_model(find_model(name, revision=revision).path, "cpu", torch.float32, allow_pickle=False)
    own = model.get_input_embeddings().weight.shape[0]
    if vocab_size > own:
        raise InputError(
            f"the tokenizer of {name} gives ids up to {vocab_size - 1}, beyond the model's vocabulary of {own}",
            hint="it may have no token that ends a text",
        )
    return model


def _facts(job: TrainingJob, texts: Texts, model: Any, num_tokens: int, entropy: float | None) -> TrainFacts:
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
