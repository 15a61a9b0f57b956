"""The scheduler: a request gives the same completions whatever arrives, ends, fails or is cancelled beside it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpt2 import save_gpt2
from support.models import load, save_other
from support.networks import Cramped, Poisoned, Recording, with_network

from genlm.decoding.completion import Completion, Failed, Piece, Prefilled
from genlm.decoding.dispatch import decode, decode_many, make_scheduler
from genlm.decoding.kinds import KINDS
from genlm.decoding.request import Request
from genlm.decoding.scheduler import Scheduler
from genlm.decoding.strategy import Strategy
from genlm.errors import ModelError
from genlm.model.gpt2 import GPT2
from genlm.model.load import Model
from genlm.model.pieces import Pieces

SPECS = [
    *KINDS,
    "top-p:presence_penalty=0.5,frequency_penalty=0.3,min_new_tokens=9",
    "sample:xtc_probability=0.5,xtc_threshold=0.05",
    "top-k:dry_multiplier=1,dry_allowed_length=1,repetition_penalty=1.3",
    "greedy:no_repeat_ngram_size=2",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny GPT-2 whose texts end at many lengths."""
    ends = list(range(0, 300, 11))
    return load(save_gpt2(tmp_path_factory.mktemp("models") / "ending", eos_token_id=ends, n_positions=96))


def prompt(number: int) -> tuple[int, ...]:
    """Return a prompt of 1 to 40 tokens, a different one for each number."""
    generator = torch.Generator().manual_seed(number)
    return tuple(torch.randint(5, 300, (1 + 7 * number % 40,), generator=generator).tolist())


def make_request(model: Model, number: int, spec: str = "top-p", **changes: Any) -> Request:
    request = Request(
        prompt(number),
        Strategy.parse(spec),
        max_new_tokens=3 + 5 * number % 30,
        count=1,
        seed=number % 3,
        eos_ids=model.eos_ids,
        stop=(),
        decode=model.tokenizer.decode,
    )
    return replace(request, **changes)


def endless(model: Model, number: int, spec: str = "top-p", **changes: Any) -> Request:
    """Return a request for 20 tokens, each spelled by a letter, that no end token cuts short."""
    settings = {"max_new_tokens": 20, "eos_ids": frozenset(), "decode": spell} | changes
    return make_request(model, number, spec, **settings)


def spell(ids: Sequence[int]) -> str:
    return "".join(chr(ord("a") + id % 26) for id in ids)


def alone(model: Model, request: Request) -> list[Completion]:
    """Return the completions of a request that runs by itself."""
    events = decode(model.network, request)
    return sorted((event for event in events if isinstance(event, Completion)), key=lambda each: each.index)


Results = dict[Any, "list[Completion] | Exception"]


def collect(events: Iterable[tuple[Any, Any]], results: Results | None = None) -> Results:
    """Return the completions or the error of every key."""
    results = {} if results is None else results
    for key, event in events:
        if isinstance(event, Completion):
            completions = results.setdefault(key, [])
            assert isinstance(completions, list)
            completions.append(event)
            completions.sort(key=lambda each: each.index)
        elif isinstance(event, Failed):
            results[key] = event.error
    return results


def together(model: Model, requests: Iterable[Request], scheduler: Scheduler | int | None = 4) -> Results:
    """Return the results of requests that share steps, by position."""
    if not isinstance(scheduler, Scheduler):
        scheduler = make_scheduler(model.network, scheduler)
    return collect(decode_many(scheduler, enumerate(requests)))


def run(scheduler: Scheduler) -> Iterator[tuple[int, Any]]:
    """Yield the events of everything that a scheduler holds."""
    while scheduler.has_work:
        yield from scheduler.step()


def step_until(scheduler: Scheduler, kind: type, id: int | None = None) -> list[tuple[int, Any]]:
    """Step until there is an event of this kind. Return all events up to then."""
    seen: list[tuple[int, Any]] = []
    while not any(isinstance(event, kind) and id in (None, key) for key, event in seen):
        assert scheduler.has_work
        seen += scheduler.step()
    return seen


