import pytest
import torch


@pytest.fixture(autouse=True)
def _a_gpu():
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no GPU that it can use")
