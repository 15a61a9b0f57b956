"""`genlm next`, `score`, `tokenize` and `attention` as their users drive them."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from support.driving import call, call_in_terminal, read_first, start

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def as_json(*arguments: str | Path, stdin: bytes = b"") -> Any:
    """The one object that a command prints."""
    done = call(*arguments, "--format", "json", stdin=stdin)
    assert done.code == 0, done.err
    return json.loads(done.out)


class TestNext:
    def test_json_has_the_keys_that_are_promised(self, tiny: Path) -> None:
        found = as_json("next", "Once upon a", "-m", tiny, "--top", "3")
        assert found["prompt"] == "Once upon a"
        assert found["effective_choices"] == pytest.approx(math.exp(found["entropy"]))
        assert [candidate["rank"] for candidate in found["candidates"]] == [1, 2, 3]
        for candidate in found["candidates"]:
            assert {"rank", "id", "text", "probability", "logprob"} <= candidate.keys()
            assert candidate["probability"] == pytest.approx(math.exp(candidate["logprob"]))

    def test_ten_candidates_are_a_table_with_bars(self) -> None:
        done = call("next", "Once upon a", "-m", "fable")
        header, *rows = done.out.splitlines()
        assert header.split() == ["rank", "token", "id", "probability", "log-prob"]
        assert rows[0].split()[:2] == ["1", "␣time"]
        assert [row.split()[0] for row in rows[:10]] == [str(rank) for rank in range(1, 11)]
        lengths = [row.count("█") for row in rows[:10]]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] > 20
        assert re.search(r"entropy \d\.\d{3} nats, perplexity [\d.]+ \(of 4,096 tokens\)", done.out)
        assert all(cell_len(line) <= 80 for line in done.out.splitlines())

    def test_a_strategy_is_shown_with_the_tokens_that_it_rules_out(self, tiny: Path) -> None:
        done = call("next", "Once", "-m", tiny, "-s", "top-k:top_k=2")
        rows = done.out.splitlines()
        assert [" cut " in row for row in rows[1:11]] == [False] * 2 + [True] * 8
        assert "top-k:top_k=2 keeps 2 tokens with" in done.out
        assert "top-k:top_k=1 keeps 1 token with" in call("next", "Once", "-m", tiny, "-s", "top-k:top_k=1").out
        assert "it rules out 298 with" in done.out
        found = as_json("next", "Once", "-m", tiny, "-s", "top-k:top_k=2")
        assert found["strategy"]["spec"] == "top-k:top_k=2"
        assert (found["filtered"]["kept"], found["filtered"]["cut"]) == (2, 298)
        assert [candidate["filtered_probability"] > 0 for candidate in found["candidates"]][:3] == [True, True, False]

    def test_a_preset_is_accepted_as_a_strategy(self, tiny: Path, tmp_path: Path) -> None:
        presets = tmp_path / "presets.toml"
        presets.write_text('[narrow]\nkind = "top-k"\ntop_k = 3\n')
        found = as_json("next", "Once", "-m", tiny, "-s", "@narrow", "--presets", presets)
        assert (found["strategy"]["name"], found["filtered"]["kept"]) == ("narrow", 3)

    def test_candidates_are_separated_by_commas(self, tiny: Path) -> None:
        found = as_json("next", "The", "-m", tiny, "--candidates", " fox, king", "--candidates", r" a\, b")
        assert {candidate["text"] for candidate in found["candidates"]} == {" fox", " king", " a, b"}
        for candidate in found["candidates"]:
            assert candidate["logprob"] == pytest.approx(sum(token["logprob"] for token in candidate["tokens"]))
        assert sum(candidate["share"] for candidate in found["candidates"]) == pytest.approx(1)
        shown = call("next", "The", "-m", tiny, "--candidates", " fox, king").out
        assert "␣fox" in shown
        assert "␣king" in shown

    def test_a_candidate_that_is_ruled_out_is_null_in_json(self, tiny: Path) -> None:
        found = as_json("next", "The", "-m", tiny, "--candidates", " fox, king had", "-s", "top-k:top_k=1")
        assert [candidate["filtered_logprob"] for candidate in found["candidates"]] == [None, None]

    def test_steps_give_a_tree_of_that_depth_and_width(self, tiny: Path) -> None:
        found = as_json("next", "Once", "-m", tiny, "--steps", "3")
        level, widths = found["candidates"], []
        while level:
            widths.append(len(level))
            level = [child for branch in level for child in branch["children"]]
        assert widths == [3, 3, 3]
        shown = call("next", "Once", "-m", tiny, "--steps", "2", "--branches", "5").out
        assert "10 tokens: the most likely continuations, 2 tokens long" in shown

    def test_the_prompt_may_come_by_a_pipe_or_from_a_file(self, tiny: Path, tmp_path: Path) -> None:
        path = tmp_path / "prompt.txt"
        path.write_text("Once\n")
        expected = as_json("next", "Once", "-m", tiny)
        assert as_json("next", "-m", tiny, stdin=b"Once\n") == expected
        assert as_json("next", "--file", path, "-m", tiny) == expected

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            (["--top", "0"], "--top must be at least 1, not 0"),
            (["--steps", "-1"], "--steps must be at least 1, not -1"),
            (["--steps", "2", "--branches", "0"], "--branches must be at least 1, not 0"),
            (["--branches", "2"], "--branches needs --steps"),
            (["--steps", "2", "--top", "3"], "--top and --steps cannot be combined"),
            (["--candidates", "a,,b"], "a candidate must not be empty"),
            (["--presets", "x.toml"], "--presets is given, but no preset is used"),
            (["-s", "top-k:top_k=0"], "top_k must be a whole number at least 1, not 0"),
        ],
    )
    def test_options_that_make_no_sense_are_refused(self, tiny: Path, options: list[str], error: str) -> None:
        done = call("next", "x", "-m", tiny, *options)
        assert (done.code, done.out, done.error()) == (2, "", error)


class TestScore:
    def test_json_has_the_keys_that_are_promised(self, tiny: Path) -> None:
        found = as_json("score", "Once upon a time", "-m", tiny)
        assert found["model"]["source"] == "local"
        assert (found["bos"], found["window"], found["stride"]) == (True, 64, 32)
        (item,) = found["items"]
        assert item["text"] == "Once upon a time"
        assert set(item["tokens"][0]) == {"id", "text", "logprob", "rank", "entropy"}
        assert item["num_tokens"] == len(item["tokens"])
        assert item["num_bytes"] == 16
        assert item["logprob"] == pytest.approx(sum(token["logprob"] for token in item["tokens"]))
        assert item["perplexity"] == pytest.approx(math.exp(-item["logprob"] / item["num_tokens"]))
        assert item["bits_per_byte"] == pytest.approx(-item["logprob"] / math.log(2) / 16)
        assert found["total"]["num_texts"] == 1
        assert found["total"]["logprob"] == item["logprob"]
        assert sum(found["total"]["ranks"].values()) == item["num_tokens"]

    def test_many_files_are_scored_line_by_line_or_whole(self, tiny: Path, tmp_path: Path) -> None:
        first, second = tmp_path / "one.txt", tmp_path / "two.txt"
        first.write_text("fox\n\nwolf and fox\n")
        second.write_text("king" * 100)
        files = ["--file", first, "--file", second]
        found = as_json("score", *files, "-m", tiny)
        assert [(item["source"], item["line"], item["text"]) for item in found["items"]] == [
            (str(first), 1, "fox"),
            (str(first), 2, ""),
            (str(first), 3, "wolf and fox"),
            (str(second), 1, "king" * 100),
        ]
        assert found["items"][1]["perplexity"] is None
        assert found["total"]["num_bytes"] == sum(item["num_bytes"] for item in found["items"])
        whole = as_json("score", *files, "--per", "file", "--no-tokens", "-m", tiny)
        assert [item["num_bytes"] for item in whole["items"]] == [18, 400]
        assert "tokens" not in whole["items"][0]
        shown = call("score", *files, "--per", "file", "-m", tiny)
        assert str(second) in shown.out
        assert "2 texts, " in shown.out

    def test_every_token_of_a_whole_file_is_shown_where_that_is_asked_for(self, tiny: Path, tmp_path: Path) -> None:
        path = tmp_path / "one.txt"
        path.write_text("fox\nfox")
        for options in (["--file", path, "--per", "file"], ["fox\nfox"]):
            assert "␊" in call("score", *options, "--tokens", "-m", tiny).out

    def test_lines_are_an_object_each(self, tiny: Path) -> None:
        done = call("score", "--per", "line", "-m", tiny, "--format", "jsonl", stdin=b"fox\n\nwolf\n")
        items = [json.loads(line) for line in done.out.splitlines()]
        assert [item["text"] for item in items] == ["fox", "", "wolf"]
        assert done.err.startswith(str(tiny))
        assert "a start token before each text" in done.err

    def test_half_a_character_has_its_bytes(self, tiny: Path) -> None:
        (item,) = as_json("score", "é🦊", "-m", tiny)["items"]
        parts = [token.get("bytes") for token in item["tokens"] if "bytes" in token]
        assert b"".join(map(bytes, parts)).decode().endswith("🦊")

    def test_no_start_token_means_no_score_for_the_first(self, tiny: Path) -> None:
        done = call("score", "fox", "--no-bos", "--tokens", "-m", tiny)
        assert "–" in done.out.splitlines()[3]
        assert "no start token" in done.err
        assert as_json("score", "f", "--no-bos", "-m", tiny)["items"][0]["tokens"][0]["logprob"] is None

    def test_no_text_at_all_has_a_sum_of_nothing(self, tiny: Path, tmp_path: Path) -> None:
        empty = tmp_path / "empty.txt"
        empty.touch()
        found = as_json("score", "--file", empty, "-m", tiny)
        assert found["items"] == []
        assert (found["total"]["num_texts"], found["total"]["perplexity"]) == (0, None)
        assert "0 texts" in call("score", "--file", empty, "-m", tiny).out

    def test_a_byte_that_is_not_utf8_is_named_and_nothing_printed(self, tiny: Path, tmp_path: Path) -> None:
        bad = tmp_path / "bad.txt"
        bad.write_bytes(b"fine\nno\xfft\n")
        done = call("score", "--file", bad, "-m", tiny)
        assert (done.code, done.out, done.error()) == (1, "", f"{bad}: not valid UTF-8 at byte 7")

    @pytest.mark.parametrize("stride", ["0", "65"])
    def test_a_stride_beyond_the_context_is_refused(self, tiny: Path, stride: str) -> None:
        done = call("score", "x", "-m", tiny, "--stride", stride)
        assert (done.code, done.error()) == (2, f"the stride must be from 1 to the model's context of 64, not {stride}")

    def test_a_page_is_written_beside_the_result(self, tiny: Path, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        done = call("score", "Once", "-m", tiny, "--html", page)
        assert done.code == 0
        assert page.read_text().startswith("<!doctype html>")
        assert "perplexity" in done.out

    @pytest.mark.parametrize(
        ("options", "code", "error"),
        [
            (["--html", "-"], 2, "--html needs a file: standard output is for the result"),
            (["--html", "same", "-o", "same"], 2, "--output and --html both name same"),
            (["--html", "absent/page.html"], 1, "cannot write absent/page.html: No such file or directory"),
        ],
    )
    def test_a_page_that_has_no_place_is_refused(
        self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, error: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        done = call("score", "x", "-m", tiny, *options)
        assert (done.code, done.error()) == (code, error)
        assert list(tmp_path.iterdir()) == []

    def test_lines_come_out_while_more_may_come(self, tiny: Path) -> None:
        process = start("score", "--file", "-", "-m", tiny, "--format", "jsonl", stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(b"fox\n" * 600)
        assert read_first(process, 16) == b'{"text": "fox", '
        process.kill()
        process.communicate()

    def test_on_a_terminal_tokens_have_the_colour_of_their_rank_and_text_acts_on_nothing(self, tiny: Path) -> None:
        terminal = call_in_terminal("score", "fox \x1b]0;title\x07 [red]wolf[/red]", "-m", tiny)
        assert terminal.code == 0
        shown = terminal.shown.decode()
        assert "\x1b]0" not in shown
        plain = ANSI.sub("", shown)
        assert "fox ␛]0;title␇ [red]wolf[/red]" in plain
        assert "\x1b[32m" in shown, "something is in the top ten"
        assert re.search(r"top 10 +\d+ ", plain)


class TestTokenize:
    def test_a_row_a_token(self, tiny: Path) -> None:
        done = call("tokenize", "fox\n狐", "-m", tiny)
        assert done.out.splitlines()[0].split() == ["#", "token", "id", "characters", "bytes", "mask"]
        assert "␊" in done.out
        assert "<E7>" in done.out
        assert "part of a character" in done.out
        assert done.out.splitlines()[-1].startswith("6 tokens, 5 characters, 7 bytes")

    def test_json_says_where_every_token_lies(self, tiny: Path) -> None:
        found = as_json("tokenize", "fox 狐", "-m", tiny)
        (item,) = found["items"]
        assert item["ids"] == [token["id"] for token in item["tokens"]]
        assert item["attention_mask"] == [1] * item["num_tokens"]
        assert (item["num_characters"], item["num_bytes"]) == (5, 7)
        last = item["tokens"][-1]
        assert (last["start"], last["end"], last["byte_start"], last["byte_end"]) == (4, 5, 6, 7)
        assert last["bytes"] == [0x90]
        assert found["total"] == {"num_texts": 1, "num_tokens": item["num_tokens"], "num_characters": 5, "num_bytes": 7}

    def test_ids_go_there_and_back(self, tiny: Path, tmp_path: Path) -> None:
        path = tmp_path / "lines.txt"
        path.write_text("fox 狐\n\nthe <|endoftext|> end\n")
        ids = call("tokenize", "--file", path, "-m", tiny, "--format", "ids").out
        assert len(ids.splitlines()) == 3
        back = call("tokenize", "--decode", "--per", "line", "-m", tiny, stdin=ids.encode())
        assert back.out == path.read_text()

    def test_json_lines_of_decoded_ids(self, tiny: Path) -> None:
        done = call("tokenize", "[1, 2]", "--decode", "-m", tiny, "--format", "jsonl")
        assert json.loads(done.out)["ids"] == [1, 2]

    @pytest.mark.parametrize(
        ("arguments", "code", "error"),
        [
            (["--decode", "1 two"], 1, "not a token id: 'two'"),
            (["--decode", "300"], 1, "the tokenizer has no token 300"),
            (["--decode", "1", "--format", "ids"], 2, "--decode gives text, and --format ids asks for ids"),
        ],
    )
    def test_ids_that_are_none_are_refused(self, tiny: Path, arguments: list[str], code: int, error: str) -> None:
        done = call("tokenize", "-m", tiny, *arguments)
        assert (done.code, done.out, done.error()) == (code, "", error)


class TestAttention:
    def test_a_head_is_a_map_of_numbers(self, tiny: Path) -> None:
        done = call("attention", "fox fox", "-m", tiny, "--layer", "1", "--head", "2", "--check")
        title, columns, *rows = done.out.splitlines()
        assert title.startswith("layer 1 (of 0-1), head 2 (of 0-3)")
        size = len(columns.split())
        for number, row in enumerate(rows[:size]):
            weights = [int(weight) for weight in row.split()[2:]]
            assert len(weights) == number + 1
            assert sum(weights) == pytest.approx(100, abs=size / 2)
        found = re.search(r"largest difference to .*? ([0-9.e-]+);", " ".join(done.out.split()))
        assert found is not None
        assert float(found[1]) < 1e-5
        assert "above the diagonal 0" in " ".join(done.out.split())

    @pytest.mark.parametrize("count", [1, 14, 15, 29, 30, 58, 59, 64])
    def test_a_map_of_any_size_fits_eighty_columns(self, tiny: Path, count: int) -> None:
        done = call("attention", "o" * count, "-m", tiny)
        assert done.code == 0
        assert all(cell_len(line) <= 80 for line in done.out.splitlines())
        assert ("largest of 2 x 2 weights" in done.out) == (count > 60)

    def test_json_has_every_head_or_the_one_asked_for(self, tiny: Path) -> None:
        found = as_json("attention", "the fox", "-m", tiny)
        assert (found["num_layers"], found["num_heads"], len(found["attention"])) == (2, 4, 8)
        size = len(found["prompt_token_ids"])
        for head in found["attention"]:
            assert [sum(row) for row in head["weights"]] == pytest.approx([1] * size, abs=1e-5)
            assert all(weight == 0 for row, line in enumerate(head["weights"]) for weight in line[row + 1 :])
        (one,) = as_json("attention", "the fox", "-m", tiny, "--layer", "1", "--head", "3")["attention"]
        assert one == found["attention"][7]

    def test_a_page_has_all_heads_where_the_terminal_shows_one(self, tiny: Path, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        done = call("attention", "the fox", "-m", tiny, "--html", page)
        assert done.out.startswith("layer 0 (of 0-1), head 0 (of 0-3)")
        data = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])
        assert len(data["heads"]) == 8

    @pytest.mark.parametrize(("option", "most"), [("layer", 1), ("head", 3)])
    def test_what_is_out_of_range_is_refused(self, tiny: Path, option: str, most: int) -> None:
        for value in (most + 1, -1):
            done = call("attention", "x", "-m", tiny, f"--{option}", str(value))
            assert (done.code, done.error()) == (2, f"the model has no {option} {value}")
            assert done.hint() == f"its {option}s are 0 to {most}"

    def test_on_a_terminal_the_map_is_in_colour(self, tiny: Path) -> None:
        terminal = call_in_terminal("attention", "fox", "-m", tiny, env={"COLORTERM": "truecolor"})
        assert terminal.code == 0
        assert b"48;2;" in terminal.shown
