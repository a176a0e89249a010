"""Pickles in the form of NVIDIA's networks: each object carries the source code of its class.

Written from scratch: what is the same as in their files is the form of the pickle, that is, the
global it refers to, `torch_utils.persistence._reconstruct_persistent_obj`, and its one argument.
"""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

SOURCE = "import os\nos.environ['SDD_TEST_EXECUTED'] = 'source code inside a pickle'\n"


class EasyDict(dict):
    pass


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    raise AssertionError("a pickle was executed")


class Persistent(nn.Module):
    """A module that pickles as a description of itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        about = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": type(self).__name__,
            "state": self.__dict__,
        }
        return _reconstruct_persistent_obj, (about,), None


class FullyConnectedLayer(Persistent):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.weight_gain = torch.tensor(0.25).numpy()[()]  # a numpy scalar, as theirs


class Generator(Persistent):
    def __init__(self) -> None:
        super().__init__()
        self.mapping = FullyConnectedLayer(4, 3)
        self.img_resolution = 64
        self.init_kwargs = EasyDict(z_dim=4, synthesis_kwargs=EasyDict(num_fp16_res=2))
        self.register_buffer("w_avg", torch.arange(3.0))
        self.register_buffer("weight_t", torch.ones(2, 3, dtype=torch.float16).t())


@contextmanager
def importable() -> Iterator[None]:
    """The modules that the pickles refer to exist, as they must while something is pickled."""
    modules = {
        "torch_utils": types.ModuleType("torch_utils"),
        "torch_utils.persistence": types.ModuleType("torch_utils.persistence"),
        "dnnlib": types.ModuleType("dnnlib"),
        "dnnlib.util": types.ModuleType("dnnlib.util"),
    }
    modules["torch_utils.persistence"].__dict__.update(
        _reconstruct_persistent_obj=_reconstruct_persistent_obj
    )
    modules["dnnlib.util"].__dict__.update(EasyDict=EasyDict)
    names = EasyDict.__module__, EasyDict.__qualname__, _reconstruct_persistent_obj.__module__
    EasyDict.__module__ = "dnnlib.util"
    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        EasyDict.__module__, EasyDict.__qualname__, _reconstruct_persistent_obj.__module__ = names


def pickled(content: Any, protocol: int = 4) -> bytes:
    with importable():
        return pickle.dumps(content, protocol=protocol)
