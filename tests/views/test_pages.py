"""Pages in Chromium: they work, load no other file, write nothing to the console, and never run a text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from support.browser import EXECUTABLE, chromium, middle, open_page, resize
from support.models import load

from genlm.decoding.strategy import Strategy
from genlm.errors import UsageError
from genlm.formats.texts import Text
from genlm.model.load import Model
from genlm.records.compare import StrategyComparison, StrategyRow
from genlm.records.generation import Generation
from genlm.records.inspection import AttentionMaps, ScoredText
from genlm.records.made_by import MadeBy
from genlm.tasks.attention import look_at_attention
from genlm.tasks.compare import Comparer, ComparisonSettings, Contender
from genlm.tasks.generate import Limits, continue_prompt, result_of
from genlm.tasks.score import Scorer
from genlm.views.attention import attention_page
from genlm.views.compare import comparison_page
from genlm.views.generation import bucket, parts, trace_page
from genlm.views.pages import make_page
from genlm.views.score import ScorePage
from genlm.views.terminal import visible

# Text that would act on a page if it were not escaped.
HOSTILE = "fox </script><script>alert(1)</script> <!-- <b>&lt;\x1b[31m\u202e狐"
NARROW, WIDE = (360, 700), (1200, 900)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(tiny)


@pytest.fixture(scope="module")
def maps(model: Model) -> AttentionMaps:
    return look_at_attention(model, HOSTILE[:40], check=True)


@pytest.fixture(scope="module")
def scored(model: Model) -> tuple[list[ScoredText], str]:
    """Scored texts and their page."""
    scorer = Scorer(model, [Text(HOSTILE, "a<b>.txt", 1), Text("", "a<b>.txt", 2), Text("The king. " * 20)])
    page = ScorePage()
    texts = list(scorer)
    for text in texts:
        page.show(text)
    return texts, page.page(model.info, MadeBy.now(), scorer.total, **scorer.settings)


@pytest.fixture(scope="module")
def generation(model: Model) -> Generation:
    return result_of(continue_prompt(model, HOSTILE[:20], Strategy.parse("top-p"), Limits(30, 2), seed=2, trace=True))


@pytest.fixture(scope="module")
def comparison(model: Model) -> StrategyComparison:
    """Three strategies, one of them swept, on two hostile prompts, with human text."""
    sampled = [Contender(Strategy.parse(f"top-p:top_p={top_p}"), {"top_p": top_p}) for top_p in (0.5, 0.7, 0.9)]
    greedy = Contender(Strategy.of("greedy", name=HOSTILE), {})
    prompts = (HOSTILE[:20], "مرحبا 狐")
    comparing = Comparer(
        model, prompts, [greedy, *sampled], ComparisonSettings(20, 3, 1), human=[f"{prompts[0]} {HOSTILE}"]
    )
    assert list(comparing)
    return comparing.result


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if EXECUTABLE is None:
        pytest.skip("no Chromium is installed here")
    with chromium() as started:
        yield started


@pytest.fixture
def attention(browser: Browser, maps: AttentionMaps, tmp_path: Path) -> Iterator[Page]:
    yield from opened(browser, attention_page(maps), tmp_path / "attention.html")


@pytest.fixture
def score(browser: Browser, scored: tuple[list[ScoredText], str], tmp_path: Path) -> Iterator[Page]:
    yield from opened(browser, scored[1], tmp_path / "score.html")


@pytest.fixture
def trace(browser: Browser, generation: Generation, tmp_path: Path) -> Iterator[Page]:
    yield from opened(browser, trace_page(generation), tmp_path / "trace.html")


@pytest.fixture(scope="module")
def compared(comparison: StrategyComparison) -> str:
    """Their page."""
    return comparison_page(comparison)


@pytest.fixture
def compare(browser: Browser, compared: str, tmp_path: Path) -> Iterator[Page]:
    yield from opened(browser, compared, tmp_path / "compare.html")


def opened(browser: Browser, contents: str, path: Path) -> Iterator[Page]:
    """Open a page; check at the end that it loaded nothing else and wrote nothing to the console."""
    path.write_text(contents, encoding="utf-8")
    page, console, requests = open_page(browser, path)
    yield page
    page.close()
    assert console == []
    assert requests == [path.as_uri()]


def overflows(page: Page) -> bool:
    """Return whether the page is wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))


