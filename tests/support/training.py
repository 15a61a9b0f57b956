"""Texts and options for the tests of `genlm train`."""

from __future__ import annotations

LIKES = "我喜欢看电影。\n我喜欢听音乐。\n我喜欢阅读。\n"
STORY = "The fox went to the wood. The king went to the sea.\n" * 300
# A tiny model and a short run.
QUICK = ("--n-layer", "1", "--n-embd", "16", "--n-positions", "16", "--max-steps", "20", "--device", "cpu")
