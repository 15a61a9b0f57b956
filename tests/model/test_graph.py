"""Captured decode steps: the fixed-shape step itself, and when it is captured, checked and given up.

The recorder of these tests calls the captured function again where CUDA would replay its kernels, so most of this runs
on any machine; the last tests need a GPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpt2 import VARIANTS, save_gpt2
from support.models import load
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from genlm import LanguageModel, Strategy
from genlm.decoding.completion import Completion
from genlm.decoding.dispatch import decode_many, make_scheduler
from genlm.decoding.request import Request
from genlm.model.gpt2 import GPT2, Config, GPT2Cache
from genlm.model.graph import PATIENCE, REPLAYED, CudaCapture, Graphs, is_rounding
from genlm.model.load import Model

EVEN, RAGGED = ([5, 9, 200], [42, 8, 7], [8, 250, 3]), ([5, 9, 200, 31], [42], [8, 250, 3])
RECORDED_AFTER, TRUSTED_AFTER = PATIENCE, PATIENCE + 1


class Recorder:
    """A Capture that calls the function again and writes into one tensor, like a graph; `spoil` changes the result."""

    def __init__(self, spoil: Callable[[Tensor], Tensor] = lambda logits: logits) -> None:
        self.spoil = spoil
        self.captures = self.replays = 0
        self.graphs: weakref.WeakSet[Any] = weakref.WeakSet()

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.captures += 1
        made = run()

        def replay() -> Tensor:
            self.replays += 1
            return made.copy_(self.spoil(run()))

        self.graphs.add(replay)
        return replay


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> GPT2:
    gpt2 = load(save_gpt2(tmp_path_factory.mktemp("models") / "graph")).network
    assert isinstance(gpt2, GPT2)
    return gpt2


@pytest.fixture
def recorder(network: GPT2, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """The capture of the network's steps."""
    made = Recorder()
    monkeypatch.setattr(network, "graphs", Graphs(made))
    return made


def start(network: GPT2, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, GPT2Cache]:
    """Return the first greedy tokens and the cache."""
    logits, cache = network.prefill(prompts, room)
    return logits.argmax(-1), cache


def follow(cache: GPT2Cache, ids: Tensor, steps: int) -> list[Tensor]:
    """Return the logits of greedy steps."""
    made = []
    for _ in range(steps):
        made.append(cache.step(ids))
        ids = made[-1].argmax(-1)
    return made


def plainly(network: GPT2, prompts: Sequence[Sequence[int]], steps: int) -> list[Tensor]:
    """Return the logits of greedy steps that are never captured."""
    ids, cache = start(network, prompts, steps)
    cache.never_capture()
    return follow(cache, ids, steps)


