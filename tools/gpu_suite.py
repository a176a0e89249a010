"""make gpu: build, test, sanitize and measure the CUDA kernels on this machine's GPU.

python tools/gpu_suite.py               needs an NVIDIA GPU, CUDA >= 12.8 (nvcc), torch >= 2.11
python tools/gpu_suite.py --dry-run     the same steps on the CPU, with tiny sizes and no build
python tools/gpu_suite.py --only tests demo     some of the steps

Every step is run, whatever became of the others; the exit status tells of all. Nothing is
downloaded: a folder .whl/ in the checkout may hold wheels that the GPU's machine lacks. The
library is built for this GPU alone, in build/gpu, and nothing is installed.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "gpu"
LIBRARY = BUILD / "sdd_fast" / "_C.abi3.so"
BUDGET = 540  # seconds for everything
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
FAULT = 86  # exit status of compute-sanitizer when it found something
TO_IMPORT = ("safetensors", "PIL", "tqdm")  # what is tested imports these, too
SUITES = ("softmax_entropy_l1", "softmax_entropy_l1_gradient", "bias_act", "conv_epilogue",
          "demodulation", "group_norm_silu", "upfirdn2d", "stylegan2",
          "modulated_conv2d")  # fmt: skip
STEP, EDIT = "training step, full size", "edit, full size"
EDITORS = ["ours", "SD-Turbo, 1 step", "LCM, 4 steps", "SDEdit, DPM-Solver++, 8 steps",
           "SDEdit, DDIM, 50 steps", "InstructPix2Pix, 20 steps", "DDIB, 50 steps",
           "LEDITS++, 50 steps"]  # fmt: skip
TIMED = {
    "training step, faces64": (3, ["paper", "tuned", "ours, default settings", "ours",
                                   "ours, default settings, kernel by kernel",
                                   "ours, kernel by kernel"]),
    "training step of ten prompts, faces64": (3, ["in turn", "ours", "ours, kernel by kernel"]),
    "edit, faces64": (3, EDITORS),
    STEP: (3, ["paper", "tuned", "tuned, low generator", "ours, default settings", "ours"]),
    EDIT: (1, [*EDITORS, "FLUX.2-klein, 4 steps", "DiffAE, 350 steps"]),
}  # fmt: skip
"""Rounds and sides of benchmarks/time_cost.py."""
TIMED_DRY = {STEP: (1, ["ours, float32"]), EDIT: (1, ["SD-Turbo, 1 step", "ours"])}
SEARCHED = ["paper", "tuned", "ours", "diffusers, float32 channels_last",
            "diffusers, float16 channels_last", "diffusers, bfloat16 channels_last"]  # fmt: skip
"""Sides of benchmarks/time_selection.py: none that is compiled, which takes minutes."""
PARTS = ("tests", "sanitizers", "demo", "benchmarks", "selection", "time-cost")

sys.path.insert(0, str(ROOT / "benchmarks"))
from figures import figures  # noqa: E402


@dataclass
class Step:
    name: str
    outcome: str = "passed"  # or "failed", "skipped"
    said: str = ""
    seconds: float = 0.0
    log: str = field(default="", repr=False)


class Skip(Exception):
    """Why a step cannot be taken here."""


class Failed(Exception):
    def __init__(self, said: str, log: str = "") -> None:
        super().__init__(said)
        self.log = log


@dataclass(frozen=True)
class Ran:
    status: int
    output: str


class Suite:
    """What the steps share."""

    def __init__(self, dry: bool, results: Path) -> None:
        self.dry, self.results = dry, results
        self.began = time.monotonic()
        self.device, self.target, self.memory = "cpu", "", 0.0  # GiB
        self.steps: list[Step] = []

    def environment(self, **more: str) -> dict[str, str]:
        paths = [str(ROOT), str(BUILD / "wheels"), os.environ.get("PYTHONPATH", "")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), **more}
        env["PYTHONUNBUFFERED"] = "1"
        if self.dry:
            env["SDD_FAST_DRY_RUN"] = "1"
        else:
            env["SDD_FAST_LIBRARY"] = str(LIBRARY)
        return env

    def left(self) -> float:
        return BUDGET - (time.monotonic() - self.began)

    def run(self, command: list[str], limit: float, show: bool = False, **more: str) -> Ran:
        """limit: seconds. show: print what the command prints, as it comes."""
        print(f"    $ {' '.join(command)}", flush=True)
        lines: list[str] = []
        process = subprocess.Popen(
            command, cwd=ROOT, env=self.environment(**more), text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        with process, ThreadPoolExecutor(1) as pool:

            def read() -> None:
                assert process.stdout is not None
                for line in process.stdout:
                    lines.append(line)
                    if show and line.strip():
                        print(f"    {line.rstrip()}", flush=True)

            reading = pool.submit(read)
            try:
                process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                lines.append(f"stopped after {limit:.0f} s\n")
                process.send_signal(signal.SIGINT)  # pytest then writes what it has
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
            reading.result()
        return Ran(process.returncode, "".join(lines))

    def step(self, name: str, work: Callable[[], str]) -> None:
        print(f"==> {name}", flush=True)
        self.show(self.take(name, work))

    def at_once(self, works: dict[str, Callable[[], str]], workers: int) -> None:
        if not works:
            return
        print(f"==> {'; '.join(works)}", flush=True)
        with ThreadPoolExecutor(workers) as pool:
            for step in list(pool.map(self.take, works, works.values())):
                self.show(step)

    def take(self, name: str, work: Callable[[], str]) -> Step:
        step, began = Step(name), time.monotonic()
        try:
            step.said = work()
        except Skip as why:
            step.outcome, step.said = "skipped", str(why)
        except Failed as error:
            step.outcome, step.said, step.log = "failed", str(error), error.log
        step.seconds = time.monotonic() - began
        if step.log:
            (BUILD / "logs").mkdir(parents=True, exist_ok=True)
            (BUILD / "logs" / f"{name}.log").write_text(step.log, encoding="utf-8")
        return step

    def show(self, step: Step) -> None:
        if step.log:
            print("\n".join(f"    | {line}" for line in step.log.splitlines()[-60:]), flush=True)
            print(f"    the whole of it: build/gpu/logs/{step.name}.log")
        print(f"    {step.outcome}, {step.name}: {step.said} ({step.seconds:.0f} s)", flush=True)
        self.steps.append(step)


# --- the steps ----------------------------------------------------------------------------------


def find_gpu(suite: Suite) -> str:
    """What is needed is there; wheels that were brought along are unpacked."""
    wheels = sorted((ROOT / ".whl").glob("*.whl"))
    if wheels and not suite.dry:
        shutil.rmtree(BUILD / "wheels", ignore_errors=True)
        install = [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
            "--find-links", ".whl", "--target", str(BUILD / "wheels"), *map(str, wheels),
        ]  # fmt: skip
        ran = suite.run(install, 120)
        if ran.status != 0:
            raise Failed("the wheels in .whl/ could not be installed", ran.output)
    sys.path[:0] = [str(BUILD / "wheels")]
    importlib.invalidate_caches()
    needed = ["torch", "numpy", "pytest", "pytest_benchmark", *TO_IMPORT]
    lacking = [name for name in needed if importlib.util.find_spec(name) is None]
    if lacking:
        raise Failed(
            f"{sys.executable} lacks {', '.join(lacking)}; install them there, or put their wheels "
            "into .whl/, or name another Python: make gpu GPU_PYTHON=..."
        )
    import torch

    if suite.dry:
        return f"dry run on the CPU with torch {torch.__version__}"
    if not torch.version.cuda:
        raise Failed(
            f"torch {torch.__version__} of {sys.executable} is not a CUDA build; name a Python "
            "that has one: make gpu GPU_PYTHON=..."
        )
    if not torch.cuda.is_available():
        raise Failed("torch sees no GPU: is there one, and does nvidia-smi list it?")
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        raise Failed(
            f"compute capability 8.0 is the oldest supported; this GPU has {major}.{minor}"
        )
    suite.device, suite.target = "cuda", f"{major}{minor}"
    suite.memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return (
        f"{torch.cuda.get_device_name()}, sm_{suite.target}, {suite.memory:.0f} GiB; "
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {sys.version.split()[0]}"
    )


def build(suite: Suite) -> str:
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(BUILD)]
    if suite.dry:
        print(f"    $ {' '.join(command)}")
        raise Skip("a dry run takes the library that is there")
    LIBRARY.unlink(missing_ok=True)
    wanted = os.environ.get("SDD_FAST_CUDA_ARCHITECTURES", suite.target)
    ran = suite.run(
        command, 300, SDD_FAST_NATIVE="1", SDD_FAST_CUDA="1", SDD_FAST_CUDA_ARCHITECTURES=wanted
    )
    if ran.status != 0 or not LIBRARY.is_file():
        raise Failed("the library was not built", ran.output)
    return f"{LIBRARY.relative_to(ROOT)}, {LIBRARY.stat().st_size / 1e6:.1f} MB, for sm_{wanted}"


def pytest(suite: Suite, *arguments: str, limit: float, show: bool = False) -> Ran:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return suite.run(command, min(limit, max(suite.left(), 30)), show)


def workers(suite: Suite) -> list[str]:
    """Options of pytest-xdist, if it is there and the GPU holds what several tests take at once."""
    if suite.memory < 100 or importlib.util.find_spec("xdist") is None:
        return []
    return ["-n", "4"]


def last_line(output: str) -> str:
    """What pytest says at the end: "3 passed, 1 skipped in 2.1s"."""
    found = re.findall(r"^=*\s*(\d+ (?:passed|failed|skipped|error).*?)\s*=*$", output, re.M)
    return found[-1] if found else "pytest said nothing"


def test(suite: Suite) -> str:
    """tests/cuda: against float64, streams, graphs, what the dispatcher does."""
    which = ["tests/cuda/test_gpu.py", "-k", "not compile"] if suite.dry else ["tests/cuda"]
    ran = pytest(suite, *which, *workers(suite), "--durations=5", limit=300)
    if ran.status != 0:
        raise Failed(last_line(ran.output), ran.output)
    if not suite.dry and "passed" not in last_line(ran.output):
        raise Failed("no test ran", ran.output)
    return last_line(ran.output)


def find_sanitizer() -> str:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    names = ("compute-sanitizer", f"{home}/bin/compute-sanitizer",
             f"{home}/compute-sanitizer/compute-sanitizer")  # fmt: skip
    for name in names:
        if shutil.which(name):
            return name
    raise Skip("compute-sanitizer is not installed; it comes with the CUDA toolkit")


def reports(output: str) -> list[str]:
    """The reports of compute-sanitizer: a line that is not indented and those below that are."""
    found: list[str] = []
    for line in re.findall(r"^={8,} ?(.*)$", output, re.M):
        if line.startswith(" "):
            if found:
                found[-1] += "\n" + line
        elif line and not re.match(r"COMPUTE-SANITIZER|\w* ?SUMMARY|Target application", line):
            found.append(line)
    return found


def ours(report: str) -> bool:
    """A report about a kernel of this package, or about memory that is copied to the host."""
    return "sdd::" in report or "Host API" in report


def sanitize(suite: Suite, tool: str, seeded: str = "") -> str:
    """One tool. `seeded`: over a fault it has to find."""
    driver = [sys.executable, "tests/cuda/sanitized.py", "--device", suite.device]
    sees_everything = tool == "initcheck"  # what kernels of torch write has to be seen written
    if tool != "memcheck":  # once is enough: to load cuDNN under a tool takes a minute or more
        driver += ["--native-only"]
    if seeded:
        driver += ["--seeded", seeded]
    if suite.dry:
        if seeded == "overrun":
            raise Skip("a dry run overruns nothing")
        ran = suite.run(driver, 240)
        if ran.status != 0 or "sanitized: " not in ran.output:
            raise Failed("the calls failed", ran.output)
        return ran.output.strip().splitlines()[-1]
    options = ["--tool", tool]
    if not sees_everything:
        options += ["--kernel-name", "kns=sdd", "--error-exitcode", str(FAULT)]
    if tool == "memcheck":
        options += ["--report-api-errors", "no", "--padding", "4096"]
    limit = min(200.0, max(suite.left(), 30))
    ran = suite.run(
        [find_sanitizer(), *options, *driver], limit, PYTORCH_NO_CUDA_MEMORY_CACHING="1"
    )
    if "Device not supported" in ran.output:
        raise Skip("compute-sanitizer: Device not supported")
    found = [report for report in reports(ran.output) if ours(report)]
    if seeded:
        if not found or (not sees_everything and ran.status != FAULT):
            raise Failed(f"{tool} did not find an error that was seeded", ran.output)
        return f"a seeded error was found: {found[0].splitlines()[0]}"
    if ran.status != 0 or found or "sanitized: " not in ran.output:
        shown = "\n".join(found[:3]) or ran.output
        raise Failed(f"{len(found)} errors, exit status {ran.status}", shown)
    return ran.output[ran.output.index("sanitized: ") :].splitlines()[0]


def bench(suite: Suite) -> str:
    device = "emulated" if suite.dry else "cuda"
    files = [f"benchmarks/test_{name}.py" for name in SUITES]
    for name in SUITES:  # figures of different runs do not mix
        (results_folder(suite) / f"{name}.json").unlink(missing_ok=True)
    ran = pytest(
        suite, *files, "--device", device, "--results", str(suite.results), "--benchmark-quiet",
        limit=240, show=True,
    )  # fmt: skip
    if ran.status != 0:
        raise Failed(last_line(ran.output), ran.output)
    return last_line(ran.output)


def demo(suite: Suite) -> str:
    """`sdd demo`: selection, training and edits of two prompts, from the embedded checkpoints."""
    if suite.dry:
        raise Skip("on a CPU it is `make demo`")
    need_diffusers()
    out = BUILD / "demo"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "sdd_fast", "demo", "--device", "cuda", "--out", str(out)]
    ran = suite.run([*command, "--json"], min(200.0, max(suite.left(), 30)))
    if ran.status != 0:
        raise Failed(f"exit status {ran.status}", ran.output)
    told = next(line for line in ran.output.splitlines() if line.startswith('{"command"'))
    runs = json.loads(told)["runs"]
    said = "; ".join(f"{run['prompt']}: {run['headline']}" for run in runs)
    if any(run["verdict"] != "good" for run in runs):
        raise Failed(said, ran.output)
    return said


def need_diffusers() -> None:
    lacking = [n for n in ("diffusers", "transformers") if importlib.util.find_spec(n) is None]
    if lacking:
        raise Skip(f"{sys.executable} lacks {', '.join(lacking)}")


def bench_selection(suite: Suite) -> str:
    """Selection at full size, every side; then ours alone within the memory of a 24 GB card."""
    need_diffusers()
    (results_folder(suite) / "selection.json").unlink(missing_ok=True)
    device = "emulated" if suite.dry else "cuda"
    command = [
        sys.executable, "benchmarks/time_selection.py", "--device", device,
        "--results", str(suite.results), "--cases", "HQS, f", "VAE", "U-Net", "--sides",
    ]  # fmt: skip
    calls = [[*SEARCHED, "--rounds", "1" if suite.dry else "3"]]
    if not suite.dry:
        calls.append(["ours", "--cap", "24"])
    for more in calls:
        ran = suite.run([*command, *more], min(240.0, max(suite.left(), 30)), show=True)
        if ran.status != 0:
            raise Failed(f"exit status {ran.status} with {' '.join(more)}", ran.output)
    return f"{len(calls)} calls"


def bench_time_cost(suite: Suite) -> str:
    """A step of a training and an edit at full size; what is compiled, which takes minutes, apart.

    That is `benchmarks/time_cost.py --device cuda --sides "tuned, compiled" …`. Samples are kept as
    they come: what the time does not suffice for is measured by another call.
    """
    need_diffusers()
    (results_folder(suite) / "time_cost.json").unlink(missing_ok=True)
    device = "emulated" if suite.dry else "cuda"
    command = [
        sys.executable, "benchmarks/time_cost.py", "--device", device,
        "--results", str(suite.results), "--rounds",
    ]  # fmt: skip
    timed = TIMED_DRY if suite.dry else TIMED
    calls = [[str(n), "--cases", case, "--sides", *sides] for case, (n, sides) in timed.items()]
    if not suite.dry:
        calls.append(["1", "--cases", STEP, "--sides", "ours, default settings", "--cap", "24"])
    for more in calls:
        ran = suite.run([*command, *more], max(suite.left(), 30), show=True)
        if ran.status != 0:
            raise Failed(f"exit status {ran.status} with {' '.join(more)}", ran.output)
    return f"{len(calls)} calls"


# --- all of them --------------------------------------------------------------------------------


def all_steps(suite: Suite, only: list[str]) -> None:
    suite.step("What is there", lambda: find_gpu(suite))
    if suite.steps[-1].outcome == "failed":
        return
    suite.step("Build", lambda: build(suite))
    if suite.steps[-1].outcome == "failed":
        return
    suite.at_once(tested(suite, only), workers=4)  # nothing of it is timed
    timed = {"demo": demo, "benchmarks": bench, "selection": bench_selection,
             "time-cost": bench_time_cost}  # fmt: skip
    for name, step in timed.items():
        if name in only:
            suite.step(name.capitalize().replace("-", " "), functools.partial(step, suite))


def tested(suite: Suite, only: list[str]) -> dict[str, Callable[[], str]]:
    works: dict[str, Callable[[], str]] = {}
    if "tests" in only:
        works["Tests"] = lambda: test(suite)
    if "sanitizers" in only:
        works["memcheck finds an overrun"] = lambda: sanitize(suite, "memcheck", "overrun")
        works["initcheck finds unwritten memory"] = lambda: sanitize(
            suite, "initcheck", "uninitialized"
        )
        for tool in ("memcheck", "initcheck") if suite.dry else TOOLS:
            works[tool] = functools.partial(sanitize, suite, tool)
    return works


def results_folder(suite: Suite) -> Path:
    if suite.dry:
        name = "dry-run-on-the-cpu"
    elif suite.device == "cuda":
        import torch

        name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    else:
        name = "no-gpu"
    return suite.results / name


def summary(suite: Suite, partly: bool) -> None:
    if len(suite.steps) == 1:  # what is needed is not there
        return
    folder = results_folder(suite)
    print("\n==> Steps")
    for step in suite.steps:
        print(f"    {step.outcome:8} {step.seconds:5.0f} s  {step.name}: {step.said}")
    print("\n==> Figures" + (" (of a dry run: no measurement)" if suite.dry else ""))
    found = figures(folder, 0) if suite.dry else figures(folder)
    for figure in found:
        verdict = "" if suite.dry else figure.verdict()
        print(f"    {verdict:6} {figure.name}\n           {figure.target}: {figure.measured}")
    total = time.monotonic() - suite.began
    print(f"\n    {total:.0f} s in all (budget {BUDGET} s); results in {folder}")
    if folder.is_dir():
        steps = [{k: v for k, v in asdict(step).items() if k != "log"} for step in suite.steps]
        path = folder / "suite.json"
        if partly and path.is_file():  # what was not asked for stays
            earlier = json.loads(path.read_text(encoding="utf-8"))
            now = {step.name for step in suite.steps}
            steps = [step for step in earlier["steps"] if step["name"] not in now] + steps
            total += earlier["seconds"]
        record = {"seconds": total, "steps": steps, "figures": [asdict(f) for f in found]}
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dry-run", action="store_true", help="no GPU: tiny sizes on the CPU")
    parser.add_argument("--results", type=Path, help="default: benchmarks/results")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    default = ROOT / ("build/gpu/dry-run" if options.dry_run else "benchmarks/results")
    suite = Suite(options.dry_run, (options.results or default).resolve())
    all_steps(suite, options.only)
    summary(suite, partly=set(options.only) != set(PARTS))
    failed = [step.name for step in suite.steps if step.outcome == "failed"]
    if failed:
        sys.exit(f"gpu: failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
