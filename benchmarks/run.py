"""Decoding jobs, genlm against others, side by side in one run: `python benchmarks/run.py`.

The model has GPT-2's shape (124M parameters) and random weights from a seed, so nothing is downloaded. Every round
runs each contender of a job once, in turn, so that a machine whose speed drifts slows them alike; the table gives
medians, and ratios of medians. CTranslate2 takes part where it is installed (`pip install ctranslate2`).
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import torch  # noqa: E402

PROMPT = [7454, 2402, 257, 640, 612, 373, 257, 1310]
NEW = 64
Run = Callable[[], object]


@dataclass
class Job:
    """A job, who does it, and what genlm is to reach: (our contender, against, at least)."""

    name: str
    contenders: dict[str, Run]
    targets: list[tuple[str, str, float]]
    seconds: dict[str, list[float]] = field(default_factory=dict)


def main() -> None:
    """Run the jobs asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", nargs="*", help="numbers of jobs; all without any")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write every figure here too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine(arguments.threads))
    with tempfile.TemporaryDirectory() as scratch:
        jobs = make_jobs(Path(scratch), arguments.threads)
        chosen = [job for number, job in enumerate(jobs, 1) if not arguments.jobs or str(number) in arguments.jobs]
        for job in chosen:
            measure(job, arguments.rounds)
            print("\n".join(lines(job)), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({job.name: job.seconds for job in chosen}, indent=1))


def machine(threads: int) -> str:
    """Processor, threads and versions."""
    processor = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    names = ("torch", "transformers", "ctranslate2", "genlm")
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    return f"{processor}, {threads} threads; Python {platform.python_version()}, {versions}\n"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def measure(job: Job, rounds: int) -> None:
    """Time every contender once a round, after one run that does not count."""
    for run in job.contenders.values():
        run()
    for _ in range(rounds):
        for name, run in job.contenders.items():
            gc.collect()
            started = time.perf_counter()
            run()
            job.seconds.setdefault(name, []).append(time.perf_counter() - started)


def lines(job: Job) -> Iterator[str]:
    """The table of a job, and how its targets were met."""
    yield f"### {job.name}\n"
    yield "| | median s | min | max |"
    yield "|---|---|---|---|"
    for name, seconds in job.seconds.items():
        yield f"| {name} | {statistics.median(seconds):.3f} | {min(seconds):.3f} | {max(seconds):.3f} |"
    yield ""
    for ours, theirs, least in job.targets:
        if theirs in job.seconds:
            ratio = statistics.median(job.seconds[theirs]) / statistics.median(job.seconds[ours])
            yield f"{ours} against {theirs}: **{ratio:.2f} x** (wanted: {least} x)"
    yield ""


def make_jobs(scratch: Path, threads: int) -> list[Job]:
    """Every job of the table, with the contenders that are installed."""
    folder = make_model(scratch / "gpt2-shape")
    stock = Stock(folder)
    ours = {dtype: Ours(folder, dtype) for dtype in ("float32", "bfloat16", "int8")}
    theirs = ctranslate2_contenders(scratch, folder, threads)

    def contenders(rows: int, kind: str, stock_dtypes: tuple[str, ...] = ("float32", "bfloat16")) -> dict[str, Run]:
        runs: dict[str, Run] = {f"genlm {dtype}": engine.job(rows, kind) for dtype, engine in ours.items()}
        runs |= {f"transformers {dtype}": stock.job(rows, kind, dtype) for dtype in stock_dtypes}
        return runs | {name: engine.job(rows, kind) for name, engine in theirs.items()}

    beams = {
        "genlm float32": ours["float32"].beams(4),
        "genlm int8": ours["int8"].beams(4),
        "transformers float32": stock.beams(4),
    }
    return [
        Job(
            f"1 stream, greedy, {NEW} new tokens",
            contenders(1, "greedy") | {"transformers pipeline": stock.pipeline()},
            [
                ("genlm int8", "transformers float32", 3.0),
                ("genlm int8", "CTranslate2 int8", 1.0),
                ("genlm float32", "transformers float32", 1.25),
            ],
        ),
        Job(
            f"16 rows, top-p 0.9, {NEW} new tokens",
            contenders(16, "top-p", ("float32",)),
            [("genlm int8", "transformers float32", 5.0)],
        ),
        Job(
            f"16 rows, top-k 50, {NEW} new tokens",
            contenders(16, "top-k", ("float32",)),
            [("genlm int8", "CTranslate2 int8", 1.0)],
        ),
        Job(
            f"64 rows, greedy, {NEW} new tokens",
            contenders(64, "greedy", ("float32",)),
            [("genlm int8", "CTranslate2 int8", 1.0)],
        ),
        Job(f"4 beams, {NEW} new tokens", beams, [("genlm float32", "transformers float32", 1.5)]),
        Job(
            f"greedy, 4 beams, top-k 50 and top-p 0.9 of one prompt, up to 8 texts each, {NEW} new tokens",
            {"genlm compare float32": ours["float32"].compare(8), "transformers float32": stock.compare(8)},
            [("genlm compare float32", "transformers float32", 1 / 0.6)],
        ),
        Job(
            "start to first token, fable",
            {"genlm": first_token_by_genlm, "transformers": first_token_by_transformers},
            [("genlm", "transformers", 1 / 0.6)],
        ),
    ]


