"""What a strategy is, and the loops that decode with it."""
