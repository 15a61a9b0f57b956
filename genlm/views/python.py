"""The script that does with transformers alone what a run of genlm does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from genlm.decoding.equivalent import stock_settings
from genlm.decoding.strategy import Strategy
from genlm.decoding.words import read_words
from genlm.errors import UsageError


@dataclass(frozen=True)
class Run:
    """What a script has to say. `model` is a folder or a Hub id; device and dtype may be "auto"."""

    model: str
    revision: str | None
    device: str
    dtype: str
    prompt: str
    strategy: Strategy
    max_new_tokens: int
    num_return_sequences: int
    seed: int | None
    stop: Sequence[str]


def python_script(run: Run) -> str:
    """The script of a run.

    Raises:
        UsageError: a strategy, or a dtype, that transformers does not have.
    """
    if run.dtype == "int8":
        raise UsageError("transformers has no --dtype int8 of this kind")
    settings = stock_settings(run.strategy)
    lines = [*_head(run), *_model(run), *_prompt(run), *_bad_words(run), *_call(run, settings), *_show(run)]
    return "\n".join(lines) + "\n"


def _head(run: Run) -> Iterator[str]:
    is_seeded = run.strategy.samples and run.seed is not None
    names = ["AutoModelForCausalLM", "AutoTokenizer", "GenerationConfig", *(["set_seed"] if is_seeded else [])]
    yield f"# genlm: {run.strategy}"
    yield from ["import torch", f"from transformers import {', '.join(names)}", ""]
    if is_seeded:
        yield "# The distribution is genlm's; the numbers that draw from it are not."
        yield f"set_seed({run.seed})"


def _model(run: Run) -> Iterator[str]:
    revision = "" if run.revision is None else f", revision={run.revision!r}"
    if run.device == "auto":
        yield 'device = "cuda" if torch.cuda.is_available() else "cpu"'
    else:
        yield f"device = {run.device!r}"
    yield (
        f"dtype = torch.{run.dtype}" if run.dtype != "auto" else 'dtype = torch.float32 if device == "cpu" else "auto"'
    )
    yield f"tokenizer = AutoTokenizer.from_pretrained({run.model!r}{revision})"
    yield f"model = AutoModelForCausalLM.from_pretrained({run.model!r}{revision}, dtype=dtype).to(device).eval()"
    yield "ends = model.generation_config.eos_token_id"
    yield "# Nothing else of the model's own settings."
    yield "model.generation_config = GenerationConfig()"
    yield ""


def _prompt(run: Run) -> Iterator[str]:
    if run.prompt:
        yield f'prompt = tokenizer({run.prompt!r}, return_tensors="pt").input_ids.to(device)'
    else:
        yield "prompt = torch.tensor([[tokenizer.bos_token_id]], device=device)"


def _bad_words(run: Run) -> Iterator[str]:
    words = _words(run)
    if words:
        yield "# Each as it is, and after a space."
        yield f"texts = [text for word in {words!r} for text in (word, ' ' + word)]"
        yield "bad_words_ids = tokenizer(texts, add_special_tokens=False).input_ids"


def _words(run: Run) -> list[str]:
    return list(read_words(str(run.strategy.fields["bad_words"])))


def _call(run: Run, settings: dict[str, object]) -> Iterator[str]:
    arguments = settings | {
        "max_new_tokens": run.max_new_tokens,
        "num_return_sequences": run.num_return_sequences,
    }
    yield "output = model.generate("
    yield "    prompt,"
    yield "    attention_mask=torch.ones_like(prompt),"
    yield from (f"    {name}={value!r}," for name, value in arguments.items())
    if _words(run):
        yield "    bad_words_ids=bad_words_ids,"
    if run.stop:
        yield f"    stop_strings={list(run.stop)!r},"
        yield "    tokenizer=tokenizer,"
    yield "    eos_token_id=ends,"
    yield "    pad_token_id=ends[0] if isinstance(ends, list) else ends,"
    yield ")"


def _show(run: Run) -> Iterator[str]:
    yield "for ids in output[:, prompt.shape[1] :]:"
    yield "    text = tokenizer.decode(ids, skip_special_tokens=True)"
    if run.stop:
        yield f"    for stop in {list(run.stop)!r}:"
        yield "        text = text.split(stop)[0]"
    yield "    print(text)"
