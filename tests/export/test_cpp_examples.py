"""The examples in C++: compiled, and run on a picture."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdd_fast.editing.editor import Editor
from sdd_fast.export import export_edit
from sdd_fast.manipulator import MapperInfo
from sdd_fast.models import Encoder, LevelsMapper, StyleGAN2

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "cpp"
TORCH = Path(torch.__file__).parent

pytestmark = [
    pytest.mark.skipif(
        not all(map(shutil.which, ("cmake", "c++"))), reason="there is no cmake or C++ compiler"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def editor() -> Editor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=256, channel_max=8)
        encoder = Encoder(32, 8, 8, channel_base=256, channel_max=8, head_channels=2)
        mapper = LevelsMapper(8, 8, ["coarse", "medium"], zero_init=False)
    info = MapperInfo("white hair", 2.0, ("coarse", "medium"))
    return Editor(generator, [(mapper, info)], encoder)


def built(folder: Path, target: str, *options: str) -> Path:
    """Unoptimized: what takes long is to read the headers."""
    say = {"check": False, "capture_output": True, "text": True}
    configure = ["cmake", "-S", EXAMPLES, "-B", folder, "-DCMAKE_CXX_FLAGS=-O0", *options]
    for words in (configure, ["cmake", "--build", folder, "--target", target]):
        done = subprocess.run(words, **say)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / target


def check_edits(program: Path, file: Path, editor: Editor, folder: Path) -> str:
    """Edit a picture of noise by the program and in Python; what the program printed."""
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(values).save(folder / "in.ppm")
    words = [program, file, folder / "in.ppm", folder / "out.ppm", "-0.7"]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    images = torch.from_numpy(values).permute(2, 0, 1)[None] / 127.5 - 1
    edited = (editor.edit(images, -0.7)[0] + 1) * 127.5
    got = np.asarray(Image.open(folder / "out.ppm")).astype(float)
    assert abs(got - edited.permute(1, 2, 0).numpy()).max() <= 0.51  # it is rounded
    assert abs(editor.edit(images, 0.0)[0] - editor.edit(images, -0.7)[0]).max() > 0.05
    damaged = subprocess.run([program, file, file, folder / "o.ppm", "1"],
                             check=False, capture_output=True, text=True)  # fmt: skip
    assert damaged.returncode == 1 and "is no binary PPM picture" in damaged.stderr
    return done.stdout


def test_libtorch(editor: Editor, tmp_path: Path) -> None:
    export_edit(editor, tmp_path / "editor.pt", part="editor")
    program = built(tmp_path / "b", "edit_libtorch", f"-DCMAKE_PREFIX_PATH={TORCH}")
    told = check_edits(program, tmp_path / "editor.pt", editor, tmp_path)
    assert '"prompt": "white hair"' in told


def test_onnxruntime(editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's package brings the library; the header comes with a release or a distribution."""
    runtime = pytest.importorskip("onnxruntime")
    libraries = sorted((Path(runtime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    header = next((place for place in include_folders() if place.is_dir()), None)
    if header is None or not libraries:
        pytest.skip(
            "there is no onnxruntime_c_api.h: install ONNX Runtime's development files, or name "
            "their folder in ONNXRUNTIME_INCLUDE"
        )
    # Python's package has the library without the name that programs look for.
    (tmp_path / "libonnxruntime.so.1").symlink_to(libraries[-1])
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    export_edit(editor, tmp_path / "editor.onnx", part="editor")
    program = built(
        tmp_path / "b", "edit_onnxruntime", "-DCMAKE_DISABLE_FIND_PACKAGE_Torch=ON",
        f"-DONNXRUNTIME_INCLUDE={header}", f"-DONNXRUNTIME_LIBRARY={libraries[-1]}",
    )  # fmt: skip
    check_edits(program, tmp_path / "editor.onnx", editor, tmp_path)


def include_folders() -> list[Path]:
    named = os.environ.get("ONNXRUNTIME_INCLUDE")
    usual = [Path("/usr/include/onnxruntime"), Path("/usr/local/include/onnxruntime")]
    return [Path(named)] if named else usual