def assert_same(found: list[Completion] | Exception, expected: list[Completion]) -> None:
    assert isinstance(found, list), found
    assert [replace(each, logprob=0.0) for each in found] == [replace(each, logprob=0.0) for each in expected]
    assert [each.logprob for each in found] == pytest.approx([each.logprob for each in expected], abs=1e-3)


def assert_as_alone(model: Model, requests: Sequence[Request], scheduler: Scheduler | int | None = 4) -> None:
    results = together(model, requests, scheduler)
    assert results.keys() == set(range(len(requests)))
    for position, request in enumerate(requests):
        assert_same(results[position], alone(model, request))


class TestSharedSteps:
    @pytest.mark.parametrize("spec", SPECS)
    def test_every_strategy_gives_the_same_result_in_a_batch_and_alone(self, model: Model, spec: str) -> None:
        assert_as_alone(model, [make_request(model, number, spec) for number in range(11)])

    @pytest.mark.parametrize("size", [1, 2, 3, 7, None])
    def test_strategies_counts_stops_and_lengths_may_all_differ(self, model: Model, size: int | None) -> None:
        counts = {"greedy": 1, "contrastive": 1, "dola": 1}
        requests = [
            make_request(
                model, number, spec, count=counts.get(spec.partition(":")[0], 1 + number % 2), stop=("e", "wolf")[:stop]
            )
            for number, (spec, stop) in enumerate(zip(SPECS, [0, 1, 2] * len(SPECS), strict=False))
        ]
        assert_as_alone(model, requests, size)

    def test_more_samples_of_a_prompt_than_slots(self, model: Model) -> None:
        counts = {5: 7, 6: 1, 7: 6}
        assert_as_alone(model, [make_request(model, number, count=count) for number, count in counts.items()], 3)

    def test_equal_requests_all_finish(self, model: Model) -> None:
        assert_as_alone(model, [make_request(model, 3)] * 9)

    def test_prompts_that_fill_the_context(self, model: Model) -> None:
        full = make_request(model, 1, "greedy", prompt_ids=tuple(range(5, 91)), max_new_tokens=10, eos_ids=frozenset())
        numbered = [make_request(model, number) for number in (2, 8, 9)]
        assert_as_alone(model, [numbered[0], full, numbered[1], full, numbered[2]], 2)

    @pytest.mark.parametrize("family", ["llama", "mistral"])
    def test_other_models_share_steps_too(self, family: str, tmp_path: Path) -> None:
        # Mistral attends to the last four tokens only.
        other = load(save_other(tmp_path / family, family, max_position_embeddings=96))
        assert_as_alone(other, [make_request(other, number, SPECS[number % 13]) for number in range(14)], 3)

    def test_sixteen_bits_run_no_fewer_rows_than_alone(self, tmp_path: Path) -> None:
        half = load(save_gpt2(tmp_path / "half", n_positions=96), dtype="bfloat16")
        network = Recording(half.network)
        requests = [make_request(half, number, least_rows=4) for number in range(6)]
        results = together(with_network(half, network), requests, 6)
        assert all(isinstance(each, list) for each in results.values())
        assert (min(network.rows), max(network.rows)) == (4, 6)

    def test_a_trace_is_kept_only_for_the_request_that_wants_one(self, model: Model) -> None:
        traced = make_request(model, 3, pieces=Pieces(model.tokenizer))
        results = together(model, [make_request(model, 2), traced, make_request(model, 4)])
        traces = [each.trace for position in range(3) for each in results[position]]  # type: ignore[union-attr]
        assert traces[0] is traces[2] is None
        (expected,) = alone(model, traced)
        assert [(token.id, token.rank) for token in traces[1]] == [(token.id, token.rank) for token in expected.trace]


