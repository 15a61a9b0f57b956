"""The page of a comparison."""

from __future__ import annotations

from genlm.records import StrategyComparison


def comparison_page(comparison: StrategyComparison) -> str:
    """The page."""
    return ""
