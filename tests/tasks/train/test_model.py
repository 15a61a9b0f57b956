"""The number of threads that train a model."""

from __future__ import annotations

import pytest
import torch

from genlm.tasks.train.model import tuned_cpu


@pytest.mark.parametrize(("width", "threads"), [(64, 1), (320, 2)])
def test_only_a_wide_model_uses_several_threads(width: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with tuned_cpu("cpu", width):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
