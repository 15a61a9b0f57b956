"""`-s @NAME`: presets of a file, and those in the user's own file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.driving import call

from genlm.cli import strategies
from genlm.cli.strategies import choose_strategy, own_presets
from genlm.decoding.strategy import Strategy
from genlm.errors import InputError, UsageError

OWN = '[mine]\nkind = "top-k"\ntop_k = 7\n\n[both]\nkind = "greedy"\n\n[cold]\nkind = "min-p"\ntemperature = 0\n'
GIVEN = '[both]\nkind = "beam"\n'


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    monkeypatch.setattr(strategies, "own_presets", lambda: path)
    return path


@pytest.fixture
def given_file(tmp_path: Path) -> Path:
    path = tmp_path / "given.toml"
    path.write_text(GIVEN)
    return path


def chosen(name: str, presets: Path | None = None, **flags: float) -> tuple[Strategy, list[str]]:
    notices: list[str] = []
    return choose_strategy(f"@{name}", presets, flags, notices.append), notices


def test_the_users_own_presets_need_no_option(own: Path) -> None:
    strategy, notices = chosen("mine")
    assert (strategy.name, strategy.spec, notices) == ("mine", "top-k:top_k=7", [])


def test_the_file_of_the_option_takes_precedence_over_the_users_own(own: Path, given_file: Path) -> None:
    assert chosen("both")[0].kind == "greedy"
    assert chosen("both", given_file)[0].kind == "beam"
    assert chosen("mine", given_file)[0].spec == "top-k:top_k=7"


def test_a_preset_with_temperature_zero_becomes_greedy_with_a_notice(own: Path) -> None:
    strategy, notices = chosen("cold")
    assert (strategy.name, strategy.kind) == ("cold", "greedy")
    assert notices == ["temperature=0 means greedy: the most likely token at every step"]


def test_a_flag_replaces_a_field_of_the_preset(own: Path) -> None:
    strategy, notices = chosen("cold", temperature=0.5)
    assert (strategy.spec, notices) == ("min-p:min_p=0.05,temperature=0.5", [])


def test_an_unknown_name_is_refused_and_the_names_are_listed(own: Path, given_file: Path) -> None:
    with pytest.raises(UsageError) as caught:
        chosen("other", given_file)
    assert str(caught.value) == f"no preset 'other' in {given_file} and {own}"
    assert caught.value.hint == "there are both, mine, cold"


def test_an_invalid_file_of_the_user_is_an_error_only_if_it_is_needed(own: Path, given_file: Path) -> None:
    own.write_text("[mine\n")
    assert chosen("both", given_file)[0].kind == "beam"
    with pytest.raises(InputError, match="not a TOML file"):
        chosen("mine")


def test_without_any_file_the_hint_says_where_to_create_one() -> None:
    with pytest.raises(UsageError, match="-s @mine needs a file of presets") as caught:
        chosen("mine")
    assert str(own_presets()) in str(caught.value.hint)


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="these systems do not use XDG")
def test_the_users_own_file_is_in_the_configuration_folder(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "genlm").mkdir()
    (tmp_path / "genlm" / "strategies.toml").write_text(OWN)
    done = call("generate", "-m", tiny, "-s", "@cold", "--max-new-tokens", "1", "Once")
    assert done.code == 0
    assert "temperature=0 means greedy: the most likely token at every step" in done.err
