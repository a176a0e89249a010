"""Names of earlier versions go on working for one version, with a warning that says the new one."""

from __future__ import annotations

import importlib
import sys

import pytest

from sdd_fast._deprecated import MODULES, renamed_arguments


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("sdd_fast.edit", "Editor"),
        ("sdd_fast.experiment", "run_edit"),
        ("sdd_fast.experiment", "Selection"),
        ("sdd_fast.monitor", "describe"),
    ],
)
def test_earlier_modules(module: str, name: str) -> None:
    sys.modules.pop(module, None)
    with pytest.warns(DeprecationWarning, match=MODULES[module][0]):
        found = importlib.import_module(module)
    assert callable(getattr(found, name))


def test_what_metrics_held_before_it_became_a_package() -> None:
    from sdd_fast import metrics

    for name in ("EditQuality", "agreement", "faces_without", "measure_edit", "psnr"):
        with pytest.warns(DeprecationWarning, match=f"is now .*[.]{name}"):
            assert callable(getattr(metrics, name))
    with pytest.raises(AttributeError, match="no attribute 'measure_edti'"):
        _ = metrics.measure_edti


def test_renamed_arguments() -> None:
    @renamed_arguments(pull="rms")
    def function(a: int, *, rms: float = 1.0) -> tuple[int, float]:
        return a, rms

    assert function(1, rms=2.0) == (1, 2.0)
    with pytest.warns(DeprecationWarning, match="pull is now called rms"):
        assert function(1, pull=3.0) == (1, 3.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="pull is the earlier name of rms"):
        function(1, pull=3.0, rms=2.0)  # type: ignore[call-arg]
