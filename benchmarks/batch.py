"""Compare genlm with other libraries on a file of prompts of mixed length: `python benchmarks/batch.py`.

The file has 256 prompts of 8 to 200 tokens, with 8 to 128 new tokens each, drawn with top-p 0.9. The model has GPT-2's
shape (124M parameters) and seeded random weights. Every round runs each contender once, in its own process, so its peak
memory is its own and a drift in the machine's speed affects all alike. The others take batches of a fixed size, the
best of several tried on part of the prompts. They continue a batch until its longest row is complete; only the
requested tokens count. CTranslate2 takes part if it is installed (`pip install ctranslate2`).

`python benchmarks/batch.py --rows 1000000` instead measures how long it takes to resume a finished file of a million
rows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from model import BY_ROWS, available_cpus, convert, has_ctranslate2, machine, make_model, text_of

warnings.simplefilter("ignore")

SHORTEST, LONGEST, LEAST_NEW, MOST_NEW = 8, 200, 8, 128
VOCABULARY = 50_000
# The number of prompts on which batch sizes are tried.
TRIED = 48
# (genlm, other contender, least speed-up, greatest share of its memory)
TARGETS = [
    ("genlm float32", "transformers pipeline", 3.0, 1.3),
    ("genlm int8", "CTranslate2 int8", 1.2, None),
    ("genlm int8", BY_ROWS, 1.2, None),
]


@dataclass(frozen=True)
class Prompt:
    """A prompt, and the number of new tokens to generate."""

    ids: list[int]
    new: int


@dataclass(frozen=True)
class Measured:
    """A contender's run: seconds without loading, requested tokens, peak memory in bytes."""

    seconds: float
    tokens: int
    peak: int

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def main() -> None:
    """Run the contenders and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--only", action="append", help="run only this contender; may be repeated")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--rows", type=int, help="instead resume a finished file of N rows", metavar="N")
    parser.add_argument("--run", nargs=3, metavar=("CONTENDER", "SIZE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rows:
        print("\n".join(resume_finished(arguments.rows)))
        return
    if arguments.run:
        contender, size, folder = arguments.run
        print(json.dumps(run(contender, int(size), Path(folder), arguments.prompts, arguments.threads)))
        return
    print(machine(arguments.threads))
    with tempfile.TemporaryDirectory() as folder:
        names = arguments.only or available()
        print("\n".join(compare(names, arguments, Path(folder))))


def available() -> list[str]:
    """Return the names of the contenders that are installed."""
    names = ["genlm float32", "transformers pipeline", "genlm int8"]
    return names + (["CTranslate2 int8", BY_ROWS] if has_ctranslate2() else [])


def compare(names: list[str], arguments: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Run the contenders and yield the lines of the table."""
    make_model(folder / "model")
    if any(name.startswith("CTranslate2") for name in names):
        convert(folder / "model", folder / "ct2", "int8")

    def measure(name: str, size: int, prompts: int) -> Measured:
        command = [sys.executable, __file__, "--run", name, str(size), str(folder)]
        command += ["--prompts", str(prompts), "--threads", str(arguments.threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return Measured(*json.loads(done.stdout.splitlines()[-1]))

    sizes = {name: 0 for name in names if name.startswith("genlm")}
    for name in set(names) - sizes.keys():
        tried = {size: measure(name, size, TRIED).speed for size in arguments.sizes}
        sizes[name] = max(tried, key=lambda size: tried[size])
        yield f"{name}: " + ", ".join(f"{speed:.0f}/s in batches of {size}" for size, speed in tried.items())
    rounds = [{name: measure(name, sizes[name], arguments.prompts) for name in names} for _ in range(arguments.rounds)]
    yield f"\n| {arguments.prompts} ragged prompts | batch | tokens/s | min | max | peak memory |"
    yield "|---|---|---|---|---|---|"
    for name in names:
        speeds = [each[name].speed for each in rounds]
        size = sizes[name] or "auto"
        peak = median_peak(rounds, name)
        yield (
            f"| {name} | {size} | {statistics.median(speeds):.0f} | {min(speeds):.0f} | {max(speeds):.0f} "
            f"| {peak / 2**20:.0f} MiB |"
        )
    yield ""
    for ours, theirs, faster, memory in TARGETS:
        if {ours, theirs} <= set(names):
            ratio = statistics.median(each[ours].speed / each[theirs].speed for each in rounds)
            yield f"{ours} against {theirs}: **{ratio:.2f} x** (target: {faster} x)"
            if memory is not None:
                share = median_peak(rounds, ours) / median_peak(rounds, theirs)
                yield f"peak memory of {ours} against {theirs}: **{share:.2f} x** (target: at most {memory} x)"


def median_peak(rounds: list[dict[str, Measured]], name: str) -> float:
    """Return the median of a contender's peak memory, in bytes."""
    return statistics.median(each[name].peak for each in rounds)


def make_prompts(count: int) -> list[Prompt]:
    """Return the same prompts every time."""
    dice = random.Random(0)
    return [
        Prompt(
            [dice.randrange(VOCABULARY) for _ in range(dice.randint(SHORTEST, LONGEST))],
            dice.randint(LEAST_NEW, MOST_NEW),
        )
        for _ in range(count)
    ]


def run(contender: str, size: int, folder: Path, count: int, threads: int) -> tuple[float, int, int]:
    """Run a contender in this process and return seconds, tokens and peak memory in bytes."""
    import torch

    torch.set_num_threads(threads)
    prompts = make_prompts(count)
    warm = make_prompts(4)
    if contender.startswith("genlm"):
        job = with_genlm(folder / "model", contender.removeprefix("genlm "))
    elif contender == "transformers pipeline":
        job = with_pipeline(folder / "model", size)
    else:
        job = with_ctranslate2(folder / "ct2", size, threads, threads if contender == BY_ROWS else 1)
    job(warm)
    started = time.perf_counter()
    tokens = job(prompts)
    seconds = time.perf_counter() - started
    return seconds, tokens, peak_memory()


def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    # The value of `resource` would include the peak of the parent process.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


Job = Callable[[list[Prompt]], int]


def with_genlm(folder: Path, dtype: str) -> Job:
    """Return a job for the engine of `genlm batch`, which chooses the batch size itself."""
    from genlm.decoding.strategy import Strategy
    from genlm.model.load import load_model
    from genlm.model.source import find_model
    from genlm.tasks.batch.jobs import BatchSettings, run_jobs
    from genlm.tasks.batch.jobs import Job as Row
    from genlm.tasks.generate import Limits

    model = load_model(find_model(str(folder)), device="cpu", dtype=dtype)  # type: ignore[arg-type]
    strategy = Strategy.parse("top-p:top_p=0.9")

    def job(prompts: list[Prompt]) -> int:
        rows = (
            Row(number, text_of(prompt.ids), BatchSettings(strategy, 0, Limits(prompt.new)), {}, "", number, None)
            for number, prompt in enumerate(prompts)
        )
        return sum(len(record.completions[0].token_ids) for record in run_jobs(model, rows))

    return job


def with_pipeline(folder: Path, size: int) -> Job:
    """Return a job for the text-generation pipeline of transformers, in float32."""
    from transformers import AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", pad_token="<|endoftext|>")
    made = pipeline("text-generation", model=str(folder), tokenizer=tokenizer, dtype="float32", device="cpu")

    def job(prompts: list[Prompt]) -> int:
        for some in batches(prompts, size):
            made(
                [text_of(prompt.ids) for prompt in some],
                batch_size=size,
                max_new_tokens=max(prompt.new for prompt in some),
                do_sample=True,
                top_p=0.9,
                top_k=0,
                return_full_text=False,
            )
        return sum(prompt.new for prompt in prompts)

    return job


def with_ctranslate2(folder: Path, size: int, threads: int, at_once: int) -> Job:
    """Return a job for CTranslate2 in int8, with `at_once` batches in parallel that share the threads."""
    import ctranslate2

    generator = ctranslate2.Generator(
        str(folder), compute_type="int8", inter_threads=at_once, intra_threads=threads // at_once
    )

    def job(prompts: list[Prompt]) -> int:
        for some in batches(prompts, size * at_once):
            generator.generate_batch(
                [text_of(prompt.ids).split() for prompt in some],
                max_batch_size=size,
                max_length=max(prompt.new for prompt in some),
                include_prompt_in_result=False,
                sampling_topk=0,
                sampling_topp=0.9,
            )
        return sum(prompt.new for prompt in prompts)

    return job


def batches(prompts: list[Prompt], size: int) -> Iterator[list[Prompt]]:
    """Yield the prompts in groups of `size`."""
    return (prompts[at : at + size] for at in range(0, len(prompts), size))


def resume_finished(rows: int) -> Iterator[str]:
    """Resume finished files of growing size and yield a table of seconds and peak memory."""
    yield "| rows | seconds | peak memory |"
    yield "|---|---|---|"
    for count in (rows // 100, rows // 10, rows):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_finished(folder, count)
            command = [sys.executable, "-m", "genlm", "batch", "in.jsonl", "-o", "out.jsonl", "-m", "fable", "--resume"]
            started = time.perf_counter()
            _, status, used = os.wait4(subprocess.Popen(command, cwd=folder).pid, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            yield f"| {count:,} | {time.perf_counter() - started:.1f} | {used.ru_maxrss / 1024:.0f} MiB |"


def write_finished(folder: Path, rows: int) -> None:
    """Write prompts and their records, all of them copies of one record from a real run."""
    (folder / "in.jsonl").write_text('{"id": "0", "prompt": "Once upon a time"}\n')
    command = [sys.executable, "-m", "genlm", "batch", "in.jsonl", "-o", "out.jsonl", "-m", "fable", "-q"]
    subprocess.run(command, cwd=folder, check=True)
    record = json.loads((folder / "out.jsonl").read_text())
    with (folder / "in.jsonl").open("w") as prompts, (folder / "out.jsonl").open("w") as records:
        for number in range(rows):
            prompts.write(json.dumps({"id": str(number), "prompt": record["prompt"]}) + "\n")
            records.write(json.dumps(record | {"id": str(number)}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
