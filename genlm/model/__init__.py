"""What runs: find a model, load it safely, encode prompts, the forward pass."""