class TestScheduling:
    def test_many_windows(self, model: Model) -> None:
        requests = [make_request(model, number, SPECS[number % 9]) for number in range(17)]
        scheduler = Scheduler(model.network, search(model), max_sequences=3, window=3)
        assert_as_alone(model, requests, scheduler)

    def test_requests_are_taken_a_window_at_a_time(self, model: Model) -> None:
        taken = 0

        def unlimited() -> Iterator[tuple[int, Request]]:
            nonlocal taken
            while True:
                yield taken, make_request(model, taken)
                taken += 1

        events = decode_many(Scheduler(model.network, max_sequences=3, window=5), unlimited())
        ended = 0
        while ended < 20:
            ended += isinstance(next(events)[1], Completion)
        assert taken <= 20 + 3 * 5

    @pytest.mark.parametrize(("spec", "max_sequences"), [("top-p", 1), ("beam", 2)])
    def test_no_request_waits_forever(self, model: Model, spec: str, max_sequences: int) -> None:
        """Short prompts and searches go last within a window, but before requests that arrive after it."""
        scheduler = make_scheduler(model.network, max_sequences)
        first = scheduler.submit(endless(model, 0, spec, prompt_ids=(5,)))
        ended = []
        for _ in range(400):
            if scheduler.num_waiting < 3:
                scheduler.submit(endless(model, 1, max_new_tokens=3))
            ended += [id for id, event in scheduler.step() if isinstance(event, Completion)]
        assert first in ended

    def test_a_slot_goes_to_the_next_sequence_at_once(self, model: Model) -> None:
        network = Recording(model.network)
        requests = [make_request(model, number, max_new_tokens=5, eos_ids=frozenset()) for number in range(12)]
        together(with_network(model, network), requests)
        # The prefill gives the first of five tokens, so each sequence takes four steps; four run at once, three times.
        assert network.rows == [4] * 12

    def test_no_token_is_computed_for_a_sequence_that_has_ended(self, model: Model) -> None:
        network = Recording(model.network)
        results = together(with_network(model, network), [make_request(model, number) for number in range(30)], 8)
        tokens = sum(len(each.token_ids) for found in results.values() if isinstance(found, list) for each in found)
        assert sum(network.rows) == tokens - 30

    def test_prompts_of_similar_length_are_prefilled_together(self, model: Model) -> None:
        network = Recording(model.network)
        scheduler = Scheduler(network, max_sequences=4, prefill_tokens=100)  # type: ignore[arg-type]
        together(model, [make_request(model, number) for number in range(40)], scheduler)
        groups = [[len(each) for each in group] for group in network.prefills]
        padded = sum(len(group) * max(group) for group in groups)
        assert padded <= 1.1 * sum(map(sum, groups))
        assert len(groups) < 15
        assert all(len(group) * max(group) <= 100 for group in groups)

    def test_prompts_are_prefilled_before_a_slot_is_free(self, model: Model) -> None:
        scheduler = Scheduler(model.network, max_sequences=1, prefill_tokens=1)
        first, second = (scheduler.submit(endless(model, number)) for number in (2, 7))
        seen = step_until(scheduler, Completion)
        assert (second, Prefilled()) in seen
        assert seen[-1][0] == first


def search(model: Model) -> Any:
    """Return what runs requests separately if they search."""
    return lambda request: decode(model.network, request) if request.strategy.declaration.loop else None


