"""Skips these tests where no GPU is."""

import pytest
import torch

from programs import lacking


@pytest.fixture(autouse=True)
def _a_gpu():
    if not torch.cuda.is_available():
        lacking(
            f"torch {torch.__version__} finds no GPU that it can use",
            "make test-gpu on a machine that has one, with a torch built for its CUDA",
            ci_has_it=False,
        )