def make_model(folder: Path) -> Path:
    """GPT-2's shape with random weights, and a tokenizer that names each id, for the converters that want one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    vocabulary = {f"t{token}": token for token in range(50256)} | {"<|endoftext|>": 50256}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="t0", eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    ).save_pretrained(folder)
    return folder


class Ours:
    """genlm's engine; the end of text does not end a row, so that all do the same work."""

    def __init__(self, folder: Path, dtype: Any) -> None:
        from genlm.model.load import load_model
        from genlm.model.source import find_model

        self.model = load_model(find_model(str(folder)), dtype=dtype)

    def job(self, rows: int, kind: str) -> Run:
        """`rows` samples of one prompt."""
        return self._run(rows, kind)

    def beams(self, number: int) -> Run:
        """Beam search."""
        return self._run(1, f"beam:num_beams={number}")

    def compare(self, samples: int) -> Run:
        """What `genlm compare` does by default, with the metrics and the alternatives of every token."""
        from dataclasses import replace

        from genlm.decoding.strategy import Strategy
        from genlm.tasks.compare import DEFAULT_STRATEGIES, Comparing, Contender, Settings

        contenders = [Contender(Strategy.parse(spec), {}) for spec in DEFAULT_STRATEGIES]
        model = replace(self.model, eos_ids=frozenset())
        text = " ".join(f"t{token}" for token in PROMPT)

        def run() -> object:
            comparing = Comparing(model, [text], contenders, Settings(NEW, samples, 0))
            return list(comparing), comparing.result

        return run

    def _run(self, rows: int, spec: str, *, speculate: bool = False) -> Run:
        from genlm.decoding.loops import decode
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
            speculate=speculate,
        )
        return lambda: list(decode(self.model.network, request))


class Stock:
    """transformers' own generate."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.models = {
            name: AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, name)).eval()
            for name in ("float32", "bfloat16")
        }
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def job(self, rows: int, kind: str, dtype: str) -> Run:
        """`rows` copies of one prompt."""
        settings = {
            "greedy": {"do_sample": False},
            "top-p": {"do_sample": True, "top_p": 0.9, "top_k": 0},
            "top-k": {"do_sample": True, "top_k": 50},
        }[kind]
        return self._run(rows, dtype, **settings)

    def beams(self, number: int) -> Run:
        """Beam search."""
        return self._run(1, "float32", do_sample=False, num_beams=number)

    def compare(self, samples: int) -> Run:
        """The same strategies one after the other, as many texts of each as genlm compare makes."""
        runs = [
            self._run(1, "float32", do_sample=False),
            self._run(1, "float32", do_sample=False, num_beams=4, num_return_sequences=min(4, samples)),
            self._run(1, "float32", do_sample=True, top_k=50, num_return_sequences=samples),
            self._run(1, "float32", do_sample=True, top_p=0.9, top_k=0, num_return_sequences=samples),
        ]
        return lambda: [run() for run in runs]

    def pipeline(self) -> Run:
        """The text-generation pipeline, float32, greedy."""
        from transformers import pipeline

        made = pipeline("text-generation", model=self.models["float32"], tokenizer=self.tokenizer)
        text = " ".join(f"t{token}" for token in PROMPT)
        return lambda: made(text, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=50256)

    def _run(self, rows: int, dtype: str, **settings: Any) -> Run:
        ids = torch.tensor([PROMPT] * rows)
        mask = torch.ones_like(ids)

        def run() -> object:
            return self.models[dtype].generate(
                ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=50256, **settings
            )

        return run


class CTranslate2:
    """CTranslate2's generator on the same weights."""

    def __init__(self, folder: Path, compute: str, threads: int) -> None:
        import ctranslate2

        self.generator = ctranslate2.Generator(str(folder), compute_type=compute, intra_threads=threads)

    def job(self, rows: int, kind: str) -> Run:
        """`rows` copies of one prompt."""
        settings = {
            "greedy": {"beam_size": 1},
            "top-p": {"sampling_topk": 0, "sampling_topp": 0.9},
            "top-k": {"sampling_topk": 50},
        }[kind]
        prompts = [[f"t{token}" for token in PROMPT]] * rows
        return lambda: self.generator.generate_batch(
            prompts, max_length=NEW, min_length=NEW, include_prompt_in_result=False, **settings
        )


def ctranslate2_contenders(scratch: Path, folder: Path, threads: int) -> dict[str, CTranslate2]:
    """CTranslate2 in float32 and int8, where it is installed."""
    try:
        from ctranslate2.converters import TransformersConverter
    except ImportError:
        return {}
    made = {}
    for compute in ("float32", "int8"):
        target = scratch / f"ct2-{compute}"
        TransformersConverter(str(folder)).convert(str(target), quantization=compute)
        made[f"CTranslate2 {compute}"] = CTranslate2(target, compute, threads)
    return made


def first_token_by_genlm() -> object:
    """A process that prints one greedy token of the bundled model."""
    command = [sys.executable, "-m", "genlm", "generate", "Once upon a time", "-m", "fable", "-s", "greedy"]
    return subprocess.run([*command, "--max-new-tokens", "1"], check=True, capture_output=True)


PLAIN = """
import sys
from transformers import AutoTokenizer, AutoModelForCausalLM
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="float32")
inputs = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=1, do_sample=False)[0]))
"""


def first_token_by_transformers() -> object:
    """The same with a plain transformers script."""
    from genlm.model.source import find_model

    path = find_model("fable").path
    return subprocess.run([sys.executable, "-c", PLAIN, str(path)], check=True, capture_output=True)


if __name__ == "__main__":
    main()
