"""Train a GPT-2 from scratch, or go on with one that is there."""
