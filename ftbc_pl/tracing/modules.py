"""Which module runs, and which line of whose code calls an operation."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

_PACKAGE = Path(__file__).parents[1]
# What a user's call passes through on its way here.
_SKIPPED_SOURCES = (
    f"{Path(torch.__file__).parent}{os.sep}",
    str(_PACKAGE / "layers.py"),
    *(f"{_PACKAGE / room}{os.sep}" for room in ("functional", "tracing", "simulation", "conversion")),
)


@contextmanager
def module_paths(network: nn.Module) -> Iterator[tuple[list[str], Counter[str]]]:
    """Give a list of the paths of the modules that are running, the innermost one last, and how often each began."""
    stack: list[str] = []
    entered: Counter[str] = Counter()

    def enter(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            stack.append(path)
            entered[path] += 1

        return hook

    def leave(*_: Any) -> None:
        stack.pop()

    handles = []
    for path, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(enter(path)))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield stack, entered
    finally:
        for handle in handles:
            handle.remove()


def is_activation_module(module: nn.Module) -> bool:
    """Whether a module is nothing but an activation: no submodules, no weights beyond one number per channel."""
    return not any(True for _ in module.children()) and all(p.ndim <= 1 for p in module.parameters())


def source_line() -> str:
    """`file:line` of the innermost frame that is neither torch nor this package's machinery."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_SKIPPED_SOURCES):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{'/'.join(path.parts[-2:])}:{frame.f_lineno}"
