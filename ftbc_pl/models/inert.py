"""Reads the tensors out of a file of `torch.save` whatever else was saved beside them, without running any of it.

A pickle is a program: it names functions and classes, which are imported and called. Here no name is ever looked up.
Names that rebuild tensors stand for code in this file, every other name for `Inert`, which does nothing.
"""

import io
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Inert(dict[Any, Any]):
    """Stands for an object of unknown type; takes whatever a pickle does to an object and does nothing.

    As a dictionary it keeps items, for those are what ordered, default and other dictionaries are made of.
    """

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]  # an unknown object may be a key

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Accept and forget any arguments."""
        super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> "Inert":
        """Stand for the result of an unknown function."""
        return Inert()

    def __setstate__(self, *state: Any) -> None:
        """Accept and forget any attributes."""

    def __eq__(self, other: object) -> bool:
        """Be equal to itself only."""
        return self is other

    def append(self, item: Any) -> None:
        """Forget an item of an unknown list."""

    def extend(self, items: Any) -> None:
        """Forget items of an unknown list."""

    def add(self, item: Any) -> None:
        """Forget an item of an unknown set."""


class _Sealed:
    """What a name of torch stands for; a pickle can call it, but can't change it."""

    __slots__ = ("value",)
    value: Any

    def __init__(self, value: Any) -> None:
        object.__setattr__(self, "value", value)

    def __call__(self, *args: Any) -> Any:
        return self.value(*args) if callable(self.value) else Inert()

    def __setstate__(self, *state: Any) -> None:
        raise pickle.UnpicklingError("the file tries to change how tensors are read")

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("the file tries to change how tensors are read")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> Any:
    # Metadata, the last of seven, marks views that are conjugated or negated.
    if not isinstance(storage, Tensor) or (len(others) > 2 and others[2]):
        return Inert()
    return storage.as_strided(tuple(size), tuple(stride), offset)  # torch checks that this lies inside the storage


def _tensor_of_dtype(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any) -> Any:
    if not isinstance(storage, Tensor) or not isinstance(dtype, _Sealed) or not isinstance(dtype.value, torch.dtype):
        return Inert()
    return _tensor(storage.view(dtype.value), offset, size, stride)


def _first(data: Any, *others: Any) -> Any:
    return data


def _tensor_of_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
    return function(*args) if isinstance(function, _Sealed) else Inert()


_REBUILD: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _tensor_of_type,
}
_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")), encoding="utf-8")
        self.archive, self.root = archive, root
        self.storages: dict[tuple[str, torch.dtype], Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Look nothing up; see the module."""
        if (module, name) in _REBUILD:
            return _Sealed(_REBUILD[module, name])
        if module in ("torch", "torch.storage"):
            dtype = _STORAGES.get(name, vars(torch).get(name))
            if isinstance(dtype, torch.dtype):
                return _Sealed(dtype)
        return Inert

    def persistent_load(self, saved: Any) -> Any:
        """Read the numbers of one storage, flat."""
        kind, storage, key, _, count = saved
        if kind != "storage" or count < 0:
            raise pickle.UnpicklingError("the file refers to something other than the numbers of a tensor")
        if not isinstance(storage, _Sealed) or not isinstance(storage.value, torch.dtype):
            return Inert()  # quantised or complex numbers
        dtype = storage.value
        if (key, dtype) not in self.storages:
            content = bytearray(self.archive.read(f"{self.root}/data/{key}") if count else b"")
            self.storages[key, dtype] = (
                torch.frombuffer(content, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
            )
        return self.storages[key, dtype]


def read_inertly(path: Path) -> Any:
    """Read a zip file of `torch.save`; tensors and plain values are what they were, the rest is `Inert`.

    Raises:
        ValueError: The file is damaged, or written on a machine with the other order of bytes.
    """
    with zipfile.ZipFile(path) as archive:
        roots = [name.rpartition("/")[0] for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(f"expected one data.pkl inside, found {len(roots)}")
        order = f"{roots[0]}/byteorder"
        if order in archive.namelist() and archive.read(order).decode() != sys.byteorder:
            raise ValueError("written on a machine with another order of bytes")
        return _Unpickler(archive, roots[0]).load()
