"""A Python script that does the same as `genlm generate` with transformers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from genlm.decoding.kinds.shared import BAD_WORDS
from genlm.decoding.strategy import Strategy, transformers_settings
from genlm.errors import UsageError


@dataclass(frozen=True)
class ScriptOptions:
    """The settings of a script. `model` is a folder or a Hub id; device and dtype may be "auto"."""

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


def python_script(options: ScriptOptions) -> str:
    """Return the script.

    Raises:
        UsageError: a strategy or dtype that transformers does not have.
    """
    if options.dtype == "int8":
        raise UsageError("transformers has no int8 like that of genlm")
    settings = transformers_settings(options.strategy)
    return "".join(f"{line}\n" for line in (*_setup(options), *_generation(options, settings)))


def _setup(options: ScriptOptions) -> Iterator[str]:
    is_seeded = options.strategy.samples and options.seed is not None
    names = ["AutoModelForCausalLM", "AutoTokenizer", "GenerationConfig", *(["set_seed"] if is_seeded else [])]
    yield f"# genlm: {options.strategy}"
    yield from ["import torch", f"from transformers import {', '.join(names)}", ""]
    if is_seeded:
        yield "# The distribution is the same as in genlm, the random numbers are not."
        yield f"set_seed({options.seed})"
    revision = "" if options.revision is None else f", revision={options.revision!r}"
    if options.device == "auto":
        yield 'device = "cuda" if torch.cuda.is_available() else "cpu"'
    else:
        yield f"device = {options.device!r}"
    yield (
        f"dtype = torch.{options.dtype}"
        if options.dtype != "auto"
        else 'dtype = torch.float32 if device == "cpu" else "auto"'
    )
    yield f"tokenizer = AutoTokenizer.from_pretrained({options.model!r}{revision})"
    yield f"model = AutoModelForCausalLM.from_pretrained({options.model!r}{revision}, dtype=dtype).to(device).eval()"
    yield "ends = model.generation_config.eos_token_id"
    yield "# Drop all other settings of the model."
    yield "model.generation_config = GenerationConfig()"
    yield ""


def _generation(options: ScriptOptions, settings: dict[str, object]) -> Iterator[str]:
    if options.prompt:
        yield f'prompt = tokenizer({options.prompt!r}, return_tensors="pt").input_ids.to(device)'
    else:
        yield "prompt = torch.tensor([[tokenizer.bos_token_id]], device=device)"
    words = options.strategy[BAD_WORDS]
    if words:
        yield "# Each word with and without a leading space."
        yield f"texts = [text for word in {list(words)!r} for text in (word, ' ' + word)]"
        yield "bad_words_ids = tokenizer(texts, add_special_tokens=False).input_ids"
    arguments = settings | {
        "max_new_tokens": options.max_new_tokens,
        "num_return_sequences": options.num_return_sequences,
    }
    yield "output = model.generate("
    yield "    prompt,"
    yield "    attention_mask=torch.ones_like(prompt),"
    yield from (f"    {name}={value!r}," for name, value in arguments.items())
    if words:
        yield "    bad_words_ids=bad_words_ids,"
    if options.stop:
        yield f"    stop_strings={list(options.stop)!r},"
        yield "    tokenizer=tokenizer,"
    yield "    eos_token_id=ends,"
    yield "    pad_token_id=ends[0] if isinstance(ends, list) else ends,"
    yield ")"
    yield "for ids in output[:, prompt.shape[1] :]:"
    yield "    text = tokenizer.decode(ids, skip_special_tokens=True)"
    if options.stop:
        yield f"    for stop in {list(options.stop)!r}:"
        yield "        text = text.split(stop)[0]"
    yield "    print(text)"
