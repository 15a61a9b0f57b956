"""The choice of the loop that decodes a strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar, cast

from genlm.decoding.completion import Event, Failed
from genlm.decoding.request import Request
from genlm.model.network import Network

if TYPE_CHECKING:
    from genlm.model.stock import StockModel

K = TypeVar("K")
# The kinds that choose among sequences, or look deeper than the logits: each request has a cache of its own.
BEAMS = ("beam", "diverse-beam", "beam-sample")
SEARCHES = (*BEAMS, "contrastive", "dola")


def decode(network: Network, request: Request) -> Iterator[Event]:
    """A mark once the prompt is encoded, pieces of text on the way, and each completion as it ends, in any order."""
    events = _run(network, request)
    if request.pieces is None:
        return events
    from genlm.decoding.trace import add_traces

    return add_traces(network, request, request.pieces, events)


def decode_many(
    network: Network,
    requests: Iterable[tuple[K, Request | Failed]],
    size: int | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[K, Event | Failed]]:
    """What becomes of requests, in any order: each event with the key of its request.

    Sequences share steps, at most `size` at once; without it, as many as pay and the memory holds. A request of a
    kind that searches, or that is to be decoded alone, runs by itself. A request that fails has `Failed` for its last
    event, as one that is `Failed` from the start. Where memory runs out, fewer sequences run at once from then on.
    Those that a failure of others cuts off begin anew, and so do their pieces of text; their completions are the
    same. As soon as it `is_stopping`, no other sequence begins. An iterator of requests that has come to an end is
    asked again as long as anything is under way.
    """
    from genlm.decoding.continuous import decode_together

    def separately(request: Request) -> Iterator[Event] | None:
        is_separate = request.alone or request.engine != "genlm" or request.strategy.kind in SEARCHES
        return decode(network, request) if is_separate else None

    return decode_together(network, requests, size, separately, is_stopping)


def _run(network: Network, request: Request) -> Iterator[Event]:
    kind = request.strategy.kind
    if request.engine == "transformers":
        from genlm.decoding.stock import stock_generate

        return stock_generate(cast("StockModel", network), request)
    if kind in BEAMS:
        from genlm.decoding.beam import beam_search

        return beam_search(network, request)
    if kind == "contrastive":
        from genlm.decoding.contrastive import contrastive_search

        return contrastive_search(network, request)
    if kind == "dola":
        from genlm.decoding.dola import dola

        return dola(network, request)
    from genlm.decoding.continuous import sample

    return sample(network, request)
