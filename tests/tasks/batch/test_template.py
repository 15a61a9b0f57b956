"""Prompts that are built from columns."""

from __future__ import annotations

import pytest

from genlm.errors import UsageError
from genlm.tasks.batch.jobs import Template, unescape


def test_values_replace_the_names_of_their_columns() -> None:
    template = Template("Title: {title}\n\n{prompt} {{x}} {title}")
    assert template.columns == ["title", "prompt", "title"]
    assert (
        template.fill({"title": "The {fox}", "prompt": "Once", "other": 1}) == "Title: The {fox}\n\nOnce {x} The {fox}"
    )


def test_values_that_are_not_text_are_written_as_json() -> None:
    assert Template("{a} {b} {c}").fill({"a": 1, "b": True, "c": ["ü", None]}) == '1 true ["ü", null]'


@pytest.mark.parametrize(
    ("values", "message"),
    [({}, "'a' is missing, which the template needs"), ({"a": None}, "'a' is null, which the template needs")],
)
def test_a_missing_value_is_an_error(values: dict[str, None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Template("{a}").fill(values)


@pytest.mark.parametrize(
    "text", ["{", "}", "{}", "{0.__class__}", "{a[0]}", "{a!r}", "{a:>9}", "no column", "{{a}}", "{a.b}"]
)
def test_an_invalid_template_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="template"):
        Template(text)


def test_escapes_of_the_command_line() -> None:
    assert unescape(r"a\n\tb\\n\r \d") == "a\n\tb\\n\r \\d"


def test_a_template_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(UsageError, match="not valid Unicode"):
        Template("{a}\udcff")
