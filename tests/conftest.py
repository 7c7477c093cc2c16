import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def few_threads():
    """Tests that run side by side, and the processes that they start, must not fight over the cores."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
