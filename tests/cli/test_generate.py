"""`genlm generate` as it is used: prompts, strategies, counts, forms of output."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support.driving import Done, call, genlm, read_first, save_endless, start
from support.gpt2 import edit_json
from support.systems import needs_unix
from tokenizers import Tokenizer

from genlm.decoding.strategy import Strategy

PRESETS = Path(__file__).parents[2] / "prompts" / "strategies.toml"


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_endless(tmp_path_factory.mktemp("models") / "endless")


def run(model: Path, *arguments: str | Path, stdin: bytes = b"") -> Done:
    return call("generate", "-m", model, *arguments, stdin=stdin)


def as_record(model: Path, *arguments: str | Path, stdin: bytes = b"") -> dict[str, Any]:
    """The object that `--format json` prints."""
    done = run(model, *arguments, "--format", "json", stdin=stdin)
    assert done.code == 0, done.err
    record = json.loads(done.out, parse_constant=pytest.fail)
    assert isinstance(record, dict)
    return record


class TestPrompt:
    def test_an_argument_a_pipe_and_a_dash_give_the_same(self, tiny: Path) -> None:
        shared = ("-s", "greedy", "--max-new-tokens", "5")
        texts = {
            run(tiny, "Once upon", *shared).out,
            run(tiny, *shared, stdin=b"Once upon\n").out,
            run(tiny, "-", *shared, stdin=b"Once upon").out,
        }
        (text,) = texts
        assert text.startswith("Once upon")
        assert len(text) > len("Once upon\n")

    def test_both_at_once_is_a_usage_error(self, tiny: Path) -> None:
        done = run(tiny, "Once", stdin=b"upon")
        assert (done.code, done.out) == (2, "")
        assert "which is it" in done.error()

    @pytest.mark.parametrize("arguments", [(), ("-",), ("",)])
    def test_an_empty_prompt_starts_from_the_start_token(self, tiny: Path, arguments: tuple[str, ...]) -> None:
        record = as_record(tiny, *arguments, "--max-new-tokens", "2")
        assert record["prompt"] == ""
        assert record["prompt_token_ids"] == [json.loads((tiny / "config.json").read_text())["bos_token_id"]]

    def test_an_empty_prompt_to_a_model_without_a_start_is_refused(self, copied: Path) -> None:
        edit_json(copied / "config.json", bos_token_id=None, eos_token_id=None)
        edit_json(copied / "tokenizer_config.json", bos_token=None, eos_token=None)
        (copied / "generation_config.json").unlink()
        tokenizer = (copied / "tokenizer.json").read_text().replace("<|endoftext|>", "<|other|>")
        (copied / "tokenizer.json").write_text(tokenizer)
        done = run(copied)
        assert (done.code, done.out) == (1, "")
        assert "the prompt is empty" in done.error()

    def test_one_that_is_too_long_states_both_counts_or_is_cut(self, tiny: Path) -> None:
        prompt = "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 3
        count = len(Tokenizer.from_file(str(tiny / "tokenizer.json")).encode(prompt).ids)
        done = run(tiny, prompt, "--max-new-tokens", "10")
        assert done.code == 1
        assert done.error() == (f"the prompt has {count} tokens, with 10 new ones beyond the model's context of 64")
        assert done.hint().startswith("only the last 54 tokens of the prompt fit")
        record = as_record(tiny, prompt, "--max-new-tokens", "10", "--overflow", "truncate-left")
        assert len(record["prompt_token_ids"]) == 54
        assert record["prompt"] == prompt


class TestStrategy:
    def test_the_default_is_top_p(self, tiny: Path) -> None:
        assert as_record(tiny, "Once", "--max-new-tokens", "1")["strategy"] == {
            "name": "top-p:top_p=0.9",
            "kind": "top-p",
            "spec": "top-p:top_p=0.9",
            "fields": Strategy.parse("top-p:top_p=0.9").to_json()["fields"],
        }

    @pytest.mark.parametrize(
        ("options", "spec"),
        [
            (["--top-k", "5"], "top-k:top_k=5"),
            (["--top-p", "0.5"], "top-p:top_p=0.5"),
            (["--top-k", "5", "--top-p", "0.5"], "top-p:top_p=0.5,top_k=5"),
            (["--min-p", "0.1", "--top-k", "40"], "min-p:min_p=0.1,top_k=40"),
            (["--typical-p", "0.9"], "typical:typical_p=0.9"),
            (["--epsilon-cutoff", "0.001"], "epsilon:epsilon_cutoff=0.001"),
            (["--eta-cutoff", "0.001"], "eta:eta_cutoff=0.001"),
            (["--temperature", "0.7"], "top-p:top_p=0.9,temperature=0.7"),
            (["--num-beams", "3"], "beam:num_beams=3"),
            (["--length-penalty", "0.8"], "beam:num_beams=4,length_penalty=0.8"),
            (["--repetition-penalty", "1.3"], "top-p:top_p=0.9,repetition_penalty=1.3"),
            (["-s", "greedy", "--no-repeat-ngram-size", "2"], "greedy:no_repeat_ngram_size=2"),
            (["-s", "sample", "--temperature", "0.7"], "sample:temperature=0.7"),
            (["-s", "beam:num_beams=2,length_penalty=0.8"], "beam:num_beams=2,length_penalty=0.8"),
            (["-s", "top-p:top_p=0.8", "--top-k", "7"], "top-p:top_p=0.8,top_k=7"),
            (["--bad-word", "a, b", "--bad-word", "king"], "top-p:top_p=0.9,bad_words=a%2C b|king"),
            (["-s", "greedy:bad_words=fox", "--bad-word", "king|"], "greedy:bad_words=fox|king%7C"),
            (["--logit-bias", "9:1", "--logit-bias", "5:-2"], "top-p:top_p=0.9,logit_bias=5:-2.0;9:1.0"),
            (["-s", "beam:logit_bias=7:1", "--logit-bias", "5:-2"], "beam:num_beams=4,logit_bias=5:-2.0;7:1.0"),
            (["--top-k", "99999999999999999999"], "top-k:top_k=99999999999999999999"),
        ],
    )
    def test_a_spec_and_flags_give_the_kind_and_its_fields(self, tiny: Path, options: list[str], spec: str) -> None:
        assert as_record(tiny, "Once", "--max-new-tokens", "1", *options)["strategy"]["spec"] == spec

    def test_a_preset_has_its_name_and_flags_change_it(self, tiny: Path) -> None:
        shared = ("Once", "--max-new-tokens", "1", "--presets", PRESETS, "-s", "@storyteller")
        strategy = as_record(tiny, *shared)["strategy"]
        assert (strategy["name"], strategy["spec"]) == ("storyteller", "top-p:top_p=0.92,temperature=0.8")
        assert as_record(tiny, *shared, "--top-p", "0.5")["strategy"]["spec"] == "top-p:top_p=0.5,temperature=0.8"

    @pytest.mark.parametrize(
        "options",
        [["--temperature", "0"], ["-s", "top-k:top_k=3,temperature=0"], ["--top-p", "0.5", "--temperature", "0"]],
    )
    def test_a_temperature_of_zero_is_greedy_and_said_so(self, tiny: Path, options: list[str]) -> None:
        shared = ("Once", "--max-new-tokens", "8")
        done = run(tiny, *shared, *options)
        assert done.out == run(tiny, *shared, "-s", "greedy").out
        assert "temperature=0 means greedy" in done.err
        assert "temperature=0 means greedy" not in run(tiny, *shared, *options, "--quiet").err

    def test_greedy_asked_for_by_name_is_not_explained(self, tiny: Path, tmp_path: Path) -> None:
        (tmp_path / "presets.toml").write_text('[plain]\nkind = "greedy"\n')
        for options in [("-s", "greedy"), ("-s", "@plain", "--presets", tmp_path / "presets.toml")]:
            done = run(tiny, "Once", "--max-new-tokens", "1", *options)
            assert done.code == 0
            assert "means greedy" not in done.err


class TestCounts:
    def test_samples_come_in_order_with_a_plain_line_between(self, tiny: Path) -> None:
        shared = ("Once", "--max-new-tokens", "6", "--seed", "5", "-n", "4", "-s", "top-k:top_k=20", "--stop", "\n")
        texts = [completion["text"] for completion in as_record(tiny, *shared)["completions"]]
        assert run(tiny, *shared).out == "---\n".join(f"Once{text}\n" for text in texts)
        assert len(set(texts)) > 1

    def test_the_first_sample_of_many_is_that_of_one(self, tiny: Path) -> None:
        shared = ("Once", "--max-new-tokens", "6", "--seed", "5")
        one, many = as_record(tiny, *shared), as_record(tiny, *shared, "-n", "5")
        assert many["completions"][0]["token_ids"] == one["completions"][0]["token_ids"]

    def test_thousands_of_samples(self, tiny: Path) -> None:
        record = as_record(tiny, "Once", "-n", "2000", "--max-new-tokens", "2")
        assert [completion["index"] for completion in record["completions"]] == list(range(2000))

    def test_the_same_seed_gives_the_same_and_one_that_was_drawn_is_told(self, tiny: Path) -> None:
        first = run(tiny, "Once", "--max-new-tokens", "20")
        seed = first.err.split("seed ")[1].split()[0]
        assert run(tiny, "Once", "--max-new-tokens", "20", "--seed", seed).out == first.out
        assert run(tiny, "Once", "--max-new-tokens", "20", "--seed", str(int(seed) + 1)).out != first.out

    @pytest.mark.parametrize("seed", ["0", "-7", str(10**30)])
    def test_any_whole_number_is_a_seed(self, tiny: Path, seed: str) -> None:
        assert as_record(tiny, "Once", "--max-new-tokens", "1", "--seed", seed)["seed"] == int(seed)

    def test_stop_texts_end_the_completion_exactly_before_them(self, tiny: Path) -> None:
        shared = ("Once", "-s", "greedy", "--max-new-tokens", "30")
        whole = as_record(tiny, *shared)["completions"][0]["text"]
        at = len(whole) // 2
        stop = whole[at : at + 2]
        completion = as_record(tiny, *shared, "--stop", "never there", "--stop", stop)["completions"][0]
        assert completion["text"] == whole[: whole.index(stop)]
        assert completion["finish_reason"] == "stop"


class TestOutput:
    def test_text_is_the_prompt_and_what_follows_on_stdout_and_the_summary_on_stderr(self, tiny: Path) -> None:
        done = run(tiny, "Once", "-s", "greedy", "--max-new-tokens", "4")
        assert done.out.startswith("Once")
        assert done.out.count("\n") == 1
        assert done.err.startswith(f"{tiny} (float32, cpu)  greedy  4 tokens in ")
        assert done.err.count("\n") == 1

    def test_no_echo_leaves_the_prompt_out(self, tiny: Path) -> None:
        shared = ("Once", "-s", "greedy", "--max-new-tokens", "4")
        assert "Once" + run(tiny, *shared, "--no-echo").out == run(tiny, *shared, "--echo").out

    def test_quiet_is_quiet(self, tiny: Path) -> None:
        assert run(tiny, "Once", "--max-new-tokens", "1", "--quiet").err == ""

    def test_json_is_one_object_of_the_promised_shape(self, tiny: Path) -> None:
        record = as_record(tiny, "Once", "--seed", "3", "-n", "2", "--max-new-tokens", "9", "--stop", "e")
        assert record["model"] == {
            "name": str(tiny),
            "source": "local",
            "revision": None,
            "parameters": sum(weight.numel() for weight in load_file(tiny / "model.safetensors").values()),
            "dtype": "float32",
            "device": "cpu",
        }
        assert (record["seed"], record["max_new_tokens"], record["prompt"]) == (3, 9, "Once")
        assert all(isinstance(token, int) for token in record["prompt_token_ids"])
        for index, completion in enumerate(record["completions"]):
            assert list(completion) == ["index", "text", "token_ids", "finish_reason", "logprob"]
            assert completion["index"] == index
            assert completion["finish_reason"] in ("length", "eos", "stop")
            assert completion["logprob"] < 0
            assert 1 <= len(completion["token_ids"]) <= 9
        timing = record["timing"]
        assert list(timing) == ["load_s", "prefill_s", "decode_s", "tokens_per_s"]
        assert all(seconds > 0 for seconds in timing.values())
        tokens = sum(len(completion["token_ids"]) for completion in record["completions"])
        seconds = timing["prefill_s"] + timing["decode_s"]
        assert timing["tokens_per_s"] == pytest.approx(tokens / seconds)

    def test_json_survives_a_nasty_prompt(self, tiny: Path) -> None:
        prompt = '"\\\x1b]0;title\x07\u2028\u202e\x9b[bold]\x00'
        done = run(tiny, "--format", "json", "--max-new-tokens", "1", stdin=prompt.encode())
        assert json.loads(done.out)["prompt"] == prompt
        assert done.out.isprintable() or set(filter(lambda c: not c.isprintable(), done.out)) <= {"\n", "\ufffd"}

    def test_text_leaves_by_a_pipe_unaltered(self, tiny: Path) -> None:
        prompt = "\x1b[31m[bold]red[/bold]\x07\r\x9b\u202e"
        done = run(tiny, "--max-new-tokens", "1", stdin=prompt.encode())
        assert done.out.startswith(prompt)

    def test_a_file_holds_what_stdout_would(self, tiny: Path, tmp_path: Path) -> None:
        file = tmp_path / "out.txt"
        shared = ("Once", "--seed", "3", "-n", "3", "--max-new-tokens", "4")
        done = run(tiny, *shared, "-o", file)
        assert (done.code, done.out) == (0, "")
        assert file.read_bytes().decode() == run(tiny, *shared).out

    def test_a_file_that_cannot_be_written_is_told_before_the_model_is_looked_for(self, tmp_path: Path) -> None:
        done = call("generate", "-m", tmp_path / "no" / "model", "Once", "-o", tmp_path / "missing" / "out.txt")
        assert done.code == 1
        assert done.error() == f"cannot write {tmp_path / 'missing' / 'out.txt'}: No such file or directory"

    def test_a_failure_keeps_the_file_that_was_there(self, tmp_path: Path) -> None:
        file = tmp_path / "out.txt"
        file.write_text("before")
        assert call("generate", "-m", tmp_path / "no" / "model", "Once", "-o", file).code == 1
        assert file.read_text() == "before"
        assert list(tmp_path.iterdir()) == [file]


class TestInterruption:
    @pytest.fixture
    def interrupted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C is pressed when the fourth event was shown."""
        from genlm.tasks import generate

        decode = generate.decode

        def decode_some(*arguments: Any) -> Iterator[Any]:
            events = decode(*arguments)
            for _ in range(4):
                yield next(events)
            raise KeyboardInterrupt

        monkeypatch.setattr(generate, "decode", decode_some)

    @pytest.mark.usefixtures("interrupted")
    def test_what_was_written_stays(self, tiny: Path, tmp_path: Path) -> None:
        file = tmp_path / "out.txt"
        file.write_text("before")
        arguments = ("Once upon a", "-s", "greedy", "--max-new-tokens", "30")
        done = run(tiny, *arguments)
        assert (done.code, done.err) == (130, "")
        assert done.out.startswith("Once upon a")
        assert done.out.endswith("\n")
        assert run(tiny, *arguments, "-o", file).code == 130
        assert file.read_text() == done.out

    @pytest.mark.usefixtures("interrupted")
    def test_half_an_object_is_none(self, tiny: Path, tmp_path: Path) -> None:
        file = tmp_path / "out.json"
        file.write_text("before")
        done = run(tiny, "Once", "--format", "json", "-o", file)
        assert (done.code, done.out, done.err) == (130, "", "")
        assert file.read_text() == "before"