def assert_same(made: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    torch.testing.assert_close(torch.stack(list(made)), torch.stack(list(expected)), rtol=1e-4, atol=1e-4)


# The fixed-shape step.


@pytest.mark.parametrize("prompts", [EVEN, RAGGED], ids=["even", "ragged"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_fixed_shape_step_gives_the_logits_of_the_ordinary_step(
    name: str, dtype: str, prompts: Sequence[Sequence[int]], variant: Callable[[str], Path]
) -> None:
    network = load(variant(name), dtype=dtype).network
    assert isinstance(network, GPT2)
    room = 6
    ids, cache = start(network, prompts, room)
    _, fixed = network.prefill(prompts, room)
    lengths = fixed.lengths
    for _ in range(room):
        expected = cache.step(ids)
        with torch.inference_mode():
            made = network.decode(ids, lengths, fixed.keys, fixed.values)
        assert made.dtype == torch.float32
        if dtype == "float32":
            torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
        assert is_rounding(made, expected, fixed.keys.dtype)
        ids, lengths = expected.argmax(-1), lengths + 1
        # The same token, unless rounding decides between the best two.
        best = made.gather(-1, ids[:, None])[:, 0]
        assert (made.amax(-1) - best <= 2 * (made - expected).abs().amax(-1)).all()


def test_a_fixed_shape_step_never_reads_a_value_or_leaves_the_device() -> None:
    """A tensor on the meta device has no values, so nothing can read one."""
    config = Config(n_embd=32, n_head=4, n_layer=2, n_positions=64, vocab_size=50, reorder_and_upcast_attn=True)
    with torch.device("meta"):
        network = GPT2(config)
    keys, values = torch.empty(2, 2, 3, 4, 20, 8, device="meta")
    ids, lengths = torch.zeros(2, 3, dtype=torch.long, device="meta")
    with OnlyOn("meta"):
        assert network.decode(ids, lengths, keys, values).shape == (3, 50)


class OnlyOn(TorchDispatchMode):
    """Fail if an operation's result is on another device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            assert not isinstance(tensor, Tensor) or tensor.device.type == self.device, func
        return made


# When a step is captured, and what happens to the graph.


@pytest.mark.parametrize("prompts", [EVEN, RAGGED], ids=["even", "ragged"])
def test_a_step_is_captured_then_compared_then_replayed(
    network: GPT2, recorder: Recorder, prompts: Sequence[Sequence[int]]
) -> None:
    steps = TRUSTED_AFTER + 12
    ids, cache = start(network, prompts, steps)
    made = follow(cache, ids, RECORDED_AFTER - 1)
    assert (recorder.captures, recorder.replays, network.graph_note) == (0, 0, None)
    made += follow(cache, made[-1].argmax(-1), 1)
    assert (recorder.captures, recorder.replays, network.graph_note) == (1, 0, None)
    made += follow(cache, made[-1].argmax(-1), 1)
    assert (recorder.captures, recorder.replays, network.graph_note) == (1, 1, REPLAYED)
    made += follow(cache, made[-1].argmax(-1), 12)
    assert (recorder.captures, recorder.replays) == (1, 13)
    assert_same(made, plainly(network, prompts, steps))
    with pytest.raises(ValueError, match="there is room for"):
        cache.step(ids)


def test_a_replay_does_not_overwrite_earlier_logits(network: GPT2, recorder: Recorder) -> None:
    ids, cache = start(network, EVEN, 30)
    follow(cache, ids, TRUSTED_AFTER)
    first = cache.step(ids)
    copy = first.clone()
    cache.step(ids)
    assert recorder.replays == 3
    assert first.equal(copy)


def test_a_graph_writes_into_the_cache(network: GPT2, recorder: Recorder) -> None:
    ids, cache = start(network, EVEN[:1], TRUSTED_AFTER + 4)
    memory = cache.keys.data_ptr()
    made = follow(cache, ids, TRUSTED_AFTER + 2)
    assert recorder.replays > 1
    assert cache.keys.data_ptr() == memory
    # Several tokens at once take the ordinary way, on what the replays wrote.
    draft = torch.tensor([[7, 8]])
    chosen = [int(ids)] + [int(logits.argmax()) for logits in made[:-1]]
    expected = network.logits_of([[*EVEN[0], *chosen, 7, 8]], [0])[-2:]
    torch.testing.assert_close(cache.extend(draft), expected, rtol=1e-4, atol=1e-4)


def test_selected_rows_start_with_ordinary_steps(network: GPT2, recorder: Recorder) -> None:
    ids, cache = start(network, EVEN, 40)
    made = follow(cache, ids, TRUSTED_AFTER + 2)
    replays, ids = recorder.replays, made[-1].argmax(-1)
    swapped = torch.tensor([2, 0])
    taken = follow(cache.select(swapped), ids[swapped], 3)
    assert recorder.replays == replays
    assert_same([logits[swapped] for logits in follow(cache, ids, 3)], taken)
    assert recorder.replays == replays + 3


def test_replacing_a_row_keeps_the_graph(network: GPT2, recorder: Recorder) -> None:
    steps = TRUSTED_AFTER + 4
    ids, cache = start(network, EVEN, 40)
    ids = follow(cache, ids, steps)[-1].argmax(-1)
    first, other = start(network, [[77, 5]], 0)
    cache.insert(torch.tensor([1]), other, torch.tensor([0]), 12)
    ids[1] = first[0]
    replays = recorder.replays
    made = follow(cache, ids, 12)
    assert (recorder.captures, recorder.replays) == (1, replays + 12)
    assert_same([logits[1] for logits in made], [logits[0] for logits in plainly(network, [[77, 5]], 12)])
    assert_same(
        [logits[2] for logits in made], [logits[2] for logits in plainly(network, EVEN, 40)[steps : steps + 12]]
    )


def test_fewer_rows_take_ordinary_steps_until_captured_again(network: GPT2, recorder: Recorder) -> None:
    ids, cache = start(network, RAGGED, 40)
    ids = follow(cache, ids, TRUSTED_AFTER + 1)[-1].argmax(-1)
    cache.keep_first(2)
    replays = recorder.replays
    made = follow(cache, ids[:2], TRUSTED_AFTER)
    assert (recorder.captures, recorder.replays) == (2, replays + 1)
    made += follow(cache, made[-1].argmax(-1), 3)
    assert_same(made, [logits[:2] for logits in plainly(network, RAGGED, 40)[TRUSTED_AFTER + 1 :][: len(made)]])


def test_a_cache_that_grows_is_captured_again(network: GPT2, recorder: Recorder) -> None:
    ids, cache = start(network, EVEN, TRUSTED_AFTER + 2)
    ids = follow(cache, ids, TRUSTED_AFTER + 2)[-1].argmax(-1)
    cache.insert(torch.tensor([0]), cache, torch.tensor([0]), 20)
    replays = recorder.replays
    follow(cache, ids, RECORDED_AFTER)
    assert (recorder.captures, recorder.replays) == (2, replays)


def test_there_is_one_graph_at_a_time_and_it_is_freed_with_the_cache(network: GPT2, recorder: Recorder) -> None:
    ids, cache = start(network, EVEN, 40)
    follow(cache, ids, TRUSTED_AFTER)
    assert len(recorder.graphs) == 1
    cache.keep_first(2)
    cache.step(ids[:2])
    assert len(recorder.graphs) == 0
    follow(cache, ids[:2], TRUSTED_AFTER)
    assert len(recorder.graphs) == 1
    del cache
    assert len(recorder.graphs) == 0


# Failures.


def test_giving_graphs_up_frees_those_in_use(network: GPT2, recorder: Recorder) -> None:
    ids, cache = start(network, EVEN, 40)
    ids = follow(cache, ids, TRUSTED_AFTER + 1)[-1].argmax(-1)
    recorder.spoil = lambda logits: logits * 2.0
    other_ids, other = start(network, RAGGED, 40)
    follow(other, other_ids, TRUSTED_AFTER)
    replays = recorder.replays
    assert_same(follow(cache, ids, 3), plainly(network, EVEN, 40)[TRUSTED_AFTER + 1 :][:3])
    assert recorder.replays == replays
    assert len(recorder.graphs) == 0


def assert_given_up(network: GPT2, recorder: Recorder, reason: str, *, replays: int) -> None:
    """Check that a text continues unchanged without a graph, and the next one too, without another attempt."""
    expected = plainly(network, RAGGED, 30)
    for _ in range(2):
        ids, cache = start(network, RAGGED, 30)
        assert_same(follow(cache, ids, 30), expected)
    assert (recorder.captures, recorder.replays) == (1, replays)
    assert network.graph_note == f"given up: {reason}"
    assert len(recorder.graphs) == 0


def test_a_graph_with_wrong_logits_is_given_up(network: GPT2, recorder: Recorder) -> None:
    recorder.spoil = lambda logits: logits.roll(1, -1)
    assert_given_up(network, recorder, "its logits differ from those of the ordinary step", replays=1)


def test_a_graph_that_ignores_its_inputs_is_given_up(network: GPT2, recorder: Recorder) -> None:
    seen: list[Tensor] = []
    recorder.spoil = lambda logits: seen.append(logits) or seen[0]  # type: ignore[func-returns-value]
    capture = recorder.__call__

    def frozen(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        seen.append(run().clone())
        return capture(run)

    network.graphs.capture = frozen
    assert_given_up(network, recorder, "its logits differ from those of the ordinary step", replays=1)


def test_what_a_wrong_graph_wrote_to_the_cache_is_undone(network: GPT2, recorder: Recorder) -> None:
    expected = plainly(network, RAGGED, 30)
    ids, cache = start(network, RAGGED, 30)

    def spoil(logits: Tensor) -> Tensor:
        cache.keys[:, :3].fill_(5.0)
        cache.values[:, :3].fill_(torch.nan)
        return logits + torch.linspace(0, 9, logits.shape[-1])

    recorder.spoil = spoil
    assert_same(follow(cache, ids, 30), expected)
    assert recorder.replays == 1


def test_a_graph_with_nan_logits_is_given_up(network: GPT2, recorder: Recorder) -> None:
    recorder.spoil = lambda logits: logits * torch.nan
    assert_given_up(network, recorder, "its logits differ from those of the ordinary step", replays=1)


def test_a_failing_replay_is_given_up(network: GPT2, recorder: Recorder) -> None:
    def fail(logits: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: out of memory\nfor debugging")

    recorder.spoil = fail
    assert_given_up(network, recorder, "CUDA error: out of memory", replays=1)


def test_a_failing_capture_is_given_up(network: GPT2, recorder: Recorder) -> None:
    def fail(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        recorder.captures += 1
        raise TypeError("graph() got an unexpected keyword")

    network.graphs.capture = fail
    assert_given_up(network, recorder, "graph() got an unexpected keyword", replays=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_rounding_accepts_rounding_only(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0)).mul_(3.0) - 100.0
    assert is_rounding(logits.to(dtype).float(), logits, dtype)
    assert not is_rounding(logits * torch.nan, logits, dtype)
    wrong = logits.clone()
    wrong[1] = wrong[1].roll(1)
    assert not is_rounding(wrong, logits, dtype)


def test_another_sequence_is_not_rounding(network: GPT2) -> None:
    logits, others = (network.logits_of([ids], [0])[-1:] for ids in ([5, 9, 200, 31], [5, 9, 201, 31]))
    for dtype in (torch.float32, torch.bfloat16):
        assert not is_rounding(others, logits, dtype)


# Decoding.


PROMPTS = ("Once upon a time", "The king", "“Who goes there?” said the wolf, and")


@pytest.mark.parametrize(
    ("spec", "count"), [("greedy", 1), ("top-p:temperature=1.5", 5), ("greedy:repetition_penalty=1.3", 1)]
)
def test_graphs_do_not_change_texts(tiny: Path, spec: str, count: int) -> None:
    plain, recorded = LanguageModel(load(tiny)), load(tiny)
    recorder = record(recorded)
    lm = LanguageModel(recorded)
    for prompt in PROMPTS:
        options: dict[str, Any] = {"strategy": spec, "max_new_tokens": 30, "num_return_sequences": count, "seed": 4}
        assert tokens(lm.generate(prompt, **options)) == tokens(plain.generate(prompt, **options))
    assert recorder.replays > 20


def test_graphs_do_not_change_texts_that_share_steps(tiny: Path) -> None:
    model = load(tiny)
    requests = [
        Request(
            tuple(range(5, 6 + 3 * number % 17)),
            Strategy.parse("top-p"),
            max_new_tokens=12 + 5 * number % 30,
            count=1,
            seed=number,
            eos_ids=frozenset(),
            stop=(),
            decode=model.tokenizer.decode,
        )
        for number in range(12)
    ]

    def texts() -> dict[int, Any]:
        events = decode_many(make_scheduler(model.network, 4), enumerate(requests))
        return {key: event.token_ids for key, event in events if isinstance(event, Completion)}

    expected = texts()
    recorder = record(model)
    assert texts() == expected
    assert len(expected) == 12
    assert recorder.captures > 0
    assert recorder.replays > 20


@pytest.mark.parametrize("spec", ["beam:num_beams=3", "contrastive", "dola"])
def test_searches_take_ordinary_steps(tiny: Path, spec: str) -> None:
    model = load(tiny)
    recorder, lm = record(model), LanguageModel(model)
    lm.generate(PROMPTS[0], strategy=spec, max_new_tokens=20)
    assert recorder.captures == 0


def test_deterministic_requests_take_ordinary_steps(tiny: Path) -> None:
    model = load(tiny)
    recorder, lm = record(model), LanguageModel(model)
    lm.generate(PROMPTS[0], strategy="top-p", seed=1, max_new_tokens=30, num_return_sequences=2, deterministic=True)
    assert recorder.captures == 0
    lm.generate(PROMPTS[0], strategy="top-p", seed=1, max_new_tokens=30, num_return_sequences=2)
    assert recorder.captures == 1


def test_nothing_is_captured_on_a_cpu(tiny: Path) -> None:
    network = load(tiny).network
    assert isinstance(network, GPT2)
    assert network.graphs.capture is None


def record(model: Model) -> Recorder:
    """Capture a model's steps."""
    assert isinstance(model.network, GPT2)
    recorder = Recorder()
    model.network.graphs = Graphs(recorder)
    return recorder


def tokens(made: Any) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in made.completions]


# On a GPU.

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no cuda device here")


@needs_cuda
@pytest.mark.parametrize("prompts", [EVEN, RAGGED], ids=["even", "ragged"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "context-11"])
def test_a_gpu_replays_the_ordinary_step(
    name: str, dtype: str, prompts: Sequence[Sequence[int]], variant: Callable[[str], Path]
) -> None:
    network = load(variant(name), device="cuda", dtype=dtype).network
    assert isinstance(network, GPT2)
    assert isinstance(network.graphs.capture, CudaCapture)
    ids, cache = start(network, prompts, 40)
    _, plain = start(network, prompts, 40)
    plain.never_capture()
    for _ in range(40):
        made, expected = cache.step(ids), plain.step(ids)
        assert is_rounding(made, expected, cache.keys.dtype)
        ids = expected.argmax(-1)
    assert network.graph_note == REPLAYED


@needs_cuda
def test_a_gpu_captures_again_when_rows_leave_and_frees_the_memory(tiny: Path) -> None:
    network = load(tiny, device="cuda").network
    assert isinstance(network, GPT2)
    expected = plainly(network, RAGGED, 40)
    held = []
    for _ in range(20):
        ids, cache = start(network, RAGGED, 40)
        made = follow(cache, ids, 20)
        cache.keep_first(2)
        rest = follow(cache, made[-1].argmax(-1)[:2], 20)
        assert_same(made, expected[:20])
        assert_same(rest, [logits[:2] for logits in expected[20:]])
        del cache, made, rest
        held.append(torch.cuda.memory_allocated())
    assert network.graph_note == REPLAYED
    assert held[-1] <= held[0]


@needs_cuda
def test_graphs_on_a_gpu_do_not_change_texts(tiny: Path) -> None:
    model = load(tiny, device="cuda", dtype="float32")
    lm, network = LanguageModel(model), model.network
    assert isinstance(network, GPT2)
    options: dict[str, Any] = {"strategy": "top-p", "max_new_tokens": 40, "num_return_sequences": 5, "seed": 2}
    made = lm.generate(PROMPTS[0], **options)
    assert network.graph_note == REPLAYED
    network.graphs = Graphs()
    assert tokens(made) == tokens(lm.generate(PROMPTS[0], **options))
