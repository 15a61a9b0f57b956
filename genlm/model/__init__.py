"""Models: find one, load it safely, encode prompts, run the forward pass."""
