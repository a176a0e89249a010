"""Results that no machine has memory for: an error that names what was asked for."""

from __future__ import annotations

import re

import pytest
import torch

from sdd_fast.ops import upfirdn2d
from sdd_fast.ops._register import NATIVE


@pytest.mark.skipif(NATIVE.path is None, reason="native kernels: " + NATIVE.missing)
def test_a_result_beyond_all_memory_says_how_large_it_would_be() -> None:
    side = 2**29 + 1  # squared, in float32: 2^60 bytes, more than a process can address
    with pytest.raises(RuntimeError, match=rf"no memory.*\[1, 1, {side}, {side}\].*GB") as error:
        upfirdn2d(torch.ones(1, 1, 4, 4), torch.ones(4), padding=2**28)
    if NATIVE.path is not None and NATIVE.path.name.startswith("_emulation."):
        # On a GPU: what programs look for that try again with a smaller batch.
        assert re.search(r"CUDA out of memory\. ", str(error.value))


@pytest.mark.skipif(NATIVE.path is None, reason="native kernels: " + NATIVE.missing)
def test_a_result_whose_bytes_overflow_is_refused_before_it_is_asked_for() -> None:
    with pytest.raises(RuntimeError, match="too large"):
        upfirdn2d(torch.ones(1, 1, 4, 4), torch.ones(4), padding=2**40)
