"""The real gpt2, on a machine that can reach the Hub: GENLM_TEST_HUB=1 pytest tests/model/test_real_gpt2.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.hub,
    pytest.mark.skipif(os.environ.get("GENLM_TEST_HUB") != "1", reason="opt in with GENLM_TEST_HUB=1"),
]

# As published in Hugging Face's "How to generate text" (von Platen 2020).
PROMPT = "I enjoy walking with my cute dog"
CONTINUATION = ", but I'm not sure if I'll ever be able to walk with my dog." + (
    " I'm not sure if I'll ever be able to walk with my dog."
)


def test_greedy_gives_the_published_continuation() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-m", "genlm", "generate", PROMPT, "-m", "gpt2", "-s", "greedy", "--format", "json"]
    done = subprocess.run(command, env=environment, capture_output=True, check=True, encoding="utf-8")
    record = json.loads(done.stdout)
    assert record["model"]["source"] == "hub"
    assert record["model"]["parameters"] == 124_439_808
    assert record["completions"][0]["text"].startswith(CONTINUATION)
