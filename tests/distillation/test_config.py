"""Settings by their earlier names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdd_fast.distillation.config import DistillConfig


def test_the_guidance_rms_by_its_earlier_name() -> None:
    with pytest.warns(DeprecationWarning, match="pull is now called guidance_rms"):
        config = DistillConfig(pull=2.0)  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match="guidance_rms"):
        assert replace(config, pull=3.0).guidance_rms == 3.0  # type: ignore[call-arg]
    assert config == DistillConfig(guidance_rms=2.0) and config.guidance_rms == 2.0
    with pytest.warns(DeprecationWarning, match="guidance_rms"):
        assert config.pull == 2.0
    assert replace(config, steps=5).guidance_rms == 2.0


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf")])
def test_a_guidance_rms_is_positive(value: float) -> None:
    with pytest.raises(ValueError, match="guidance_rms must be a positive number"):
        DistillConfig(guidance_rms=value)