def test_every_head_has_its_picture(attention: Page, maps: AttentionMaps) -> None:
    assert attention.evaluate("document.querySelectorAll('.head canvas').length") == len(maps.heads)
    head = maps.heads[5]
    size = len(head.weights)
    for row, column in ((0, 0), (size - 1, 3), (2, 1)):
        found = attention.evaluate(f"weight(5, {row}, {column})")
        assert found == pytest.approx(head.weights[row][column], abs=1e-5)
    pixels = attention.evaluate(
        "[...document.querySelectorAll('.head canvas')[5].getContext('2d').getImageData(0, 0, 2, 1).data]"
    )
    assert pixels[3] == 255, "the first token sees itself"
    assert pixels[7] == 0, "and nothing that comes later"


def test_a_head_shows_its_values_under_the_pointer(attention: Page, maps: AttentionMaps) -> None:
    thumbnail = "document.querySelectorAll('.head canvas')[6]"
    x, y = middle(attention, thumbnail)
    attention.mouse.move(x - 10, y + 10)
    assert attention.evaluate("!note.hidden")
    note = str(attention.evaluate("note.textContent"))
    assert note.startswith("layer 1, head 2\n")
    value = float(note.split()[-1])
    assert any(value == pytest.approx(weight, abs=1e-4) for row in maps.heads[6].weights for weight in row)
    attention.mouse.move(1, 1)
    assert attention.evaluate("note.hidden")


def test_a_click_enlarges_a_head_and_keys_select_the_next(attention: Page, maps: AttentionMaps) -> None:
    attention.mouse.click(*middle(attention, "document.querySelectorAll('.head')[3]"))
    assert attention.evaluate("large.open")
    assert attention.evaluate("document.getElementById('large-title').textContent") == "layer 0, head 3"
    left, side = attention.evaluate("[layout().left, layout().side]")
    box = attention.evaluate("(() => { const b = map.getBoundingClientRect(); return [b.x, b.y] })()")
    size = len(maps.tokens)
    row, column = size - 2, 1
    attention.mouse.move(box[0] + left + (column + 0.5) * side / size, box[1] + 1 + (row + 0.5) * side / size)
    note = str(attention.evaluate("value.textContent"))
    assert float(note.split()[-1]) == pytest.approx(maps.heads[3].weights[row][column], abs=1e-4)
    for key, title in (("ArrowRight", "layer 1, head 0"), ("ArrowLeft", "layer 0, head 3")):
        attention.keyboard.press(key)
        assert attention.evaluate("document.getElementById('large-title').textContent") == title
    attention.mouse.click(*middle(attention, "document.getElementById('close')"))
    assert not attention.evaluate("large.open")


def test_a_token_shows_its_numbers_under_the_pointer(score: Page, scored: tuple[list[ScoredText], str]) -> None:
    token = (scored[0][2].tokens or ())[4]
    x, y = middle(score, "document.querySelectorAll('.text')[2].querySelectorAll('.token')[4]")
    score.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    score.mouse.move(x, y)
    assert score.evaluate("!note.hidden")
    note = str(score.evaluate("note.textContent"))
    assert f"id {token.id}\nrank {token.rank}\n" in note
    assert f"log-probability {token.logprob:.3f} nats" in note


def test_tokens_are_coloured_by_the_bucket_of_their_rank(score: Page, scored: tuple[list[ScoredText], str]) -> None:
    ranks = [token.rank or 0 for token in scored[0][2].tokens or ()]
    expected = [f"b{sum(rank > bound for bound in (10, 100, 1000))}" for rank in ranks]
    found = score.evaluate(
        "[...document.querySelectorAll('.text')[2].querySelectorAll('.token')].map(t => t.classList[1])"
    )
    assert found == expected
    assert len(set(expected)) > 1
    colours = score.evaluate("[...document.querySelectorAll('.fill')].map(f => getComputedStyle(f).backgroundColor)")
    assert len(set(colours)) == 4


def test_the_histogram_counts_every_token(score: Page, scored: tuple[list[ScoredText], str]) -> None:
    counts = score.evaluate("[...document.querySelectorAll('.row .count')].map(c => parseInt(c.textContent))")
    assert sum(counts) == sum(text.tally.num_scored_tokens for text in scored[0])
    assert counts == [sum(text.tally.ranks[bucket] for text in scored[0]) for bucket in range(4)]


