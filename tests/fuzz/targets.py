"""What is fuzzed: for each interface, how a case of its input is made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from support.batch import rows
from support.cluster import make_all, make_plan
from support.driving import PRESETS, call

from fuzz.mutation import (
    damaged_bytes,
    damaged_json,
    damaged_lines,
    encoded,
    nasty_texts,
)
from genlm.cli.main import COMMANDS
from genlm.decoding.kinds import KINDS

PROMPT = "Once upon a time there was a little fox"
# Runs on other machines and processes have tests that start them on purpose.
SKIPPED_OPTIONS = {"--runner", "--address", "--workers", "--help", "--version", "--trust-remote-code"}
SKIPPED_COMMANDS = {"env", "train", "bench", "merge"}
# Values that some option accepts.
PLAUSIBLE_VALUES = (
    *("0", "1", "2", "0.5", "the", "prompts.txt", "out.txt", "top-p:top_p=0.9", "beam", "num_beams=1,2", "7:1.5"),
    *(
        "text",
        "json",
        "csv",
        "markdown",
        "jsonl",
        "genlm",
        "transformers",
        "cpu",
        "auto",
        "float32",
        "int8",
        "bfloat16",
    ),
    *("error", "truncate-left", "stop", "skip", "line", "file"),
)


@dataclass(frozen=True)
class Case:
    """Commands that run one after the other in a folder that holds `files`."""

    commands: tuple[tuple[str, ...], ...]
    files: dict[str, bytes] = field(default_factory=dict)
    stdin: bytes = b""

    def __str__(self) -> str:
        return "; ".join(shlex.join(["genlm", *command])[:2000] for command in self.commands)


@dataclass(frozen=True)
class Fixtures:
    """What all cases share: the folder of a tiny model, and a folder for valid files that are made once."""

    model: Path
    scratch: Path

    @cache  # noqa: B019 - the fixtures live as long as the process
    def made(self, name: str, *arguments: str) -> bytes:
        """Return the file `name` that a command writes to the scratch folder, or its output if it writes none."""
        done = call(*(argument.replace("{scratch}", str(self.scratch)) for argument in arguments))
        assert done.code == 0, done.err
        path = self.scratch / name
        return path.read_bytes() if path.exists() else done.out.encode()

    def write(self, name: str, data: bytes) -> str:
        """Write a valid file to the scratch folder and return its path."""
        path = self.scratch / name
        path.write_bytes(data)
        return str(path)


Target = Callable[[Fixtures], st.SearchStrategy[Case]]


def options(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """Every command with any of its options, each with a sensible or a nasty value."""
    commands: dict[str, Any] = {name: row.load(name) for name, row in COMMANDS.items() if name not in SKIPPED_COMMANDS}
    plausible = st.sampled_from(PLAUSIBLE_VALUES)
    subject = {"compare": (PROMPT,), "batch": ("prompts.txt", "-o", "out.jsonl"), "strategies": ()}

    @st.composite
    def build(draw: st.DrawFn) -> Case:
        name = draw(st.sampled_from(sorted(commands)))
        switches = [each for each in commands[name].params if each.param_type_name == "option"]
        arguments = [name, *subject.get(name, (PROMPT,))]
        if any("--model" in each.opts for each in switches):
            arguments += ["-m", str(fixtures.model)]
        for _ in range(draw(st.integers(0, 4))):
            option = draw(st.sampled_from(switches))
            spelled = max(option.opts, key=len)
            if spelled in SKIPPED_OPTIONS:
                continue
            arguments.append(spelled)
            if not option.is_flag:
                arguments.append(draw(st.one_of(plausible, nasty_texts)).replace("\0", "0"))
        return Case((tuple(arguments),), {"prompts.txt": b"The king\nThe fox\n"})

    return build()


def specs(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """Specs of every kind, with fields that it has or has not, and damage to the text."""
    fields = sorted({name for kind in KINDS.values() for name in kind.fields})

    @st.composite
    def build(draw: st.DrawFn) -> Case:
        kind = draw(st.sampled_from(sorted(KINDS)))
        own = st.sampled_from(sorted(KINDS[kind].fields))
        values = st.one_of(st.sampled_from(("1", "2", "3", "0.5", "0.9", "true", "5:1.0", "the")), nasty_texts)
        named = st.tuples(st.one_of(own, own, st.sampled_from(fields)), values)
        given = draw(st.lists(named, max_size=3))
        spec = f"{kind}:" + ",".join(f"{name}={value}" for name, value in given)
        if draw(st.booleans()):
            spec = draw(damaged_bytes(encoded(spec))).decode("utf-8", "replace")
        spec = spec.replace("\0", "0")
        command = draw(
            st.sampled_from(
                (
                    ("generate", PROMPT, "--max-new-tokens", "3", "--format", "json"),
                    ("next", PROMPT, "--format", "json"),
                    ("generate", PROMPT, "--print-python"),
                )
            )
        )
        return Case(((*command, "-m", str(fixtures.model), "-s", spec),))

    return build()


def presets(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """Files of presets."""
    deep = st.sampled_from((b"a = " + b"[" * 20_000, b"a" + b".a" * 20_000 + b" = 1", b"x = {" * 5000))
    files = st.one_of(damaged_bytes(PRESETS.read_bytes()), deep)
    name = st.sampled_from(("@storyteller", "@steady", "@wild", "@nope", "@", "@a"))
    command = (
        "generate",
        PROMPT,
        "--max-new-tokens",
        "2",
        "-m",
        str(fixtures.model),
        "--presets",
        "presets.toml",
        "-s",
    )
    listed = ("strategies", "--presets", "presets.toml")
    return st.builds(
        lambda data, preset: Case(((*command, preset), listed), {"presets.toml": data}),
        files,
        name,
    )


def batches(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """Files of prompts in every format, to every format of output, and again with --resume."""
    objects = [each | {"max_new_tokens": 2, "note": "=1+1"} for each in rows(4)]
    table = b'id,prompt,note\n1,Once upon a time,a\n2,The king,"b\nc"\n3,fox,-1\n'
    inputs = st.one_of(
        damaged_lines(objects).map(lambda data: ("in.jsonl", data)),
        damaged_bytes(table).map(lambda data: ("in.csv", data)),
        damaged_bytes(table.replace(b",", b"\t")).map(lambda data: ("in.tsv", data)),
        damaged_bytes(b"Once upon a time\nThe king\n\nfox\n").map(lambda data: ("in.txt", data)),
        damaged_bytes(parquet(objects)).map(lambda data: ("in.parquet", data)),
    )
    outputs = st.sampled_from(("out.jsonl", "out.csv", "out.tsv", "out.parquet", "out.jsonl.gz"))
    choices = st.sampled_from(((), ("--on-error", "skip"), ("--template", "{prompt} and {note}"), ("-n", "2")))

    def build(file: tuple[str, bytes], output: str, chosen: tuple[str, ...]) -> Case:
        command = ("batch", file[0], "-o", output, "-m", str(fixtures.model), "--max-new-tokens", "3", *chosen)
        return Case((command, (*command, "--resume")), {file[0]: file[1]})

    return st.builds(build, inputs, outputs, choices)


def parquet(objects: list[dict[str, Any]]) -> bytes:
    """Return the objects as a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(objects), sink)
    return sink.getvalue().to_pybytes()


