"""The choice of the loop that decodes a strategy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from genlm.decoding.completion import Event
from genlm.decoding.request import Request
from genlm.model.network import Network

if TYPE_CHECKING:
    from genlm.model.stock import StockModel


def decode(network: Network, request: Request) -> Iterator[Event]:
    """A mark once the prompt is encoded, pieces of text on the way, and each completion as it ends, in any order."""
    events = _run(network, request)
    if request.pieces is None:
        return events
    from genlm.decoding.trace import add_traces

    return add_traces(network, request, request.pieces, events)


def _run(network: Network, request: Request) -> Iterator[Event]:
    kind = request.strategy.kind
    if request.engine == "transformers":
        from genlm.decoding.stock import stock_generate

        return stock_generate(cast("StockModel", network), request)
    if kind in ("beam", "diverse-beam", "beam-sample"):
        from genlm.decoding.beam import beam_search

        return beam_search(network, request)
    if kind == "contrastive":
        from genlm.decoding.contrastive import contrastive_search

        return contrastive_search(network, request)
    if kind == "dola":
        from genlm.decoding.dola import dola

        return dola(network, request)
    from genlm.decoding.sampling import sample

    return sample(network, request)