def note_of_second_token(page: Page, words: str, how: str) -> str:
    """Point at the second token in the element `words`; return the text of the note that appears."""
    token = f"{words}.querySelectorAll('.token')[1]"
    if how == "keys":
        page.evaluate(f"{words}.querySelector('.token').focus()")
        page.keyboard.press("ArrowRight")
        assert page.evaluate(f"document.activeElement === {token}")
    else:
        x, y = middle(page, token)
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        (page.mouse.move if how == "hover" else page.mouse.click)(x, y)
    return str(page.evaluate("note.hidden ? '' : note.textContent"))


@pytest.mark.parametrize("how", ["hover", "tap", "keys"])
def test_a_generated_token_shows_its_alternatives(trace: Page, generation: Generation, how: str) -> None:
    token = list(parts(generation.completions[0]))[1][1]
    note = note_of_second_token(trace, "document", how)
    assert f"id {token.id}, rank {token.rank}\n" in note
    assert f"entropy {token.entropy:.3f} nats" in note
    assert f"candidates {token.candidates}," in note
    likely = note.split("\n\n")[1].split("\n")
    assert [float(line.split()[1]) for line in likely] == pytest.approx(
        [100 * each.probability for each in token.alternatives], rel=0.01
    )
    assert [line.startswith("\u25cf") for line in likely] == [each.id == token.id for each in token.alternatives]
    trace.keyboard.press("Escape")
    assert how == "hover" or trace.evaluate("note.hidden")


def test_the_texts_of_a_generation_are_unchanged(trace: Page, generation: Generation) -> None:
    found = trace.evaluate("[...document.querySelectorAll('.words')].map(w => w.textContent)")
    assert found == [visible(completion.text) for completion in generation.completions]
    assert trace.evaluate("document.getElementById('prompt').textContent") == HOSTILE[:20]
    classes = trace.evaluate("[...document.querySelectorAll('.token')].map(t => t.classList[1])")
    assert len(set(classes)) > 1
    assert classes[0] == f"b{bucket(next(parts(generation.completions[0]))[1].probability)}"


def test_a_generation_in_any_script_fits_a_phone(browser: Browser, generation: Generation, tmp_path: Path) -> None:
    texts = ["w" * 300, "狐" * 100, "مرحبا " * 30, "<script>alert(1)</script>\n\n"]
    first = generation.completions[0]
    traced = (first.trace or ())[0]
    tokens = tuple(replace(traced, text=text, bytes=None) for text in texts)
    odd = replace(first, text="".join(texts), trace=tokens, finish_reason="length")
    for page in opened(browser, trace_page(replace(generation, completions=(odd,))), tmp_path / "odd.html"):
        resize(page, 390, 760)
        assert page.evaluate("document.querySelector('.words').textContent") == odd.text
        for at in range(len(texts)):
            page.evaluate(f"document.querySelectorAll('.token')[{at}].focus()")
            assert not overflows(page)
            assert page.evaluate(
                "(() => { const b = note.getBoundingClientRect(); return b.left >= 0 && b.right <= innerWidth })()"
            )


