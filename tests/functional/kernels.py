"""Where the kernels are tested, and the inputs of them: on a GPU, or in Triton's interpreter where there is none."""

import os

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="Triton is not made for this platform")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
assert DEVICE.type == "cuda" or os.environ["TRITON_INTERPRET"] == "1"

few = settings(deadline=None, max_examples=6)  # the interpreter takes milliseconds for each call in a program

# Shapes (B, C, ...) with the dimension of C: images, tokens, features, one channel, one image.
SHAPES = st.sampled_from(
    [((3, 4, 4, 3), 1), ((2, 6, 90), 1), ((2, 6, 7), 2), ((7, 3), 1), ((2, 1, 4, 4), 1), ((1, 6, 5, 5), 1)]
)
SEEDS = st.integers(0, 10_000)


def generator_of(seed):
    return torch.Generator().manual_seed(seed)


def in_layout(values, channel_dim, last):
    """`values` (..., B, C, ...) with channels last in memory or not; C counts from the last of `channel_dim`."""
    if not last:
        return values.contiguous()
    return values.movedim(channel_dim, -1).contiguous().movedim(-1, channel_dim)


def count_launches(monkeypatch, modules, call):
    """How many kernels `call` launches: Triton's, and those of torch that are not mere views or allocations."""
    from torch.utils._python_dispatch import TorchDispatchMode

    launched = []

    class Torch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if not function.is_view and "empty" not in function.name():
                launched.append(function.name())
            return function(*args, **kwargs or {})

    with monkeypatch.context() as patched:
        for module in modules:
            original = module.launch

            def launch(kernel, *args, original=original, **options):
                launched.append(kernel)
                with torch.utils._python_dispatch._disable_current_modes():
                    original(kernel, *args, **options)

            patched.setattr(module, "launch", launch)
        with Torch():
            call()
    return len(launched)
