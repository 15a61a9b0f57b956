"""Train a GPT-2 from scratch, or continue training a model."""
