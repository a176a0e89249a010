"""Mutated checkpoint files, read in a process of bounded memory.

    python fuzz.py FOLDER SEED FILES

Ends with an error at the first file that does anything else than load or raise ValueError: another
exception, a call of anything that a pickle could be after, or a crash of the process.
"""

from __future__ import annotations

import argparse
import pickle
import random
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from sdd_fast import files
from sdd_fast.checkpoints.formats.read import read_checkpoint, scan

sys.path.insert(0, str(Path(__file__).parent))

import hostile  # noqa: E402
import nvidia_style  # noqa: E402

MEMORY = 3 * 2**30  # address space, of which torch's libraries take half
SECONDS = 20  # of processor time for one file, where most take a millisecond


def seeds(folder: Path) -> list[bytes]:
    """One small file of each format and of each way to write a tensor."""
    base = torch.arange(12.0)
    content = {
        "state_dict": torch.nn.Linear(2, 3).state_dict(),
        "views": [base, base[2:5], base.view(3, 4).t(), base.half(), base > 3],
        "args": argparse.Namespace(size=64, names=["a", "b"], rate=0.5),
        "plain": ({1, 2}, frozenset([3]), None, 2**70, b"bytes", 1j, torch.float16),
        "numpy": [np.arange(3), np.float64(0.5)],
    }
    result = []
    path = folder / "seed"
    for modern in (True, False):
        for protocol in (2, 4):
            torch.save(
                content, path, _use_new_zipfile_serialization=modern, pickle_protocol=protocol
            )
            result.append(path.read_bytes())
    result += [pickle.dumps(content, protocol=protocol) for protocol in (0, 2, 4, 5)]
    result.append(nvidia_style.pickled({"G_ema": nvidia_style.Generator()}))
    result.append(
        hostile.archive(hostile.pickle(hostile.tensor(hostile.storage())), {"0": b"1" * 16})
    )
    result.append(hostile.pickle(hostile.call_system()))
    result.append(hostile.archive(hostile.pickle(b"]", hostile.call_system(), b"0")))
    whole = path.with_suffix(".safetensors")
    files.save_tensors(whole, {"a": base, "b": base.half()}, {"network": "Mapper"})
    result.append(whole.read_bytes())
    return result


OPERATIONS = b"(.0123FIJKLMNPQRSTUVX)]}abcdeghijlopqrstu" + bytes(range(0x80, 0x99))
GLOBALS = [
    "os.system",
    "builtins.eval",
    "builtins.list",
    "builtins.dict",
    "torch._utils._rebuild_tensor_v2",
    "torch.storage._load_from_bytes",
    "torch.FloatStorage",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "argparse.Namespace",
    "collections.OrderedDict",
    "_codecs.encode",
    "copyreg._reconstructor",
    "torch_utils.persistence._reconstruct_persistent_obj",
]
LENGTHS = [0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1]


def mutated(random: random.Random, seed: bytes, others: list[bytes]) -> bytes:
    data = bytearray(seed)
    # The structure comes first in pickles and last in archives; numbers lie between.
    for _ in range(random.choice((1, 1, 2, 3, 8))):
        size = max(len(data), 1)
        at = random.choice(
            (
                random.randrange(size),
                random.randrange(min(size, 300)),
                -random.randrange(min(size, 900)),
            )
        )
        at %= size
        kind = random.randrange(10)
        if kind <= 1:
            data[at : at + 1] = bytes([(data[at] if data else 0) ^ 1 << random.randrange(8)])
        elif kind == 2:
            data[at : at + 1] = bytes([random.choice(OPERATIONS)])
        elif kind == 3:
            data[at:at] = bytes(random.choices(OPERATIONS, k=random.choice((1, 1, 2, 5, 50))))
        elif kind == 4:
            full = random.choice(GLOBALS)
            data[at:at] = random.choice(
                (hostile.name(full), hostile.call(hostile.name(full)), hostile.name(full) + b")R")
            )
        elif kind == 5:
            width = random.choice((1, 2, 4, 8))
            number = random.choice(LENGTHS) & (1 << 8 * width) - 1
            data[at : at + width] = number.to_bytes(width, "little")
        elif kind == 6:
            del data[at : at + random.choice((1, 1, 2, 4, 30, 300))]
        elif kind == 7:
            other = random.choice(others)
            start = random.randrange(len(other))
            data[at : at + random.randrange(50)] = other[start : start + random.randrange(200)]
        elif kind == 8:
            length = random.choice((1, 2, 10, 100))
            data[at:at] = data[at : at + length] * random.choice((1, 2, 50))
        elif random.randrange(4) == 0:
            del data[at:]
    return bytes(data)


def reopened_archive(random: random.Random, seed: bytes) -> bytes:
    """An archive whose pickle is mutated and whose directory and checksums fit again."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(seed)) as source:
        entries = {info.filename: source.read(info) for info in source.infolist()}
    for name in entries:
        if name.endswith("data.pkl") or random.randrange(10) == 0:
            entries[name] = mutated(random, entries[name], [entries[name]])
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target.getvalue()


def mutants(folder: Path, number: int, count: int) -> Iterator[bytes]:
    choice = random.Random(number)
    originals = seeds(folder)
    for _ in range(count):
        seed = choice.choice(originals)
        if seed.startswith(b"PK") and choice.randrange(3):
            yield reopened_archive(choice, seed)
        else:
            yield mutated(choice, seed, originals)


FORBIDDEN = set(
    "os.system os.exec os.posix_spawn os.remove os.rename os.mkdir subprocess.Popen "
    "socket.connect ctypes.dlopen exec compile import".split()
)


def main(folder: Path, number: int, count: int) -> None:
    path = folder / "mutant"
    loaded = refused = 0
    watching = False
    doing: list[str] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in FORBIDDEN:
            doing.append(f"{event}{arguments!r}"[:200])

    b"x".decode("raw-unicode-escape")  # imported by Python at its first use
    sys.addaudithook(watch)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGVTALRM, lambda *_: sys.exit("a file takes too long"))
    for content in mutants(folder, number, count):
        path.write_bytes(content)
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        watching = True
        for function in (read_checkpoint, scan):
            try:
                result = function(path)
                loaded += 1
            except ValueError as error:
                assert str(path) in str(error), error
                refused += 1
                continue
            if function is read_checkpoint:
                touch(result.content)
        watching = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if doing:
            sys.exit(f"reading a file did {doing}")
    print(f"{loaded} loaded, {refused} refused")


def touch(content: object) -> None:
    """Use every number, so that a tensor beyond its memory crashes here."""
    if isinstance(content, torch.Tensor):
        content.to(torch.complex128).sum() if content.numel() < 2**20 else content.shape
    elif isinstance(content, np.ndarray):
        content.sum()
    elif isinstance(content, dict):
        for value in content.values():
            touch(value)
    elif isinstance(content, list | tuple | set | frozenset):
        for value in content:
            touch(value)
    elif hasattr(content, "state"):
        touch(content.state)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