class TestSubmit:
    def test_while_others_run(self, model: Model) -> None:
        requests = [make_request(model, number, count=1 + number % 3) for number in range(12)]
        scheduler = Scheduler(model.network, max_sequences=4)
        waiting = list(requests)
        ids: list[int] = []
        results: Results = {}
        while waiting or scheduler.has_work:
            if waiting:
                ids.append(scheduler.submit(waiting.pop(0)))
            collect(scheduler.step(), results)
        assert ids == sorted(set(ids))
        for id, request in zip(ids, requests, strict=True):
            assert_same(results[id], alone(model, request))

    def test_again_after_all_work_is_done(self, model: Model) -> None:
        scheduler = Scheduler(model.network)
        for number in (1, 2):
            request = make_request(model, number)
            id = scheduler.submit(request)
            assert_same(collect(run(scheduler))[id], alone(model, request))
            assert scheduler.step() == []

    def test_the_scheduler_knows_what_has_not_ended(self, model: Model) -> None:
        scheduler = Scheduler(model.network)
        assert not scheduler.has_work
        first, second = scheduler.submit(endless(model, 1)), scheduler.submit(endless(model, 2, max_new_tokens=5))
        assert scheduler.has_work
        assert scheduler.num_waiting == 2
        step_until(scheduler, Completion, second)
        assert second not in scheduler
        assert first in scheduler
        assert scheduler.num_waiting == 0

    def test_the_order_of_events(self, model: Model) -> None:
        scheduler = Scheduler(model.network, max_sequences=2)
        ids = [scheduler.submit(make_request(model, number, count=3)) for number in range(5)]
        events = list(run(scheduler))
        for id in ids:
            own = [event for key, event in events if key == id]
            assert own[0] == Prefilled()
            assert Prefilled() not in own[1:]
            for index in range(3):
                *pieces, last = [event for event in own[1:] if event.index == index]
                assert isinstance(last, Completion)
                assert all(isinstance(piece, Piece) for piece in pieces)
                assert "".join(piece.text for piece in pieces) == last.text

    def test_a_step_adds_at_most_one_token_to_a_sequence(self, model: Model) -> None:
        scheduler = Scheduler(model.network)
        scheduler.submit(endless(model, 1, count=3))
        while scheduler.has_work:
            pieces = [event for _, event in scheduler.step() if isinstance(event, Piece)]
            assert all(len(piece.text) == 1 for piece in pieces)
            assert len({piece.index for piece in pieces}) == len(pieces)


class TestCancel:
    def test_a_waiting_request(self, model: Model) -> None:
        network = Recording(model.network)
        scheduler = Scheduler(network, max_sequences=1)  # type: ignore[arg-type]
        requests = [endless(model, number) for number in (1, 2)]
        kept, cancelled = (scheduler.submit(request) for request in requests)
        scheduler.cancel(cancelled)
        assert_same(collect(run(scheduler))[kept], alone(model, requests[0]))
        assert network.prefills == [[requests[0].prompt_ids]]

    def test_a_prefilled_request(self, model: Model) -> None:
        scheduler = Scheduler(model.network, max_sequences=1)
        requests = [endless(model, 3)] * 3
        ids = [scheduler.submit(request) for request in requests]
        # All three are prefilled together; one of them runs.
        seen = step_until(scheduler, Piece)
        assert {id for id, event in seen if event == Prefilled()} == set(ids)
        (running,) = {id for id, event in seen if isinstance(event, Piece)}
        cancelled = next(id for id in ids if id != running)
        scheduler.cancel(cancelled)
        results = collect(run(scheduler), collect(seen))
        assert results.keys() == set(ids) - {cancelled}
        for found in results.values():
            assert_same(found, alone(model, requests[0]))

    @pytest.mark.parametrize("victim", [0, 1, 2, 3])
    def test_a_running_request(self, model: Model, victim: int) -> None:
        network = Recording(model.network)
        scheduler = Scheduler(network, max_sequences=5)  # type: ignore[arg-type]
        requests = [endless(model, number, count=2 if number == 2 else 1) for number in range(1, 5)]
        ids = [scheduler.submit(request) for request in requests]
        seen = []
        for _ in range(8):
            seen += scheduler.step()
        assert network.rows[-1] == 5
        scheduler.cancel(ids[victim])
        assert ids[victim] not in scheduler
        results = collect(run(scheduler), collect(seen))
        assert network.rows[-1] == 5 - requests[victim].count
        assert results.keys() == set(ids) - {ids[victim]}
        for id, request in zip(ids, requests, strict=True):
            if id in results:
                assert_same(results[id], alone(model, request))

    def test_its_slot_goes_to_the_next_request(self, model: Model) -> None:
        scheduler = Scheduler(model.network, max_sequences=1)
        first = scheduler.submit(endless(model, 7))
        step_until(scheduler, Piece)
        second = scheduler.submit(endless(model, 2))
        scheduler.cancel(first)
        # One step for the prefill, one for the first token.
        events = scheduler.step() + scheduler.step()
        assert [id for id, _ in events] == [second, second]

    @pytest.mark.parametrize("spec", ["top-p", "beam"])
    def test_it_frees_the_memory(self, model: Model, spec: str) -> None:
        caches: list[weakref.ref[Any]] = []

        class Watched(Recording):
            def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[torch.Tensor, Any]:
                logits, cache = self.network.prefill(prompts, room)
                caches.append(weakref.ref(cache))
                return logits, cache

        network: Any = Watched(model.network)
        scheduler = make_scheduler(network)
        ids = [scheduler.submit(endless(model, number, spec)) for number in range(1, 4)]
        for _ in range(6):
            scheduler.step()
        for id in ids:
            scheduler.cancel(id)
        gc.collect()
        assert caches
        assert all(cache() is None for cache in caches)
        assert not scheduler.has_work
        assert scheduler.step() == []

    def test_a_search(self, model: Model) -> None:
        scheduler = make_scheduler(model.network)
        beam, sample = scheduler.submit(endless(model, 1, "contrastive")), scheduler.submit(endless(model, 2))
        results = collect(step_until(scheduler, Piece, beam))
        scheduler.cancel(beam)
        assert collect(run(scheduler), results).keys() == {sample}

    def test_a_request_that_has_ended_or_never_was(self, model: Model) -> None:
        scheduler = Scheduler(model.network)
        id = scheduler.submit(make_request(model, 1))
        collect(run(scheduler))
        scheduler.cancel(id)
        scheduler.cancel(12345)
        assert not scheduler.has_work

    def test_while_its_failure_is_looked_for(self, model: Model) -> None:
        requests = [endless(model, number) for number in range(1, 5)]
        token = alone(model, requests[2])[0].token_ids[3]
        network: Any = Poisoned(model.network, token, RuntimeError("no"), at="step")
        scheduler = Scheduler(network)
        ids = [scheduler.submit(request) for request in requests]
        seen = step_until(scheduler, Prefilled, ids[0])
        # A second prefill says that the step failed.
        seen += step_until(scheduler, Prefilled, ids[2])
        scheduler.cancel(ids[2])
        results = collect(run(scheduler), collect(seen))
        for id, request in zip(ids, requests, strict=True):
            if id != ids[2] and token not in alone(model, request)[0].token_ids[:-1]:
                assert_same(results[id], alone(model, request))


