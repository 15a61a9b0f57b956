"""The fuzz targets: for each interface, a Hypothesis strategy for cases of its input."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from support.batch import read_records, rows, write_lines
from support.cluster import make_all, make_plan, write_manifest
from support.driving import PRESETS, call

from fuzz.mutation import damaged_bytes, damaged_json, damaged_lines, encoded, nasty_texts
from genlm.cli.main import COMMANDS
from genlm.decoding.declaration import Kind
from genlm.decoding.kinds import KINDS

PROMPT = "Once upon a time there was a little fox"
# Other tests start processes and clusters.
SKIPPED_OPTIONS = {"--runner", "--address", "--workers", "--help", "--version", "--trust-remote-code"}
SKIPPED_COMMANDS = {"env", "train", "bench", "merge"}
NUMBERS = ("0", "1", "2", "0.5", "1.0")
# Valid values of options by their placeholders in the help; the others are numbers.
VALUES = {
    "DEVICE": ("cpu", "auto"),
    "DTYPE": ("auto", "float32", "int8", "bfloat16"),
    "ENGINE": ("genlm", "transformers"),
    "FIELD=VALUES": ("num_beams=1,2", "top_p=0.5,0.9"),
    "FILE": ("prompts.txt", "out.txt", "out.jsonl", "page.html", "-"),
    "FORMAT": ("text", "json", "jsonl", "csv", "markdown", "ids"),
    "HOW": ("error", "truncate-left", "record", "stop"),
    "ID:BIAS": ("7:1.5", "0:-100"),
    "LIST": (" fox, wolf", "the"),
    "NAME,...": ("perplexity", "length,ended"),
    "SPEC": ("greedy", "top-p:top_p=0.9", "beam", "contrastive", "mirostat", "dola"),
    "TEXT": ("the", "{prompt}"),
    "UNIT": ("line", "file"),
}


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
    """The folder of a tiny model, and a folder for valid files."""

    model: Path
    scratch: Path


def options(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """Every command with any of its options, each with a valid or a nasty value."""
    commands: dict[str, Any] = {name: row.load(name) for name, row in COMMANDS.items() if name not in SKIPPED_COMMANDS}
    short = ("--max-new-tokens", "3")
    base = {
        "generate": (PROMPT, *short),
        "compare": (PROMPT, *short, "-s", "greedy"),
        "batch": ("prompts.txt", "-o", "out.jsonl", *short),
        "strategies": (),
    }

    @st.composite
    def build(draw: st.DrawFn) -> Case:
        name = draw(st.sampled_from(sorted(commands)))
        declared = [each for each in commands[name].params if each.param_type_name == "option"]
        arguments = [name, *base.get(name, (PROMPT,))]
        if any("--model" in each.opts for each in declared):
            arguments += ["-m", str(fixtures.model)]
        allowed = [each for each in declared if not SKIPPED_OPTIONS & {*each.opts}]
        for option in draw(st.lists(st.sampled_from(allowed), max_size=4)):
            arguments.append(draw(st.sampled_from([*option.opts, *option.secondary_opts])))
            if not option.is_flag:
                valid = st.sampled_from(VALUES.get(option.metavar, NUMBERS))
                arguments.append(draw(st.one_of(valid, valid, nasty_texts)).replace("\0", "0"))
        return Case((tuple(arguments),), {"prompts.txt": b"The king\nThe fox\n"})

    return build()


def specs(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """Specs of every kind, with its own and other fields, and with damage to the text."""
    all_fields = {name: each for kind in KINDS.values() for name, each in kind.fields.items()}
    commands = (
        ("generate", PROMPT, "--max-new-tokens", "3", "--format", "json"),
        ("next", PROMPT, "--format", "json"),
        ("generate", PROMPT, "--print-python"),
    )

    @st.composite
    def assignment(draw: st.DrawFn, kind: Kind) -> str:
        own = st.sampled_from(sorted(kind.fields))
        name = draw(st.one_of(own, own, own, st.sampled_from(sorted(all_fields))))
        default = all_fields[name].format(all_fields[name].default)
        valid = st.sampled_from((default, default, "1", "2", "3", "0.5", "0.9", "true", "5:1.0", "the"))
        return f"{name}={draw(st.one_of(valid, valid, nasty_texts))}"

    @st.composite
    def build(draw: st.DrawFn) -> Case:
        kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
        assignments = draw(st.lists(assignment(kind), max_size=3))
        spec = kind.name + (":" if assignments else "") + ",".join(assignments)
        if draw(st.integers(0, 3)) == 0:
            spec = draw(damaged_bytes(encoded(spec))).decode("utf-8", "replace")
        command = draw(st.sampled_from(commands))
        return Case(((*command, "-m", str(fixtures.model), "-s", spec.replace("\0", "0")),))

    return build()


def presets(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """Files of presets."""
    deep = st.sampled_from((b"a = " + b"[" * 20_000, b"a" + b".a" * 20_000 + b" = 1", b"x = {" * 5000))
    files = st.one_of(damaged_bytes(PRESETS.read_bytes()), deep)
    name = st.sampled_from(("@storyteller", "@steady", "@wild", "@nope", "@", "@a"))
    command = ("generate", PROMPT, "--max-new-tokens", "2", "-m", str(fixtures.model), "--presets", "presets.toml")
    listed = ("strategies", "--presets", "presets.toml")
    return st.builds(lambda data, preset: Case(((*command, "-s", preset), listed), {"presets.toml": data}), files, name)


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
    source, output = fixtures.scratch / "rows.jsonl", fixtures.scratch / "records.jsonl"
    write_lines(source, *rows(3))
    command = ("batch", str(source), "-m", str(fixtures.model), "--max-new-tokens", "2", "--seed", "1")
    valid_output(*command, "-o", str(output))
    damaged = st.one_of(damaged_bytes(output.read_bytes()), damaged_lines(read_records(output)))
    return damaged.map(lambda data: Case(((*command, "-o", "out.jsonl", "--resume"),), {"out.jsonl": data}))


def parts(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """The parts of a batch on a cluster that are damaged before they are merged."""
    source, folder = fixtures.scratch / "cluster.jsonl", fixtures.scratch / "parts"
    write_lines(source, *rows(4))
    plan = make_plan(fixtures.model, [source], folder)
    make_all(plan)
    write_manifest(plan)
    valid_output("merge", str(folder), "-o", str(fixtures.scratch / "merged.jsonl"))
    files = {f"parts/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def damage(name: str) -> st.SearchStrategy[Case]:
        return damaged_bytes(files[name]).map(
            lambda data: Case((("merge", "parts", "-o", "out.jsonl"),), files | {name: data})
        )

    return st.sampled_from(sorted(files)).flatmap(damage)


def saved(fixtures: Fixtures) -> st.SearchStrategy[Case]:
    """Saved results for --replay and compare --from."""
    model = ("-m", str(fixtures.model))
    shared = (PROMPT, *model, "--max-new-tokens", "3", "--seed", "1", "--format", "json")
    result = json.loads(valid_output("generate", *shared, "-n", "2", "--trace"))
    comparison = json.loads(valid_output("compare", *shared, "-s", "greedy", "-s", "top-k"))
    # Durations differ between runs; equal seeds must give equal cases.
    result["timing"] = dict.fromkeys(result["timing"], 0.5)
    for row in comparison["rows"]:
        row["metrics"]["tokens_per_s"]["mean"] = 0.5
        row["cells"] = [cell | {"seconds": 0.5} for cell in row["cells"]]
    replays = damaged_json(result).map(
        lambda data: Case((("generate", "--replay", "result.json", *model),), {"result.json": data})
    )
    comparisons = st.builds(
        lambda data, form: Case((("compare", "--from", "saved.json", "--format", form),), {"saved.json": data}),
        damaged_json(comparison),
        st.sampled_from(("text", "json", "csv", "markdown")),
    )
    return st.one_of(replays, comparisons)


def valid_output(*arguments: str) -> str:
    """Return the standard output of a command that must succeed."""
    done = call(*arguments)
    assert done.code == 0, done.err
    return done.out


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
            # Damage the header, which has the sizes.
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


TARGETS: dict[str, Callable[[Fixtures], st.SearchStrategy[Case]]] = {
    each.__name__: each
    for each in (options, specs, presets, batches, records, parts, saved, models, texts, ids, trainings)
}
