import os

# One thread a process: the networks of the tests are small, and tests that start processes must not fight over cores.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)