def records(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """The output of a batch that is damaged before --resume."""
    lines = b"".join(json.dumps(each).encode() + b"\n" for each in rows(3))
    source = fixtures.write("rows.jsonl", lines)
    command = ("batch", source, "-m", str(fixtures.model), "--max-new-tokens", "2", "--seed", "1")
    made = fixtures.made("records.jsonl", *command, "-o", "{scratch}/records.jsonl")
    objects = [json.loads(line) for line in made.splitlines()]
    damaged = st.one_of(damaged_bytes(made), damaged_lines(objects))
    return damaged.map(
        lambda data: Case(((*command, "-o", "out.jsonl", "--resume"),), {"out.jsonl": data}),
    )


def parts(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """The parts of a batch on a cluster that are damaged before they are merged."""
    source = Path(fixtures.write("cluster.jsonl", b"".join(json.dumps(each).encode() + b"\n" for each in rows(4))))
    folder = fixtures.scratch / "parts"
    if not folder.exists():
        make_all(make_plan(fixtures.model, [source], folder))
    files = {f"parts/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def damage(name: str) -> st.SearchStrategy[Case]:
        return damaged_bytes(files[name]).map(
            lambda data: Case((("merge", "parts", "-o", "out.jsonl"),), files | {name: data}),
        )

    return st.sampled_from(sorted(files)).flatmap(damage)


def saved(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """Saved results for --replay and compare --from."""
    model = ("-m", str(fixtures.model))
    result = fixtures.made(
        "-", "generate", PROMPT, *model, "-n", "2", "--max-new-tokens", "3", "--trace", "--format", "json"
    )
    comparison = fixtures.made(
        "-", "compare", PROMPT, *model, "-s", "greedy", "-s", "top-k", "--max-new-tokens", "3", "--format", "json"
    )
    replays = damaged_json(json.loads(result)).map(
        lambda data: Case((("generate", "--replay", "result.json", *model),), {"result.json": data})
    )
    formats = st.sampled_from(("text", "json", "csv", "markdown"))
    comparisons = st.builds(
        lambda data, form: Case((("compare", "--from", "saved.json", "--format", form),), {"saved.json": data}),
        damaged_json(json.loads(comparison)),
        formats,
    )
    return st.one_of(replays, comparisons)


def models(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """The folder of a model with damaged files."""
    files = {path.name: path.read_bytes() for path in fixtures.model.iterdir()}
    command = st.sampled_from(
        (
            ("generate", PROMPT, "--max-new-tokens", "2", "--format", "json"),
            ("next", PROMPT, "--format", "json"),
            ("score", PROMPT, "--format", "json"),
            ("tokenize", PROMPT, "--format", "json"),
        )
    )

    @st.composite
    def build(draw: st.DrawFn) -> Case:
        name = draw(st.sampled_from(sorted(files)))
        if name.endswith(".json"):
            data = draw(damaged_json(json.loads(files[name])))
        else:
            # The header, which says how large everything is, is at the start.
            head = draw(damaged_bytes(files[name][:2000]))
            data = head + files[name][2000:]
        damaged = {f"model/{other}": content for other, content in (files | {name: data}).items()}
        return Case(((*draw(command), "-m", "model"),), damaged)

    return build()


def texts(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """Any text for the commands that read one, as an argument, a file or standard input."""
    any_text = st.one_of(st.text(max_size=40), nasty_texts)
    forms = st.sampled_from(("text", "json"))

    def build(text: str, form: str, name: str) -> Case:
        model = ("-m", str(fixtures.model), "--format", form)
        if name in ("score", "tokenize"):
            return Case(((name, "-", *model),), stdin=encoded(text)[:60_000])
        clean = text.replace("\0", "").encode("utf-8", "replace").decode()
        extra = ("--max-new-tokens", "2") if name == "generate" else ()
        return Case(((name, *extra, *model, "--", clean),))

    return st.builds(build, any_text, forms, st.sampled_from(("score", "tokenize", "generate", "next", "attention")))


def ids(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """Token ids to decode."""
    numbers = st.one_of(st.integers(-5, 400).map(str), nasty_texts)
    lists = st.lists(numbers, max_size=5).map(" ".join)
    return st.builds(
        lambda data, form: Case(
            (("tokenize", "--decode", "-", "-m", str(fixtures.model), "--format", form),), stdin=encoded(data)[:60_000]
        ),
        lists,
        st.sampled_from(("text", "json")),
    )


def trainings(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """Texts to train on."""
    text = (PROMPT + ".\n").encode() * 40
    lines = [{"text": PROMPT * 3}] * 12
    inputs = st.one_of(
        damaged_bytes(text).map(lambda data: ("in.txt", data)),
        damaged_lines(lines).map(lambda data: ("in.jsonl", data)),
    )
    sizes = ("--n-layer", "1", "--n-embd", "8", "--n-head", "1", "--n-positions", "8", "--max-steps", "1")
    return inputs.map(
        lambda file: Case((("train", file[0], "-o", "run", "--tokenizer", "char", *sizes),), {file[0]: file[1]})
    )


TARGETS: dict[str, Target] = {
    each.__name__: each
    for each in (options, specs, presets, batches, records, parts, saved, models, texts, ids, trainings)
}
