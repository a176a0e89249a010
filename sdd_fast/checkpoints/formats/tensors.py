"""Bytes of a file → torch tensors and numpy arrays; every bound is checked before one is built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .bounds import Budget
from .plain import Global

_LARGEST = 2**62  # bytes and elements are counted in 64 bits with sign
_MOST_DIMENSIONS = 64

# What torch calls the storages of each type; those of untyped ones hold bytes.
STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.UntypedStorage": torch.uint8,
    "torch.storage.UntypedStorage": torch.uint8,
}

DTYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in (
        "float64 double float32 float float16 half bfloat16 float8_e4m3fn float8_e5m2 "
        "int64 long int32 int int16 short int8 uint8 uint16 uint32 uint64 bool "
        "complex128 complex64"
    ).split()
}


@dataclass(frozen=True)
class Storage:
    """Consecutive elements, in which tensors lie.

    Args:
        data: [bytes] uint8, usually the mapped file itself.
        dtype: of the elements.
    """

    data: Tensor
    dtype: torch.dtype


def bytes_in(data: memoryview) -> Tensor:
    """View `data` as [bytes] uint8; copy only where the address suits no vector instruction."""
    if not len(data):
        return torch.empty(0, dtype=torch.uint8)
    raw = torch.frombuffer(bytearray(data) if data.readonly else data, dtype=torch.uint8)
    return raw.clone() if raw.data_ptr() % 64 else raw  # as torch's own memory


def storage_in(data: Tensor, dtype: torch.dtype) -> Storage:
    if dtype == torch.bool and len(data) and int(data.max()) > 1:
        raise ValueError("a tensor of booleans holds others than 0 and 1")
    return Storage(data, dtype)


def is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def tensor(
    budget: Budget, storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any = False,
    hooks: Any = None, metadata: Any = None, *, dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Build the tensor of `shape` that begins at element `offset` of `storage`.

    Raises:
        ValueError: it does not lie within the storage.
    """
    if metadata is not None and (type(metadata) is not dict or metadata):
        raise ValueError("a tensor is stored as the conjugate or negative of its elements")
    budget.tensor()
    if not isinstance(storage, Storage):
        raise ValueError("a tensor is built from something that is not a storage")
    dtype = storage.dtype if dtype is None else dtype
    capacity = len(storage.data) // dtype.itemsize
    for name, value in (("shape", shape), ("strides", strides)):
        if type(value) is not tuple or not all(is_index(item) for item in value):
            raise ValueError(f"the {name} of a tensor are not a tuple of sizes")
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS or not is_index(offset):
        raise ValueError("a tensor has impossible dimensions")
    # torch multiplies even the sizes of empty tensors.
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize >= _LARGEST:
        raise ValueError("a tensor has more elements than fit into any memory")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if offset > capacity or (0 not in shape and last >= capacity):
        raise ValueError(
            f"a tensor of shape {list(shape)} and strides {list(strides)} at {offset} reaches "
            f"beyond its storage of {capacity} elements"
        )
    if storage.data.storage_offset() % dtype.itemsize:  # a part of a storage of smaller elements
        raise ValueError("a tensor has a type that it cannot have at the place of its data")
    elements = storage.data[: capacity * dtype.itemsize].view(dtype)
    return elements.as_strided(shape, strides, elements.storage_offset() + offset)


def tensor_of_type(
    budget: Budget, storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any,
    hooks: Any, dtype: Any, metadata: Any = None,
) -> Tensor:  # fmt: skip
    if not isinstance(dtype, torch.dtype) or dtype == torch.bool:  # which has its own storages
        raise ValueError("a tensor has a type that it cannot have")
    return tensor(budget, storage, offset, shape, strides, metadata=metadata, dtype=dtype)


def parameter(
    budget: Budget, data: Any, requires_grad: Any, hooks: Any, state: Any = None
) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError("a parameter is not a tensor")
    return data


_ARRAY_TYPES = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16".split())


def array_type(budget: Budget, code: Any, align: Any = False, copy: Any = False) -> np.dtype:
    """Build the numpy type with that code; its byte order comes as state."""
    if type(code) is not str or code not in _ARRAY_TYPES:
        shown = ascii(code)[:20] if type(code) is str else type(code).__name__
        raise ValueError(f"a numpy array of type {shown}; only numbers are accepted")
    return np.dtype(code)


def ordered_type(dtype: np.dtype, state: Any) -> np.dtype:
    """Give `dtype` the byte order in `state`."""
    # version, byte order, subtype, names, fields, size, alignment, flags[, metadata]
    if type(state) is not tuple or len(state) not in (8, 9) or type(state[1]) is not str:
        raise ValueError("the state of a numpy type is not one")
    if state[1] not in ("<", ">", "|", "=") or any(item is not None for item in state[2:5]):
        raise ValueError("a numpy array has fields; only plain numbers are accepted")
    return dtype.newbyteorder(state[1])  # type: ignore[arg-type]


def empty_array(budget: Budget, kind: Any, *_: Any) -> np.ndarray:
    if type(kind) is not Global or kind.type != "numpy.ndarray":
        raise ValueError("a numpy array of a class of its own")
    return np.empty(0, np.int8)  # its content comes as state


def array_of_state(budget: Budget, state: Any) -> np.ndarray:
    # version, shape, type, Fortran order, bytes
    if type(state) is not tuple or len(state) != 5:
        raise ValueError("the state of a numpy array is not one")
    _, shape, dtype, fortran, raw = state
    return array(budget, raw, dtype, shape, "F" if fortran is True else "C")


def scalar(budget: Budget, dtype: Any, raw: Any) -> bool | int | float | complex:
    value: bool | int | float | complex = array(budget, raw, dtype, (), "C").item()
    return value


def array(budget: Budget, raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Copy the array whose elements lie in `raw`, into the machine's byte order."""
    if not isinstance(dtype, np.dtype):
        raise ValueError("a numpy array has no type")
    if not isinstance(raw, bytes | memoryview):
        raise ValueError("a numpy array has no bytes; only plain numbers are accepted")
    if type(shape) is not tuple or len(shape) > 32 or not all(is_index(size) for size in shape):
        raise ValueError("a numpy array has an impossible shape")
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize >= _LARGEST:
        raise ValueError("a numpy array has more elements than fit into any memory")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(
            f"a numpy array of shape {list(shape)} and type {dtype} comes with {len(raw)} bytes"
        )
    if dtype.kind == "b" and len(raw) and int(np.frombuffer(raw, np.uint8).max()) > 1:
        raise ValueError("a numpy array of booleans holds others than 0 and 1")
    budget.charge_bytes(len(raw))
    fortran = type(order) is str and order == "F"
    elements = np.ndarray(shape, dtype, raw, order="F" if fortran else "C")
    return elements.astype(dtype.newbyteorder("="))
