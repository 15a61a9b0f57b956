"""Measure the cost of Ray: the same job with and without a local Ray: `python benchmarks/cluster.py`.

Every round runs each contender once, as a separate command, and measures it from start to end, including the start and
the end of Ray; the table shows medians. Nothing is downloaded. One worker uses all processors, like the plain run; two
workers use half each. In the runs with one thread, Ray's own processes have the other processors to themselves.
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
from dataclasses import dataclass
from pathlib import Path

from model import available_cpus


@dataclass(frozen=True)
class Contender:
    """The options of a run, its total number of threads, and the run that it is compared with."""

    options: list[str]
    threads: int
    against: str = "plain"


WORDS = ["the king", "a wolf", "fox", "wood", "once upon", "time", "little", "old", "said", "went into", "three sons"]


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=6000, help="number of prompts, enough for two minutes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="fable")
    parser.add_argument("--cpus", type=int, default=available_cpus())
    parser.add_argument("--only", action="append", help="run only this contender; may be repeated")
    arguments = parser.parse_args()
    contenders = {
        "plain": Contender([], arguments.cpus),
        "ray, 1 worker": Contender(ray(1, arguments.cpus), arguments.cpus),
        "ray, 2 workers": Contender(ray(2, arguments.cpus // 2), arguments.cpus),
        "plain, 1 thread": Contender([], 1, "plain, 1 thread"),
        "ray, 1 worker, 1 thread": Contender(ray(1, 1), 1, "plain, 1 thread"),
    }
    if arguments.only:
        contenders = {name: contenders[name] for name in arguments.only}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as scratch:
        prompts = write_prompts(Path(scratch), arguments.rows)
        for number in range(arguments.rounds):
            for name, contender in contenders.items():
                output = Path(scratch) / f"{number}-{name.replace(' ', '-')}"
                taken = run(prompts, output, arguments.model, contender)
                seconds[name].append(taken)
                print(f"round {number + 1}  {name:24} {taken:7.1f} s", file=sys.stderr, flush=True)
    print(table(seconds, contenders, arguments.rows))


def ray(workers: int, cpus: int) -> list[str]:
    """Return the options of a run on Ray."""
    return ["--runner", "ray", "--workers", str(workers), "--cpus-per-worker", str(cpus)]


def write_prompts(folder: Path, rows: int) -> Path:
    """Write prompts of 8 to 80 words or phrases, with 8 to 96 new tokens each; the same every time."""
    draw = random.Random(0)
    path = folder / "prompts.jsonl"
    with path.open("w") as stream:
        for number in range(rows):
            prompt = " ".join(draw.choice(WORDS) for _ in range(draw.randint(8, 80)))
            row = {"id": number, "prompt": prompt, "max_new_tokens": draw.randint(8, 96)}
            stream.write(json.dumps(row) + "\n")
    return path


def run(prompts: Path, output: Path, model: str, contender: Contender) -> float:
    """Run the command and return how many seconds it took."""
    target = output if contender.options else output.with_suffix(".jsonl")
    command = [sys.executable, "-m", "genlm", "batch", str(prompts), "-o", str(target), "-m", model, "--seed", "1"]
    # Ray sets the threads of its workers itself.
    threads = {} if contender.options else {"OMP_NUM_THREADS": str(contender.threads)}
    command += ["--device", "cpu", "--quiet", *contender.options]
    started = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, **threads})
    return time.perf_counter() - started


def table(seconds: dict[str, list[float]], contenders: dict[str, Contender], rows: int) -> str:
    """Return a table of medians, each also relative to the plain run with as many threads."""
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    lines = ["| run | seconds | rows/s | against the plain run |", "|---|---|---|---|"]
    for name, median in medians.items():
        plain = medians.get(contenders[name].against, median)
        lines.append(f"| {name} | {median:.1f} | {rows / median:.1f} | {median / plain:.2f} x its time |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
