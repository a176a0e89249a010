"""What `make gpu` makes of the reports of compute-sanitizer and of measurements. Needs no GPU."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def load(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


suite = load(ROOT / "tools" / "gpu_suite.py")

REPORT = """========= COMPUTE-SANITIZER
before
========= Invalid __global__ read of size 16 bytes
=========     at void sdd::(anonymous namespace)::forward<float>(sdd::Call)+0x150
=========     by thread (3,0,0) in block (1,0,0)
=========
========= Uninitialized __global__ memory read of size 4 bytes
=========     at void at::native::reduce_kernel<512>(T3)+0x90
========= Target application returned an error
========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)
========= ERROR SUMMARY: 2 errors
"""


def test_reports() -> None:
    reports = suite.reports(REPORT)
    assert len(reports) == 2 and "thread (3,0,0)" in reports[0]
    assert [suite.ours(report) for report in reports] == [True, False]
    assert suite.reports("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n") == []


def test_last_line() -> None:
    assert suite.last_line("..\n==== 3 passed, 1 skipped in 2.1s ====\n") == (
        "3 passed, 1 skipped in 2.1s"
    )
    assert suite.last_line("1 failed in 2s\n") == "1 failed in 2s"
    assert suite.last_line("") == "pytest said nothing"


def test_nothing_is_imported_that_is_not_asked_for() -> None:
    """The GPU's machine need not have what the package takes for diffusion and for plots."""
    section = re.search(
        r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    assert section is not None
    names = {name.replace("pillow", "PIL") for name in re.findall(r'"(\w+)', section[1])}
    others = sorted(names - {"torch", "numpy", *suite.TO_IMPORT})
    assert "diffusers" in others and "PIL" in names
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({others})); "
        "sys.path[:0] = ['tests', 'benchmarks']; "
        "import conftest, gpu_cases, op_cases, gpu_clock, test_stylegan2"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def write(folder: Path, suite: str, rows: list[tuple[str, int, float, dict[str, float]]]) -> None:
    cases = [
        {"case": case, "read": size, "written": 0, "roofline_ms": roofline,
         "sides": {side: {"median_ms": ms} for side, ms in sides.items()}}
        for case, size, roofline, sides in rows
    ]  # fmt: skip
    (folder / f"{suite}.json").write_text(json.dumps({"cases": cases}), encoding="utf-8")


def test_figures(tmp_path: Path) -> None:
    nothing = suite.figures(tmp_path)
    assert {f.measured for f in nothing} == {"not measured"} and {f.met for f in nothing} == {None}
    large = 1 << 27
    write(tmp_path, "bias_act", [
        ("small", 8, 0.1, {"ours": 1.0}), ("a", large, 0.9, {"ours": 1.0}),
        ("b", large, 0.8, {"ours": 1.0}),
    ])  # fmt: skip
    write(tmp_path, "conv_epilogue", [("a", large, 0.8, {"ours": 1.0})])
    write(tmp_path, "upfirdn2d", [
        ("a", large, 0.9, {"ours": 1.0, "eager": 9.0, "grouped": 2.0}),
        ("b", large, 0.9, {"ours": 1.0, "eager": 4.0}),
    ])  # fmt: skip
    write(tmp_path, "stylegan2", [
        ("batch 8, float16", 0, 0.0, {"ours": 2.4, "graph": 4.0, "eager": 3.0, "grouped": 24.0}),
        ("batch 8, float16, gradient of W+", 0, 0.0, {"ours": 8.0, "graph": 8.0, "grouped": 32.0}),
    ])  # fmt: skip
    found = suite.figures(tmp_path)
    assert [f.met for f in found] == [
        None, False, True, False, True,  # entropy, bias_act, upfirdn2d twice, conv_epilogue
        True, False, False, True,  # 0.3 and 0.7 ms an image, as a graph 0.5 and 0.5
        True, False, False, None,
    ]  # fmt: skip
    assert "80% (b) to 90%; 1 of 2 rows" in found[1].measured
