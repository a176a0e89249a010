"""make sanitize: the CPU kernels under the address and undefined-behavior sanitizers.

Compiles csrc/ once more into build/sanitize, seeds an overrun in every op to see that it would be
noticed, then runs the tests of the ops with that library, those of the kernels once for each
instruction set of the CPU. Says so and passes where the compiler has no sanitizers.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "sanitize"
LIBRARY = BUILD / "_C.abi3.so"
FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]  # as CMakeLists.txt

# Left out: what is slow and shows no other memory, addresses without memory behind them, of which
# the sanitizer's shadow would be too large, and what runs generated code or other programs.
SLOW = (
    "longest_maps", "equal_scale", "beyond_31_bits", "than_32_bits_count", "every_16_bit",
    "sizes_and_dtypes",
)  # fmt: skip
LEFT_OUT = (*SLOW, "compile", "opcheck", "reference", "_ref")
# Once for the best instruction set suffices what ends before the kernels, or leads to them on the
# same memory by another way.
OF_ONE_LEVEL = (
    "bad_", "no_memory", "checks_again", "autocast", "torch_func", "vmap", "gradcheck",
    "modulated_conv2d",
)  # fmt: skip

# What must be stopped: nothing, an overrun or an overflow, by the number of arguments.
PROBE = """
#include <limits>
int main(int count, char**) {
  int* values = new int[4]();
  if (count == 2) return values[count + 2];                             // the fifth of four
  if (count == 3) return std::numeric_limits<int>::max() - 2 + count;  // one too many
  return 0;
}
"""

# The memory of a tensor shrinks under it: what a kernel reads past the end is a kernel's overrun.
# Each call in a process of its own, a fork: torch is imported once.
OVERRUN = """
import json, os, sys, tempfile, traceback, torch
from sdd_fast.ops._register import NATIVE
print(json.dumps([str(NATIVE.path), NATIVE.cpu_level]), flush=True)

def call(op, seeded):
    x = torch.ones(1, 1, 5, 13)
    x = x.view({"softmax_entropy_l1": (1, 65), "demodulation": (5, 13, 1, 1)}.get(op, x.shape))
    arguments = {
        "softmax_entropy_l1": (False,),
        "bias_act": (None, 2, 0.2, 1.0, None),
        "conv_epilogue": (torch.ones(1, 1), None, None, 2, 0.2, 1.0, None),
        "upfirdn2d": (torch.ones(4), 2, 1, 2, 1, 2, 1, False, 1.0),
        "demodulation": (torch.ones(1, 13), 0.0),
        "group_norm_silu": (1, torch.ones(1), torch.ones(1), 1e-6, True),
    }[op]
    if seeded:
        x.untyped_storage().resize_(4 * 64)
    getattr(torch.ops.sdd_fast, op)(x, *arguments)

for op in sys.argv[1:]:
    for seeded in (False, True):
        with tempfile.TemporaryFile("w+") as said:
            child = os.fork()
            if child == 0:
                os.dup2(said.fileno(), 1), os.dup2(said.fileno(), 2)
                status = 1
                try:
                    call(op, seeded)
                    print("survived", flush=True)
                    status = 0
                except Exception:
                    traceback.print_exc()
                os._exit(status)
            _, status = os.waitpid(child, 0)
            said.seek(0)
            print(json.dumps([op, seeded, status, said.read()]), flush=True)
