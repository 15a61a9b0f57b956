"""`genlm generate`: prompts, counts and forms of output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.batch import fingerprint_of
from support.driving import call, generate, generate_json
from support.gpt2 import edit_json
from tokenizers import Tokenizer


class TestPrompt:
    def test_an_argument_a_pipe_and_a_dash_are_equivalent(self, tiny: Path) -> None:
        shared = ("-s", "greedy", "--max-new-tokens", "5")
        texts = {
            generate(tiny, "Once upon", *shared).out,
            generate(tiny, *shared, stdin=b"Once upon\n").out,
            generate(tiny, "-", *shared, stdin=b"Once upon").out,
        }
        (text,) = texts
        assert text.startswith("Once upon")
        assert len(text) > len("Once upon\n")

    def test_an_argument_and_a_pipe_cannot_be_combined(self, tiny: Path) -> None:
        done = generate(tiny, "Once", stdin=b"upon")
        assert (done.code, done.out) == (2, "")
        assert done.error() == "give the prompt as an argument or on standard input, not both"

    @pytest.mark.parametrize("arguments", [(), ("-",), ("",)])
    def test_an_empty_prompt_starts_from_the_start_token(self, tiny: Path, arguments: tuple[str, ...]) -> None:
        record = generate_json(tiny, *arguments, "--max-new-tokens", "2")
        assert record["prompt"] == ""
        assert record["prompt_token_ids"] == [json.loads((tiny / "config.json").read_text())["bos_token_id"]]

    def test_an_empty_prompt_needs_a_start_token(self, copied: Path) -> None:
        edit_json(copied / "config.json", bos_token_id=None, eos_token_id=None)
        edit_json(copied / "tokenizer_config.json", bos_token=None, eos_token=None)
        (copied / "generation_config.json").unlink()
        tokenizer = (copied / "tokenizer.json").read_text().replace("<|endoftext|>", "<|other|>")
        (copied / "tokenizer.json").write_text(tokenizer)
        done = generate(copied)
        assert (done.code, done.out) == (1, "")
        assert "the prompt is empty" in done.error()

    def test_a_prompt_that_is_too_long_is_an_error_or_truncated(self, tiny: Path) -> None:
        prompt = "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 3
        count = len(Tokenizer.from_file(str(tiny / "tokenizer.json")).encode(prompt).ids)
        done = generate(tiny, prompt, "--max-new-tokens", "10")
        assert done.code == 1
        assert done.error() == f"the prompt has {count} tokens, with 10 new ones beyond the model's context of 64"
        assert done.hint().startswith("only the last 54 tokens of the prompt fit")
        record = generate_json(tiny, prompt, "--max-new-tokens", "10", "--overflow", "truncate-left")
        assert len(record["prompt_token_ids"]) == 54
        assert record["prompt"] == prompt


class TestCounts:
    def test_samples_are_shown_in_order_with_a_separator(self, tiny: Path) -> None:
        shared = ("Once", "--max-new-tokens", "6", "--seed", "5", "-n", "4", "-s", "top-k:top_k=20", "--stop", "\n")
        texts = [completion["text"] for completion in generate_json(tiny, *shared)["completions"]]
        assert generate(tiny, *shared).out == "---\n".join(f"Once{text}\n" for text in texts)
        assert len(set(texts)) > 1

    def test_the_first_of_many_samples_equals_a_single_one(self, tiny: Path) -> None:
        shared = ("Once", "--max-new-tokens", "6", "--seed", "5")
        one, many = generate_json(tiny, *shared), generate_json(tiny, *shared, "-n", "5")
        assert many["completions"][0]["token_ids"] == one["completions"][0]["token_ids"]

    def test_thousands_of_samples_are_possible(self, tiny: Path) -> None:
        record = generate_json(tiny, "Once", "-n", "2000", "--max-new-tokens", "2")
        assert [completion["index"] for completion in record["completions"]] == list(range(2000))

    def test_the_same_seed_gives_the_same_text_and_a_drawn_seed_is_reported(self, tiny: Path) -> None:
        first = generate(tiny, "Once", "--max-new-tokens", "20")
        seed = first.err.split("seed ")[1].split()[0]
        assert generate(tiny, "Once", "--max-new-tokens", "20", "--seed", seed).out == first.out
        assert generate(tiny, "Once", "--max-new-tokens", "20", "--seed", str(int(seed) + 1)).out != first.out

    @pytest.mark.parametrize("seed", ["0", "-7", str(10**30)])
    def test_a_seed_can_be_any_whole_number(self, tiny: Path, seed: str) -> None:
        assert generate_json(tiny, "Once", "--max-new-tokens", "1", "--seed", seed)["seed"] == int(seed)

    def test_a_completion_ends_exactly_before_a_stop_text(self, tiny: Path) -> None:
        shared = ("Once", "-s", "greedy", "--max-new-tokens", "30")
        whole = generate_json(tiny, *shared)["completions"][0]["text"]
        at = len(whole) // 2
        stop = whole[at : at + 2]
        completion = generate_json(tiny, *shared, "--stop", "never there", "--stop", stop)["completions"][0]
        assert completion["text"] == whole[: whole.index(stop)]
        assert completion["finish_reason"] == "stop"


class TestOutput:
    def test_stdout_has_the_text_and_stderr_the_summary(self, tiny: Path) -> None:
        done = generate(tiny, "Once", "-s", "greedy", "--max-new-tokens", "4")
        assert done.out.startswith("Once")
        assert done.out.count("\n") == 1
        assert done.err.startswith(f"{tiny} (float32, cpu)  greedy  4 tokens in ")
        assert done.err.count("\n") == 1

    @pytest.mark.parametrize(
        ("options", "shown"),
        [
            (["-s", "contrastive:penalty_alpha=0.6,top_k=4"], "contrastive:penalty_alpha=0.6,top_k=4"),
            (["-s", "contrastive"], "contrastive:penalty_alpha=0.6"),
            (["-s", "top-k:temperature=1"], "top-k:top_k=50,temperature=1.0"),
            (["--top-k", "50", "--temperature", "1"], "top-k:top_k=50,temperature=1.0"),
            (["--temperature", "0", "--top-k", "50", "--repetition-penalty", "1"], "greedy:repetition_penalty=1.0"),
        ],
    )
    def test_the_summary_has_every_field_that_was_given(self, tiny: Path, options: list[str], shown: str) -> None:
        done = generate(tiny, "Once", *options, "--max-new-tokens", "1")
        assert done.err.splitlines()[-1].split("  ")[1] == shown

    def test_the_json_of_a_strategy_does_not_depend_on_which_fields_were_given(
        self, tiny: Path, tmp_path: Path
    ) -> None:
        shared = ("Once", "--seed", "1", "--max-new-tokens", "1")
        short, long = (generate_json(tiny, *shared, "-s", spec) for spec in ("top-k", "top-k:top_k=50,temperature=1"))
        assert short["strategy"] == long["strategy"]
        file = tmp_path / "long.json"
        file.write_text(json.dumps(long))
        assert "  top-k:top_k=50  " in call("generate", "--replay", file).err

    def test_no_echo_omits_the_prompt(self, tiny: Path) -> None:
        shared = ("Once", "-s", "greedy", "--max-new-tokens", "4")
        assert "Once" + generate(tiny, *shared, "--no-echo").out == generate(tiny, *shared, "--echo").out

    def test_quiet_writes_nothing_to_stderr(self, tiny: Path) -> None:
        assert generate(tiny, "Once", "--max-new-tokens", "1", "--quiet").err == ""

    def test_json_is_one_object_with_the_documented_keys(self, tiny: Path) -> None:
        record = generate_json(tiny, "Once", "--seed", "3", "-n", "2", "--max-new-tokens", "9", "--stop", "e")
        assert record["model"] == {
            "name": str(tiny),
            "source": "local",
            "revision": None,
            "parameters": sum(weight.numel() for weight in load_file(tiny / "model.safetensors").values()),
            "dtype": "float32",
            "device": "cpu",
            "fingerprint": fingerprint_of(tiny),
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

    def test_json_escapes_control_characters(self, tiny: Path) -> None:
        prompt = '"\\\x1b]0;title\x07\u2028\u202e\x9b[bold]\x00'
        done = generate(tiny, "--format", "json", "--max-new-tokens", "1", stdin=prompt.encode())
        assert json.loads(done.out)["prompt"] == prompt
        assert done.out.isprintable() or set(filter(lambda c: not c.isprintable(), done.out)) <= {"\n", "\ufffd"}

    def test_text_is_piped_unchanged(self, tiny: Path) -> None:
        prompt = "\x1b[31m[bold]red[/bold]\x07\r\x9b\u202e"
        done = generate(tiny, "--max-new-tokens", "1", stdin=prompt.encode())
        assert done.out.startswith(prompt)

    def test_the_output_file_has_the_same_bytes_as_stdout(self, tiny: Path, tmp_path: Path) -> None:
        file = tmp_path / "out.txt"
        shared = ("Once", "--seed", "3", "-n", "3", "--max-new-tokens", "4")
        done = generate(tiny, *shared, "-o", file)
        assert (done.code, done.out) == (0, "")
        assert file.read_bytes().decode() == generate(tiny, *shared).out

    def test_an_unwritable_output_is_an_error_before_the_model_is_looked_up(self, tmp_path: Path) -> None:
        done = call("generate", "-m", tmp_path / "no" / "model", "Once", "-o", tmp_path / "missing" / "out.txt")
        assert done.code == 1
        assert done.error() == f"cannot write {tmp_path / 'missing' / 'out.txt'}: No such file or directory"

    def test_a_failure_keeps_the_existing_output_file(self, tmp_path: Path) -> None:
        file = tmp_path / "out.txt"
        file.write_text("before")
        assert call("generate", "-m", tmp_path / "no" / "model", "Once", "-o", file).code == 1
        assert file.read_text() == "before"
        assert list(tmp_path.iterdir()) == [file]
