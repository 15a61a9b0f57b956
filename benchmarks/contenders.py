"""The contenders of a decoding job, each in its own process.

In one process, the thread pools of two libraries slow each other down: next to CTranslate2, a step of torch takes up to
twice as long.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from model import PROMPT, convert, make_model, text_of

NEW = 64
Run = Callable[[], object]


class Work(NamedTuple):
    """The work to do: `kind` is the spec of a strategy, `beams`, `compare`, `pipeline` or `first token`."""

    kind: str
    rows: int = 1


class Contender:
    """A contender, named after its library and its dtype."""

    def __init__(self, name: str, scratch: Path, threads: int, *, cpu_time: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, name, scratch, threads, cpu_time), daemon=True).start()
        theirs.close()

    def time(self, work: Work) -> float:
        """Do the work and return how many seconds it took. The first time is slower."""
        self._pipe.send(work)
        seconds: float = self._pipe.recv()
        return seconds


def prepare(scratch: Path, names: set[str]) -> None:
    """Write the model in the format of each contender."""
    make_model(scratch / "model")
    for compute in ("float32", "int8"):
        if any(name.startswith(f"CTranslate2 {compute}") for name in names):
            convert(scratch / "model", scratch / compute, compute)


def _serve(pipe: Any, name: str, scratch: Path, threads: int, cpu_time: bool) -> None:
    warnings.simplefilter("ignore")
    engine, runs = _engine(name, scratch, threads), {}
    while True:
        try:
            work = pipe.recv()
        except EOFError:
            return
        if work not in runs:
            runs[work] = engine.prepare(work)
        gc.collect()
        pipe.send(_seconds(runs[work], cpu_time=cpu_time))


def _seconds(run: Run, *, cpu_time: bool) -> float:
    # This includes the CPU time of processes that the run started.
    clock = (lambda: sum(os.times()[:4])) if cpu_time else time.perf_counter
    started = clock()
    run()
    return clock() - started


def _engine(name: str, scratch: Path, threads: int) -> Genlm | Transformers | CTranslate2 | Script:
    """Return a library with its model loaded."""
    library, _, mode = name.partition(" ")
    if mode == "script":
        return Script(library)
    if library == "CTranslate2":
        return CTranslate2(scratch, mode, threads)
    import torch

    torch.set_num_threads(threads)
    if library == "genlm":
        return Genlm(scratch / "model", mode)
    return Transformers(scratch / "model", "float32" if mode == "pipeline" else mode)


class Genlm:
    """genlm, without end tokens, so that all contenders do the same work."""

    def __init__(self, folder: Path, dtype: Any) -> None:
        from genlm.model.load import load_model
        from genlm.model.source import find_model

        self.model = load_model(find_model(str(folder)), dtype=dtype)

    def prepare(self, work: Work) -> Run:
        """Return a function that does the work. Rows are samples of one prompt."""
        if work.kind == "compare":
            return self._compare(work.rows)
        if work.kind == "beams":
            return self._decode(1, f"beam:num_beams={work.rows}")
        return self._decode(work.rows, work.kind)

    def _decode(self, rows: int, spec: str) -> Run:
        from genlm.decoding.dispatch import decode
        from genlm.decoding.request import Request
        from genlm.decoding.strategy import Strategy

        request = Request(
            prompt_ids=tuple(PROMPT),
            strategy=Strategy.parse(spec),
            max_new_tokens=NEW,
            count=rows,
            seed=0,
            eos_ids=frozenset(),
            stop=(),
            decode=self.model.tokenizer.decode,
        )
        return lambda: list(decode(self.model.network, request))

    def _compare(self, samples: int) -> Run:
        """Return the work of `genlm compare` with its default strategies, including all metrics."""
        from dataclasses import replace

        from genlm.decoding.strategy import Strategy
        from genlm.tasks.compare import DEFAULT_STRATEGIES, Comparer, ComparisonSettings
        from genlm.tasks.compare import Contender as Compared

        contenders = [Compared(Strategy.parse(spec), {}) for spec in DEFAULT_STRATEGIES]
        model = replace(self.model, eos_ids=frozenset())

        def run() -> object:
            comparer = Comparer(model, [text_of(PROMPT)], contenders, ComparisonSettings(NEW, samples, 0))
            return list(comparer), comparer.result

        return run


SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "top-p": {"do_sample": True, "top_p": 0.9, "top_k": 0},
    "top-k": {"do_sample": True, "top_k": 50},
}


class Transformers:
    """`generate` of transformers, and its pipeline."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        self.folder = folder
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def prepare(self, work: Work) -> Run:
        """Return a function that does the work. Rows are copies of one prompt."""
        if work.kind == "pipeline":
            return self._pipeline()
        if work.kind == "compare":
            return self._compare(work.rows)
        if work.kind == "beams":
            return self._generate(1, do_sample=False, num_beams=work.rows)
        return self._generate(work.rows, **SETTINGS[work.kind])

    def _compare(self, samples: int) -> Run:
        """Return a function that runs the strategies of `genlm compare`, with the same number of texts each."""
        runs = [
            self._generate(1, do_sample=False),
            self._generate(1, do_sample=False, num_beams=4, num_return_sequences=min(4, samples)),
            self._generate(1, num_return_sequences=samples, **SETTINGS["top-k"]),
            self._generate(1, num_return_sequences=samples, **SETTINGS["top-p"]),
        ]
        return lambda: [run() for run in runs]

    def _pipeline(self) -> Run:
        from transformers import AutoTokenizer, pipeline

        made = pipeline("text-generation", model=self.model, tokenizer=AutoTokenizer.from_pretrained(self.folder))
        return lambda: made(
            text_of(PROMPT), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=50256
        )

    def _generate(self, rows: int, **settings: Any) -> Run:
        import torch

        ids = torch.tensor([PROMPT] * rows)
        mask = torch.ones_like(ids)
        exact = {"max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 50256}
        return lambda: self.model.generate(ids, attention_mask=mask, **exact, **settings)


class CTranslate2:
    """CTranslate2 with the same weights: all threads on one batch, or `by rows`, each thread on a part of it."""

    def __init__(self, scratch: Path, mode: str, threads: int) -> None:
        import ctranslate2

        compute, _, by_rows = mode.partition(", ")
        self.parts = threads if by_rows else 1
        self.generator = ctranslate2.Generator(
            str(scratch / compute),
            compute_type=compute,
            inter_threads=self.parts,
            intra_threads=threads // self.parts,
        )

    def prepare(self, work: Work) -> Run:
        """Return a function that does the work. Rows are copies of one prompt."""
        settings = {
            "greedy": {"beam_size": 1},
            "top-p": {"sampling_topk": 0, "sampling_topp": 0.9},
            "top-k": {"sampling_topk": 50},
        }[work.kind]
        prompts = [text_of(PROMPT).split()] * work.rows
        size = -(-work.rows // self.parts)
        exact = {"max_length": NEW, "min_length": NEW, "include_prompt_in_result": False}
        return lambda: self.generator.generate_batch(prompts, max_batch_size=size, **exact, **settings)


PLAIN = """
import sys
from transformers import AutoTokenizer, AutoModelForCausalLM
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="float32")
inputs = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=1, do_sample=False)[0]))
"""


class Script:
    """A process that prints one greedy token of the bundled model: the command, or a plain transformers script."""

    def __init__(self, library: str) -> None:
        from genlm.model.source import find_model

        ours = ["-m", "genlm", "generate", "Once upon a time", "-m", "fable", "-s", "greedy", "--max-new-tokens", "1"]
        theirs = ["-c", PLAIN, str(find_model("fable").path)]
        self._command = [sys.executable, *(ours if library == "genlm" else theirs)]

    def prepare(self, work: Work) -> Run:
        """Return a function that does the work."""
        return lambda: subprocess.run(self._command, check=True, capture_output=True)
