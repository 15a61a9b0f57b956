"""What genlm does with a model; tasks yield records and never print."""