class TestDrain:
    def test_what_runs_is_finished_and_what_waits_is_dropped(self, model: Model) -> None:
        scheduler = make_scheduler(model.network, 2)
        requests = [endless(model, number, "beam" if number == 5 else "top-p") for number in range(1, 7)]
        ids = [scheduler.submit(request) for request in requests]
        seen = step_until(scheduler, Piece)
        running = {id for id, event in seen if isinstance(event, Piece)}
        assert len(running) == 2
        dropped = scheduler.drain()
        assert set(dropped) == set(ids) - running
        assert scheduler.num_waiting == 0
        results = collect(run(scheduler), collect(seen))
        assert results.keys() == running
        for id in running:
            assert_same(results[id], alone(model, requests[ids.index(id)]))

    def test_sequences_of_a_request_that_runs_in_part(self, model: Model) -> None:
        scheduler = Scheduler(model.network, max_sequences=2)
        request = endless(model, 3, count=5)
        id = scheduler.submit(request)
        seen = step_until(scheduler, Piece)
        assert scheduler.drain() == [id]
        (found,) = collect(run(scheduler), collect(seen)).values()
        assert_same(found, alone(model, request)[:2])
        assert not scheduler.has_work

    def test_a_search_that_runs_is_finished(self, model: Model) -> None:
        scheduler = make_scheduler(model.network)
        request = endless(model, 3, "contrastive")
        id = scheduler.submit(request)
        seen = step_until(scheduler, Piece)
        assert scheduler.drain() == []
        assert_same(collect(run(scheduler), collect(seen))[id], alone(model, request))

    def test_what_runs_is_finished_even_if_memory_runs_out(self, model: Model) -> None:
        requests = [endless(model, number) for number in range(1, 5)]
        network = Cramped(model.network, 9)
        scheduler = Scheduler(network, max_sequences=4)  # type: ignore[arg-type]
        ids = [scheduler.submit(request) for request in requests]
        seen = []
        for _ in range(6):
            seen += scheduler.step()
        assert scheduler.drain() == []
        network.most_rows = 2
        results = collect(run(scheduler), collect(seen))
        assert network.refused
        for id, request in zip(ids, requests, strict=True):
            assert_same(results[id], alone(model, request))

    def test_nothing_can_be_submitted_any_more(self, model: Model) -> None:
        scheduler = Scheduler(model.network)
        assert scheduler.drain() == []
        with pytest.raises(RuntimeError, match="draining"):
            scheduler.submit(make_request(model, 1))

    def test_decode_many_drains_when_it_should_stop(self, model: Model) -> None:
        requests = [(number, endless(model, number)) for number in range(1, 9)]
        pieces: list[int] = []
        ended = []
        for key, event in decode_many(make_scheduler(model.network, 3), requests, lambda: bool(pieces)):
            (ended if isinstance(event, Completion) else pieces if isinstance(event, Piece) else []).append(key)
        assert len(ended) == 3


