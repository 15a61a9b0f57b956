"""Compare genlm with other libraries on several decoding jobs: `python benchmarks/run.py`.

The model has GPT-2's shape (124M parameters) and seeded random weights, so nothing is downloaded. Every contender has
its own process. Every round runs each contender of a job once, so a drift in the machine's speed affects all alike. The
table shows medians and ratios of medians. CTranslate2 takes part if it is installed (`pip install ctranslate2`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from contenders import NEW, Contender, Work, prepare
from model import BY_ROWS, available_cpus, has_ctranslate2, machine


@dataclass
class Job:
    """A job, its contenders, and its targets: (a contender of genlm, another contender, the least speed-up)."""

    name: str
    contenders: dict[str, Work]
    targets: list[tuple[str, str, float]]
    seconds: dict[str, list[float]] = field(default_factory=dict)


def main() -> None:
    """Run the jobs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", nargs="*", help="numbers of the jobs to run; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--targets-only", action="store_true", help="run only contenders that are part of a target")
    parser.add_argument(
        "--cpu-time", action="store_true", help="measure CPU time, for a busy machine; use with --threads 1"
    )
    parser.add_argument("--json", type=Path, help="also write all measurements to this file")
    arguments = parser.parse_args()
    print(machine(arguments.threads))
    chosen = [job for number, job in enumerate(jobs(), 1) if not arguments.jobs or str(number) in arguments.jobs]
    for job in chosen:
        in_targets = {name for *pair, _ in job.targets for name in pair}
        job.contenders = {
            name: work
            for name, work in job.contenders.items()
            if (has_ctranslate2() or not name.startswith("CTranslate2"))
            and (name in in_targets or not arguments.targets_only)
        }
    with tempfile.TemporaryDirectory() as scratch:
        names = {name: None for job in chosen for name in job.contenders}
        prepare(Path(scratch), set(names))
        contenders = {
            name: Contender(name, Path(scratch), arguments.threads, cpu_time=arguments.cpu_time) for name in names
        }
        for job in chosen:
            measure(job, contenders, arguments.rounds)
            print("\n".join(lines(job)), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({job.name: job.seconds for job in chosen}, indent=1))


def measure(job: Job, contenders: dict[str, Contender], rounds: int) -> None:
    """Time every contender once in each round, after a warm-up round."""
    for counts in [False, *[True] * rounds]:
        for name, work in job.contenders.items():
            seconds = contenders[name].time(work)
            if counts:
                job.seconds.setdefault(name, []).append(seconds)


def lines(job: Job) -> Iterator[str]:
    """Yield the table of a job, and its speed-ups beside their targets."""
    yield f"### {job.name}\n"
    yield "| | median s | min | max |"
    yield "|---|---|---|---|"
    for name, seconds in job.seconds.items():
        yield f"| {name} | {statistics.median(seconds):.3f} | {min(seconds):.3f} | {max(seconds):.3f} |"
    yield ""
    for ours, theirs, least in job.targets:
        if theirs in job.seconds:
            ratio = statistics.median(job.seconds[theirs]) / statistics.median(job.seconds[ours])
            yield f"{ours} against {theirs}: **{ratio:.2f} x** (target: {least:.3g} x)"
    yield ""


def jobs() -> list[Job]:
    """Return all jobs."""
    return [
        Job(
            f"1 stream, greedy, {NEW} new tokens",
            every(Work("greedy"))
            | {"transformers bfloat16": Work("greedy"), "transformers pipeline": Work("pipeline")},
            [
                ("genlm int8", "transformers float32", 3.0),
                ("genlm int8", "CTranslate2 int8", 1.0),
                ("genlm float32", "transformers float32", 1.25),
            ],
        ),
        Job(
            f"16 rows, top-p 0.9, {NEW} new tokens",
            every(Work("top-p", 16)) | {BY_ROWS: Work("top-p", 16)},
            [("genlm int8", "transformers float32", 5.0)],
        ),
        Job(
            f"16 rows, top-k 50, {NEW} new tokens",
            every(Work("top-k", 16)) | {BY_ROWS: Work("top-k", 16)},
            [("genlm int8", "CTranslate2 int8", 1.0), ("genlm int8", BY_ROWS, 1.0)],
        ),
        Job(
            f"64 rows, greedy, {NEW} new tokens",
            every(Work("greedy", 64)) | {BY_ROWS: Work("greedy", 64)},
            [("genlm int8", "CTranslate2 int8", 1.0), ("genlm int8", BY_ROWS, 1.0)],
        ),
        Job(
            f"4 beams, {NEW} new tokens",
            dict.fromkeys(("genlm float32", "genlm int8", "transformers float32"), Work("beams", 4)),
            [("genlm float32", "transformers float32", 1.5)],
        ),
        Job(
            f"greedy, 4 beams, top-k 50 and top-p 0.9 of one prompt, up to 8 texts each, {NEW} new tokens",
            dict.fromkeys(("genlm float32", "transformers float32"), Work("compare", 8)),
            [("genlm float32", "transformers float32", 1 / 0.6)],
        ),
        Job(
            "start to first token, fable",
            dict.fromkeys(("genlm script", "transformers script"), Work("first token")),
            [("genlm script", "transformers script", 1 / 0.6)],
        ),
    ]


def every(work: Work) -> dict[str, Work]:
    """Return the same work for every library."""
    ours = [f"genlm {dtype}" for dtype in ("float32", "bfloat16", "int8")]
    return dict.fromkeys([*ours, "transformers float32", "CTranslate2 float32", "CTranslate2 int8"], work)


if __name__ == "__main__":
    main()