"""
OPS = (
    "softmax_entropy_l1", "bias_act", "conv_epilogue", "upfirdn2d", "demodulation",
    "group_norm_silu",
)  # fmt: skip


class Failed(Exception):
    """What the sanitizers found, or that they found nothing where they must."""


def compiler() -> list[str]:
    return os.environ.get("CXX", "").split() or ["c++"]


def sanitizers_missing() -> str:
    """Why this compiler cannot do it, or ""; a program with two faults must be stopped at each."""
    BUILD.mkdir(parents=True, exist_ok=True)
    source, program = BUILD / "probe.cpp", BUILD / "probe"
    source.write_text(PROBE, encoding="utf-8")
    command = [*compiler(), *FLAGS, str(source), "-o", str(program)]
    if shutil.which(command[0]) is None:
        return f"there is no compiler {command[0]}"
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode != 0:
        return f"{' '.join(command[:-3])} compiles nothing:\n{built.stderr.strip()[-500:]}"
    for arguments, expected in (([], ""), (["1"], "overflow on"), (["1", "2"], "signed integer")):
        ran = subprocess.run(
            [program, *arguments], capture_output=True, text=True,
            env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"},
        )  # fmt: skip
        if (ran.returncode != 0) != bool(expected) or expected not in ran.stderr:
            return f"a program with {' '.join(FLAGS)} and arguments {arguments} gave {ran}"
    return ""


def runtime(*names: str) -> str:
    """A library of the compiler, which must be in the process before torch is; "" if unknown."""
    for name in names:
        found = subprocess.run(
            [*compiler(), f"-print-file-name={name}"], capture_output=True, text=True
        ).stdout.strip()
        if os.path.isabs(found):
            return found
    return ""


def build() -> None:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None, "torch is not installed"
    torch = Path(spec.origin).parent
    tools = Path(sys.executable).parent
    cmake = str(tools / "cmake") if (tools / "cmake").is_file() else "cmake"
    configure = [
        cmake, f"-S{ROOT}", f"-B{BUILD}", "-DSDD_SANITIZE=ON",
        f"-DSDD_TORCH_INCLUDE_DIR={torch / 'include'}",
        f"-DSDD_TORCH_LIBRARY_DIR={torch / 'lib'}", f"-DSDD_OUTPUT_NAME={LIBRARY.name}",
    ]  # fmt: skip
    if (tools / "ninja").is_file():
        configure += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"]
    for command in (configure, [cmake, "--build", str(BUILD), "--parallel", str(cores())]):
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "CXX": " ".join(compiler())}
        )
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-5000:]}")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2


def environment(level: str) -> dict[str, str]:
    # libstdc++ as well: the sanitizer looks for the function that throws exceptions at the start.
    asan = runtime("libasan.so", f"libclang_rt.asan-{os.uname().machine}.so", "libclang_rt.asan.so")
    return {
        **os.environ,
        "LD_PRELOAD": f"{asan} {runtime('libstdc++.so.6', 'libstdc++.so')}",
        # Python and torch keep what they allocate until the end; a fault is an abort; no memory is
        # an exception, as it is without the sanitizer.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1:"
        "max_allocation_size_mb=4096:quarantine_size_mb=64",
        "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
        "SDD_FAST_LIBRARY": str(LIBRARY),
        "SDD_FAST_CPU": level,
        "SDD_FAST_NATIVE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "PYTHONPATH": str(ROOT),
    }


def levels() -> list[str]:
    """The instruction sets that were compiled and that this CPU has."""
    code = (
        "from sdd_fast.ops._register import NATIVE\n"
        "assert NATIVE.path is not None, NATIVE.missing\n"
        "names = NATIVE.cpu_levels_compiled\n"
        "print(*names[: names.index(NATIVE.cpu_level) + 1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(""), capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode != 0:
        sys.exit(f"the sanitized library does not load:\n{done.stderr[-5000:]}")
    return done.stdout.split()


def check_that_overruns_are_seen(level: str) -> None:
    """Each op must abort in its kernel on a tensor one element short, and not on a whole one."""
    done = subprocess.run(
        [sys.executable, "-c", OVERRUN, *OPS], env=environment(level), cwd=ROOT, text=True,
        capture_output=True, timeout=600,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    ran = [(op, seeded) for op in OPS for seeded in (False, True)]
    as_expected = (
        done.returncode == 0
        and not done.stderr
        and lines[:1] == [[str(LIBRARY), level]]
        and [(op, seeded) for op, seeded, _, _ in lines[1:]] == ran
    )
    if not as_expected:
        raise Failed(f"seeding overruns gave:\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}")
    for op, seeded, status, said in lines[1:]:
        stopped = "ERROR: AddressSanitizer" in said and f"csrc/{op}/{op}_kernel.cpp" in said
        if seeded:
            as_expected = status != 0 and stopped and "survived" not in said
        else:
            as_expected = status == 0 and said == "survived\n"
        if not as_expected:
            kind = "seeded" if seeded else "whole"
            raise Failed(f"{op} ({kind}) was not as expected, status {status}:\n{said[:5000]}")


def main() -> None:
    began = time.monotonic()
    why_not = "it is for Linux" if sys.platform != "linux" else sanitizers_missing()
    if why_not:
        print(f"sanitize: skipped, {why_not}")
        return
    build()
    print(
        f"    compiled csrc/ with {' '.join(FLAGS)} in {time.monotonic() - began:.0f} s", flush=True
    )

    available = levels()

    def check(level: str) -> str:
        check_that_overruns_are_seen(level)
        left_out = LEFT_OUT if level == available[-1] else (*LEFT_OUT, *OF_ONE_LEVEL)
        tests = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", "tests/ops",
            "-k", " and ".join(f"not {name}" for name in left_out), *sys.argv[1:],
        ]  # fmt: skip
        done = subprocess.run(
            tests, env=environment(level), cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise Failed(f"the tests failed:\n{done.stdout[-10000:]}\n{done.stderr[-10000:]}")
        return done.stdout.strip().splitlines()[-1]

    failed = False
    with ThreadPoolExecutor(cores()) as pool:
        # The longest first.
        running = {level: pool.submit(check, level) for level in reversed(available)}
        for level, result in running.items():
            try:
                said = (
                    f"an overrun seeded in each of {', '.join(OPS)} was stopped; {result.result()}"
                )
            except Failed as error:
                said, failed = str(error), True
            print(f"    {level}: {said}", flush=True)
    if failed:
        sys.exit("sanitize: failed")
    print(f"    {time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
