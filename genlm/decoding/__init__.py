"""Strategies, and the loops that decode with them."""