class TestFailures:
    @pytest.mark.parametrize(
        "error", [None, RuntimeError("the kernel fell over"), ModelError("no")], ids=["nan", "raw", "own"]
    )
    @pytest.mark.parametrize("at", ["prompt", "step"])
    @pytest.mark.parametrize("count", [1, 7])
    def test_a_failing_request_leaves_the_others_unchanged(
        self, model: Model, error: Exception | None, at: str, count: int
    ) -> None:
        requests = [make_request(model, number, count=count if number % 2 else 1) for number in range(12)]
        token = requests[7].prompt_ids[1] if at == "prompt" else alone(model, requests[7])[0].token_ids[1]
        expected = [alone(model, each) for each in requests]
        results = together(with_network(model, Poisoned(model.network, token, error, at=at)), requests)
        assert results.keys() == set(range(12))
        failed = sorted(position for position, each in results.items() if isinstance(each, Exception))
        meets_token = [
            any(token in (each.prompt_ids if at == "prompt" else done.token_ids[:-1]) for done in expected[position])
            for position, each in enumerate(requests)
        ]
        assert failed == [position for position, meets in enumerate(meets_token) if meets]
        assert 7 in failed
        assert len(failed) < 9
        for position in set(range(12)) - set(failed):
            assert_same(results[position], expected[position])

    def test_nothing_follows_a_failure(self, model: Model) -> None:
        requests = [make_request(model, number, count=4) for number in range(8)]
        token = alone(model, requests[7])[0].token_ids[1]
        network: Any = Poisoned(model.network, token, None, at="step")
        scheduler = Scheduler(network)
        for request in requests:
            scheduler.submit(request)
        failed: set[int] = set()
        for id, event in run(scheduler):
            assert id not in failed
            if isinstance(event, Failed):
                failed.add(id)
                assert isinstance(event.error, ModelError)
        assert failed

    def test_a_decoder_that_fails(self, model: Model) -> None:
        """Whatever fails for one request only, the other requests of the step finish."""

        def fail(ids: list[int]) -> str:
            if len(ids) > len(requests[2].prompt_ids) + 4:
                raise ValueError("cannot spell this")
            return spell(ids)

        requests = [endless(model, number) for number in (9, 10, 1, 12)]
        requests[2] = replace(requests[2], decode=fail, prompt_ids=requests[2].prompt_ids[-3:])
        results = together(model, requests)
        assert isinstance(results.pop(2), ValueError)
        for position, found in results.items():
            assert_same(found, alone(model, requests[position]))

    def test_a_search_that_fails_leaves_the_others_unchanged(self, model: Model) -> None:
        specs = ["dola", "top-p", "beam", "beam"]
        requests = [make_request(model, number, spec) for number, spec in enumerate(specs, 1)]
        token = requests[2].prompt_ids[0]
        poisoned = Poisoned(model.network, token, RuntimeError("no"), at="prompt")
        results = together(with_network(model, poisoned), requests)
        failed = {position for position, each in enumerate(requests) if token in each.prompt_ids}
        assert {position for position, each in results.items() if isinstance(each, Exception)} == failed
        assert 2 in failed
        for position in set(range(4)) - failed:
            assert_same(results[position], alone(model, requests[position]))

    def test_without_recovery_a_failure_is_raised(self, model: Model) -> None:
        network: Any = Poisoned(model.network, prompt(2)[0], RuntimeError("no"), at="prompt")
        scheduler = Scheduler(network, recover=False)
        scheduler.submit(make_request(model, 2))
        with pytest.raises(RuntimeError, match="no"):
            list(run(scheduler))

    @pytest.mark.parametrize(("rows", "tokens"), [(3, 10**9), (1, 10**9), (64, 60), (5, 45)])
    def test_without_memory_fewer_run_at_once_and_nothing_is_lost(self, model: Model, rows: int, tokens: int) -> None:
        requests = [make_request(model, number, SPECS[number % 9], count=1) for number in range(20)]
        requests = [each for each in requests if not each.strategy.declaration.loop]
        network = Cramped(model.network, rows, tokens)
        results = together(with_network(model, network), requests, 8)
        assert results.keys() == set(range(len(requests)))
        for position, each in enumerate(requests):
            assert_same(results[position], alone(model, each))
        assert 1 <= network.refused <= 6 if tokens == 10**9 else network.refused

    def test_sequences_that_start_over_say_so(self, model: Model) -> None:
        """After another `Prefilled`, the pieces of unfinished sequences are repeated from the start."""
        network: Any = Cramped(model.network, 2)
        scheduler = Scheduler(network, max_sequences=4)
        ids = [scheduler.submit(endless(model, number)) for number in range(1, 5)]
        texts = dict.fromkeys(ids, "")
        restarts = dict.fromkeys(ids, -1)
        for id, event in run(scheduler):
            if isinstance(event, Prefilled):
                texts[id] = ""
                restarts[id] += 1
            elif isinstance(event, Piece):
                texts[id] += event.text
            else:
                assert texts[id] == event.text
        assert all(count > 0 for count in restarts.values())

    def test_a_prompt_that_no_memory_holds_fails_by_itself(self, model: Model) -> None:
        requests = [make_request(model, number) for number in range(12)]
        results = together(with_network(model, Cramped(model.network, 9, most_tokens=30)), requests)
        for position, each in enumerate(requests):
            if len(each.prompt_ids) > 30:
                assert isinstance(results[position], RuntimeError)
            else:
                assert_same(results[position], alone(model, each))
        assert any(isinstance(each, RuntimeError) for each in results.values())

    def test_a_single_sequence_beyond_the_memory_fails(self, model: Model) -> None:
        request = make_request(model, 3, eos_ids=frozenset())
        results = together(with_network(model, Cramped(model.network, 0)), [request])
        assert isinstance(results[0], RuntimeError)

    def test_requests_that_failed_before_are_passed_on(self, model: Model) -> None:
        given: list[tuple[int, Request | Failed]] = [(0, Failed(ModelError("no"))), (1, make_request(model, 1))]
        results = collect(decode_many(Scheduler(model.network, window=1), given))
        assert isinstance(results[0], ModelError)
        assert_same(results[1], alone(model, make_request(model, 1)))

    def test_nan_in_a_cache_reaches_no_later_sequence(self, model: Model) -> None:
        assert isinstance(model.network, GPT2)
        _, cache = model.network.prefill([prompt(5)], 4)
        with torch.inference_mode():
            cache.keys.fill_(torch.nan)
            cache.values.fill_(torch.nan)
        _, fresh = model.network.prefill([prompt(1), prompt(2)], 4)
        cache.insert(torch.tensor([0, 1]), fresh, torch.tensor([0, 1]), 4)
        assert len(prompt(1)) < len(prompt(2)) < len(prompt(5))
        assert cache.step(torch.tensor([9, 9])).isfinite().all()
