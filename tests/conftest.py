import contextlib
import os
from unittest.mock import patch

# What the user's shell says of W&B, Hugging Face and this package is not what the tests are about.
for name in [name for name in os.environ if name.startswith(("WANDB_", "HF_")) or name == "FTBC_DEBUG"]:
    del os.environ[name]
# One thread per process: the networks of the tests are small, and tests that start processes must not fight over cores.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

# Without a GPU, Triton's interpreter runs the kernels; Triton looks at this when it is first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from tests.pipeline import QUICK


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_environment():
    """What a test leaves in the environment (W&B its mode and its service, Lightning its seed) is not for the next."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def fitted(tmp_path_factory):
    """A folder with a short fit: its results in `out`, its checkpoint beside."""
    from ftbc_pl.cli import main  # here: most tests need no command line, whose import takes seconds

    folder = tmp_path_factory.mktemp("fitted")
    with contextlib.chdir(folder):
        main(["fit", *QUICK, "--ftbc.output_dir=out"])
    return folder


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """Run in an empty folder."""
    monkeypatch.chdir(tmp_path)