def test_a_page_of_very_many_tokens_shows_the_first_and_says_so(
    generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (len(list(parts(completion))) for completion in generation.completions)
    monkeypatch.setattr("genlm.views.generation.MOST_PAGE_TOKENS", first + 5)
    data = json.loads(trace_page(generation).split('id="data">')[1].split("<")[0])
    assert [len(sample["tokens"]) for sample in data["samples"]] == [first, 5]
    assert data["cut"] == f"Shown are the first {first + 5} of {first + second} tokens."


def test_texts_are_shown_and_never_run(score: Page, attention: Page) -> None:
    shown = HOSTILE.replace("\x1b", "␛").replace("\u202e", "<U+202E>")
    assert score.evaluate("document.querySelector('.words').textContent") == shown
    assert "a<b>.txt" in score.evaluate("document.querySelector('.place').textContent")
    assert attention.evaluate("document.getElementById('prompt').textContent") == HOSTILE[:40]
    for page in (score, attention):
        assert page.evaluate("document.querySelectorAll('script').length") == 2
        assert page.evaluate("document.querySelectorAll('b').length") == 0


@pytest.mark.parametrize("name", ["attention", "score", "trace", "compare"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
def test_a_page_fits_its_window_and_can_be_read(
    request: pytest.FixtureRequest, name: str, scheme: str, size: tuple[int, int]
) -> None:
    page: Page = request.getfixturevalue(name)
    resize(page, *size)
    page.emulate_media(color_scheme=scheme)
    assert not overflows(page)
    ink, paper = (
        sum(map(int, re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{part}"))[:3]))
        for part in ("color", "backgroundColor")
    )
    assert (ink < paper) == (scheme == "light")
    assert abs(ink - paper) > 500
    if name == "attention":
        page.evaluate("enlarge(0)")
        assert page.evaluate("large.getBoundingClientRect().right <= window.innerWidth")
        assert not overflows(page)


def test_texts_are_side_by_side_and_unchanged(compare: Page, comparison: StrategyComparison) -> None:
    shown = visible(HOSTILE)
    assert compare.evaluate("document.getElementById('prompt').textContent") == visible(comparison.prompts[0])
    names = compare.evaluate("[...document.querySelectorAll('.card h3')].map(h => h.textContent)")
    assert names == [f"1{shown}", *(f"{at}top-p:top_p={p}" for at, p in ((2, 0.5), (3, 0.7), (4, 0.9))), "Hreference"]
    texts = compare.evaluate(
        "[...document.querySelectorAll('.card')].map(c => [...c.querySelectorAll('.words')].map(w => w.textContent))"
    )
    first = [[visible(sample.text) for sample in row.cells[0].samples] for row in comparison.rows]
    assert texts == first
    assert [len(each) for each in texts] == [1, 3, 3, 3, 1]
    assert compare.evaluate("document.querySelectorAll('script').length") == 2
    assert compare.evaluate("document.querySelectorAll('b, i').length") == 0


def test_another_prompt_can_be_selected(compare: Page, comparison: StrategyComparison) -> None:
    compare.evaluate(
        "(() => { const s = document.getElementById('prompts'); s.value = 1; s.dispatchEvent(new Event('change')) })()"
    )
    assert compare.evaluate("document.getElementById('prompt').textContent") == comparison.prompts[1]
    found = compare.evaluate("[...document.querySelectorAll('.card')].map(c => c.querySelector('.words').textContent)")
    assert found == [visible(row.cells[1].samples[0].text) for row in comparison.strategies]


@pytest.mark.parametrize("how", ["hover", "tap", "keys"])
def test_a_token_of_any_strategy_shows_its_alternatives(
    compare: Page, comparison: StrategyComparison, how: str
) -> None:
    token = list(parts(comparison.rows[2].cells[0].samples[0]))[1][1]
    note = note_of_second_token(compare, "document.querySelectorAll('.card')[2].querySelector('.words')", how)
    assert f"id {token.id}, rank {token.rank}\n" in note
    assert len(note.split("\n\n")[1].split("\n")) == len(token.alternatives)


def test_repeated_passages_are_underlined(browser: Browser, comparison: StrategyComparison, tmp_path: Path) -> None:
    row = comparison.rows[0]
    sample = row.cells[0].samples[0]
    traced = (sample.trace or ())[0]
    tokens = tuple(replace(traced, text=letter, bytes=None, id=ord(letter)) for letter in "abcdabcdx")
    again = replace(
        sample, text="abcdabcdx", token_ids=tuple(map(ord, "abcdabcdx")), trace=tokens, finish_reason="length"
    )
    cells = (replace(row.cells[0], samples=(again,)),)
    page = comparison_page(replace(comparison, rows=(replace(row, cells=cells),)))
    for shown in opened(browser, page, tmp_path / "again.html"):
        marks = shown.evaluate("[...document.querySelectorAll('.token')].map(t => t.classList.contains('again'))")
        assert marks == [False] * 4 + [True] * 4 + [False]


def test_a_click_and_a_key_sort_the_table(compare: Page, comparison: StrategyComparison) -> None:
    order = "[...document.querySelectorAll('#rows tr')].map(r => r.querySelector('.number').textContent)"
    assert compare.evaluate(order) == ["1", "2", "3", "4", "H"]
    values = {
        str(at + 1) if row.spec else "H": row.metrics["perplexity"].mean  # type: ignore[union-attr]
        for at, row in enumerate(comparison.rows)
    }
    rising = sorted(values, key=lambda number: values[number])
    heading = "document.querySelectorAll('#headings th')[3]"
    compare.mouse.click(*middle(compare, f"{heading}.querySelector('button')"))
    assert compare.evaluate(order) == rising
    assert compare.evaluate(f"{heading}.getAttribute('aria-sort')") == "ascending"
    compare.evaluate(f"{heading}.querySelector('button').focus()")
    compare.keyboard.press("Enter")
    assert compare.evaluate(order) == rising[::-1]
    assert compare.evaluate(f"{heading}.getAttribute('aria-sort')") == "descending"
    compare.evaluate("document.querySelectorAll('#headings button')[0].click()")
    assert compare.evaluate("document.querySelectorAll('[aria-sort]').length") == 1


def test_missing_values_are_last_in_any_order(compare: Page, comparison: StrategyComparison) -> None:
    headings = compare.evaluate("[...document.querySelectorAll('#headings button')].map(b => b.textContent)")
    at = headings.index("tokens/s")
    for _ in range(2):
        compare.evaluate(f"document.querySelectorAll('#headings button')[{at}].click()")
        cells = compare.evaluate(f"[...document.querySelectorAll('#rows tr')].map(r => r.children[{at}].textContent)")
        assert cells[-1] == "–"
        assert "–" not in cells[:-1]


def test_every_plot_is_drawn_in_the_colours_of_the_page(compare: Page) -> None:
    titles = compare.evaluate("[...document.querySelectorAll('figcaption')].map(f => f.textContent)")
    assert titles[0].startswith("Perplexity against Self-BLEU-4")
    assert titles[1].startswith("Mean probability of the tokens at each position")
    assert "perplexity along top_p" in titles
    seen = "[...document.querySelectorAll('figure svg')].every(s => s.getBoundingClientRect().height > 100)"
    assert compare.evaluate(seen)
    assert compare.evaluate("document.querySelectorAll('figure svg [style]').length") == 0
    line = "document.querySelector('figure svg [stroke=\"var(--s1)\"]')"
    colours = []
    for scheme in ("light", "dark"):
        compare.emulate_media(color_scheme=scheme)
        colours.append(compare.evaluate(f"getComputedStyle({line}).stroke"))
    assert len(set(colours)) == 2
    assert all(re.fullmatch(r"rgb\(\d+, \d+, \d+\)", colour) for colour in colours)


def test_plots_are_the_same_every_time(comparison: StrategyComparison, compared: str) -> None:
    assert comparison_page(comparison) == compared


def test_a_page_of_very_many_prompts_shows_the_traced_ones_and_says_so(comparison: StrategyComparison) -> None:
    def untraced(row: StrategyRow) -> StrategyRow:
        first, *others = row.cells
        bare = [replace(cell, samples=tuple(replace(each, trace=None) for each in cell.samples)) for cell in others]
        return replace(row, cells=(first, *bare))

    page = comparison_page(replace(comparison, rows=tuple(map(untraced, comparison.rows))))
    data = json.loads(page.split('id="data">')[1].split("<")[0])
    assert len(data["prompts"]) == 1
    assert data["cut"] == "Shown are the texts of 1 of 2 prompts."


def test_the_policy_of_a_page_blocks_foreign_scripts(browser: Browser, maps: AttentionMaps, tmp_path: Path) -> None:
    path = tmp_path / "changed.html"
    path.write_text(attention_page(maps).replace("</body>", "<script>window.foreign = 1</script></body>"))
    page, console, _ = open_page(browser, path)
    assert page.evaluate("window.foreign === undefined")
    assert any("Content Security Policy" in line for line in console)


def test_the_data_of_a_page_cannot_end_an_element() -> None:
    page = make_page("<i>", {"text": "</script><!--<script>&\u2028"}, "score")
    data = page.split('id="data">')[1].split("</script>")[0]
    assert not set("<>&\u2028") & set(data)
    assert json.loads(data)["text"] == "</script><!--<script>&\u2028"
    assert "<title>&lt;i&gt;</title>" in page


def test_a_score_page_shows_no_more_than_a_browser_can_and_says_so(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genlm.views.score.MOST_PAGE_TOKENS", 5)
    scorer = Scorer(model, [Text("fox"), Text("wolf and fox"), Text("fox")])
    page = ScorePage()
    for text in scorer:
        page.show(text)
    data = json.loads(
        page.page(model.info, MadeBy.now(), scorer.total, **scorer.settings).split('id="data">')[1].split("<")[0]
    )
    assert sum(len(item["tokens"]) for item in data["items"]) == 5
    assert data["cut"].startswith(f"Shown are the first 5 of {scorer.total.num_tokens} tokens")
    assert data["total"][0] == ["texts", "3"]


def test_an_attention_page_too_large_for_a_browser_is_refused(
    maps: AttentionMaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genlm.views.attention.MOST_WEIGHTS", 100)
    with pytest.raises(UsageError, match="too large for a browser"):
        attention_page(maps)