class TestPipes:
    @needs_unix("Ctrl-C cannot be sent to one process")
    def test_text_arrives_while_it_is_made_and_ctrl_c_leaves_it(self, endless: Path) -> None:
        with start("generate", "-m", endless, "Once", "-q", "--max-new-tokens", "19000") as process:
            begun = read_first(process, len("Once") + 20)
            assert process.poll() is None
            process.send_signal(2)
            rest, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert err == b""
        text = (begun + rest).decode("utf-8")
        assert text.startswith("Once")
        assert text.endswith("\n")

    def test_a_reader_who_leaves_ends_the_run_quietly(self, endless: Path) -> None:
        with start("generate", "-m", endless, "Once", "--max-new-tokens", "19000") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert read_first(process, 4) == b"Once"
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(60) == 0

    @needs_unix("no process can be told to end")
    def test_a_signal_to_end_ends_it_without_a_word(self, endless: Path) -> None:
        with start("generate", "-m", endless, "Once", "-q", "--max-new-tokens", "19000") as process:
            read_first(process, 10)
            process.terminate()
            _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (128 + 15, b"")

    def test_utf8_whatever_the_locale(self, tiny: Path) -> None:
        env = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
        done = genlm("generate", "-m", str(tiny), "-s", "greedy", "--max-new-tokens", "2", stdin="né狐🦊", env=env)
        assert done.returncode == 0
        assert done.stdout.startswith("né狐🦊")

    @needs_unix("no POSIX shell")
    def test_without_a_stderr_stdout_has_the_result_alone(self, tiny: Path) -> None:
        arguments = ["generate", "-m", tiny, "Once", "--temperature", "0", "--max-new-tokens", "3"]
        done = subprocess.run(
            ["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "-m", "genlm", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
        )
        assert done.returncode == 0
        assert done.stdout.decode() == run(tiny, *arguments[3:]).out
