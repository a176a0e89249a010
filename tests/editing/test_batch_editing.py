"""Folders in `Editor.edit_files`: read and written beside the networks, in bounded memory."""

from __future__ import annotations

import errno
import gc
import os
import signal
import threading
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sdd_fast.checkpoints.load import load_latents
from sdd_fast.editing import edit_files
from sdd_fast.editing.editor import Editor
from sdd_fast.editing.save_as import save_image
from sdd_fast.images import load_image, to_pil
from sdd_fast.interrupt import STOPPING, stopped_by_signals
from sdd_fast.models import Encoder, LevelsMapper, StyleGAN2
from sdd_fast.progress import Progress


@pytest.fixture
def editor() -> Editor:
    torch.manual_seed(0)
    generator = StyleGAN2(32, w_dim=16, z_dim=16, n_mlp=1, channel_base=256, channel_max=8)
    encoder = Encoder(32, 8, 16, channel_base=256, channel_max=8, head_channels=2)
    mappers = [LevelsMapper(8, 16, ["coarse", "medium"], zero_init=False) for _ in range(2)]
    return Editor(generator, mappers, encoder)


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (70, 90, 3), dtype=np.uint8)


def storages() -> dict[int, int]:
    """Where each storage of a living tensor is, and its bytes."""
    tensors = [t for t in gc.get_objects() if type(t) in (Tensor, torch.nn.Parameter)]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_while_images_are_written(
    number: signal.Signals, editor: Editor, photo: np.ndarray, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It arrives among the networks; what is being written then becomes whole, and is counted."""
    faces, out = tmp_path / "faces", tmp_path / "out"
    faces.mkdir()
    for i in range(8):
        Image.fromarray(photo).save(faces / f"{i}.png")
    writing, stopped = threading.Event(), threading.Event()

    def slow(path: Path, *rest: Any) -> None:
        writing.set()
        assert stopped.wait(60)
        save_image(path, *rest)

    def edit(*given: Any, **options: Any) -> Tensor:
        if writing.is_set() or len(batches) == 1:
            assert writing.wait(60)
            try:
                os.kill(os.getpid(), number)
            finally:
                stopped.set()
        batches.append(given)
        return Editor.edit(editor, *given, **options)

    batches: list[Any] = []
    monkeypatch.setattr(edit_files, "save_image", slow)
    monkeypatch.setattr(editor, "edit", edit)
    with stopped_by_signals(), pytest.raises(KeyboardInterrupt) as told:
        editor.edit_files(faces, out, batch_size=4, progress=False)
    kept = list(out.iterdir())
    assert f" after {len(kept)} of 8 images" in str(told.value) and len(batches) == 1
    assert 0 < len(kept) <= 4 and all(load_image(path).shape == (3, 32, 32) for path in kept)


def test_a_fault_of_the_disk_ends_the_work_and_names_its_file(
    editor: Editor, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces, out = tmp_path / "faces", tmp_path / "out"
    faces.mkdir()
    for i in range(12):
        Image.fromarray(photo).save(faces / f"{i:02}.png")

    def save(self: Image.Image, path: Path, **options: Any) -> None:
        if not next(left, 0):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        saved(self, path, **options)

    def edit(*given: Any, **options: Any) -> Tensor:
        batches.append(given)
        return Editor.edit(editor, *given, **options)

    saved, left, batches = Image.Image.save, iter([1, 1, 1]), list[Any]()
    monkeypatch.setattr(Image.Image, "save", save)
    monkeypatch.setattr(editor, "edit", edit)
    with pytest.raises(OSError, match=rf"no space left while writing {out}.*\.png .*half-written"):
        editor.edit_files(faces, out, batch_size=2, progress=False)
    assert len(batches) <= 4  # 3 results, of two batches, and one batch that was under way
    assert len(list(out.iterdir())) == 3
    assert all(load_image(path).shape == (3, 32, 32) for path in out.iterdir())


def test_a_result_that_cannot_be_shown_is_named(
    editor: Editor, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png")
    monkeypatch.setattr(editor, "edit", lambda *_, **__: torch.full((1, 3, 32, 32), torch.nan))
    with pytest.raises(ValueError, match=r"out/a\.png: the image holds NaN"):
        editor.edit_files(tmp_path / "a.png", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_that_cannot_be_read_loses_none_before_it(
    editor: Editor, photo: np.ndarray, tmp_path: Path
) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    for i in range(6):
        Image.fromarray(photo).save(faces / f"{i}.png")
    data = (faces / "4.png").read_bytes()
    (faces / "4.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"4\.png is a truncated"):
        editor.edit_files(faces, tmp_path / "out", batch_size=2, progress=False)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{i}.png" for i in range(4)]


def test_files_of_latents_are_read_one_after_the_other(
    editor: Editor, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w_plus = torch.randn(5, 8, 16, generator=torch.Generator().manual_seed(4))
    for i in range(9):
        np.save(tmp_path / f"{i}.npy", w_plus.numpy() + i)
    Image.fromarray(photo).save(tmp_path / "a.png")
    held: list[int] = []

    def load(*given: Any) -> Tensor:
        held.append(len({where for where, size in storages().items() if size == w_plus.nbytes}))
        return load_latents(*given)

    monkeypatch.setattr("sdd_fast.editing.batch_editing.load_latents", load)
    paths = [tmp_path / "a.png", *sorted(tmp_path.glob("*.npy"))]
    written = editor.edit_files(paths, tmp_path / "out", batch_size=3, progress=False)
    # Each is read to be checked, and again to be edited, when a batch and what was read ahead are
    # still of those before.
    assert len(written) == 46 and len(held) == 18 and max(held) - held[0] <= 3
    for i, name in ((0, "0-0001"), (7, "1-0003"), (44, "8-0005")):
        want = to_pil(editor.edit(w_plus[i % 5] + i // 5)[0])
        got = Image.open(tmp_path / "out" / f"{name}.png")
        assert abs(np.asarray(got).astype(int) - np.asarray(want)).max() <= 1


def test_memory_does_not_grow_with_the_folder(
    editor: Editor, photo: np.ndarray, tmp_path: Path
) -> None:
    """Bytes of all tensors, and of Python's objects, while 60 and 240 files are edited."""
    for i in range(240):
        Image.fromarray(photo).save(tmp_path / f"{i:03}.png", compress_level=0)

    def most_bytes(count: int) -> tuple[int, int]:
        tensors, objects = [], []

        def look(event: Progress) -> None:
            if event.done in (20, count - 20):
                gc.collect()  # what nobody holds is not kept
                tensors.append(sum(storages().values()))
                objects.append(tracemalloc.get_traced_memory()[0])

        files = sorted(tmp_path.glob("*.png"))[:count]
        editor.edit_files(files, tmp_path / f"out-{count}", batch_size=4, progress=look)
        return max(tensors), max(objects) - objects[0]

    most_bytes(40)  # caches
    tracemalloc.start()
    try:
        few, many = most_bytes(60), most_bytes(240)
    finally:
        tracemalloc.stop()
    image = 4 * 3 * 32 * 32
    assert many[0] - few[0] <= 8 * image  # of two batches that happen to be held, or not
    assert many[1] <= 180 * 500  # what is known of a file: paths, and whether it is done


def test_one_pass_of_each_network_for_a_batch(
    editor: Editor, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a GPU is waited for once in a batch, when the result is fetched."""
    for i in range(10):
        Image.fromarray(photo).save(tmp_path / f"{i}.png")
    calls: Counter[str] = Counter()

    class Waits(TorchDispatchMode):
        def __torch_dispatch__(
            self, op: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            calls["waits"] += op.overloadpacket in (
                torch.ops.aten._local_scalar_dense,
                torch.ops.aten.nonzero,
            )
            return op(*args, **(kwargs or {}))

    class Moves(TorchFunctionMode):
        def __torch_function__(
            self, op: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            calls["to the CPU"] += op is Tensor.cpu
            return op(*args, **(kwargs or {}))

    def counted(name: str, network: torch.nn.Module) -> Any:
        return network.register_forward_hook(lambda *_: calls.update([name]))

    synthesis = editor.generator.synthesis

    def counted_synthesis(w_plus: Tensor) -> Tensor:
        calls["generator"] += 1
        return synthesis(w_plus)

    monkeypatch.setattr(editor.generator, "synthesis", counted_synthesis)
    networks = {"encoder": editor.encoder, "mapper": editor.mappers[0], "other": editor.mappers[1]}
    hooks = [counted(name, network) for name, network in networks.items() if network is not None]
    try:
        with Waits(), Moves():
            editor.edit_files(tmp_path, tmp_path / "out", batch_size=4, progress=False)
    finally:
        for hook in hooks:
            hook.remove()
    passes = {"encoder": 3, "mapper": 3, "other": 3, "generator": 3}
    # What is read is looked at once in a batch as well, while it lies on the CPU.
    assert calls == Counter({**passes, "to the CPU": 3, "waits": 3})
