"""`Editor.compile`: each network is compiled once, whatever is edited afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from sdd_fast.editing.editor import Editor
from sdd_fast.images import load_image, save_png
from sdd_fast.manipulator import MapperInfo
from sdd_fast.models import Encoder, LevelsMapper, StyleGAN2, StyleSpaceMapper

TOLERANCE = 1e-4
"""Of an edited image, in [-1, 1]: a fiftieth of one step of 255."""


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def parts() -> tuple[StyleGAN2, list[tuple[nn.Module, MapperInfo]], Encoder]:
    torch.manual_seed(0)
    generator = StyleGAN2(32, w_dim=16, z_dim=16, n_mlp=1, channel_base=256, channel_max=8)
    encoder = Encoder(32, 8, 16, channel_base=256, channel_max=8, head_channels=2)
    hair = LevelsMapper(8, 16, ["coarse", "medium"], zero_init=False)
    styles = StyleSpaceMapper(generator.style_dims, zero_init=False)
    return generator, [(hair, MapperInfo(lam=0.5)), (styles, MapperInfo())], encoder


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


def test_each_network_is_compiled_once(parts, images: Tensor, tmp_path: Path) -> None:
    plain, editor = Editor(*parts), Editor(*parts)
    counter = CompileCounterWithBackend("eager")
    assert editor.compile(4, backend=counter, fullgraph=True) > 0
    assert counter.frame_count == 2  # the encoder; mappers and generator
    w_plus = plain.encode(images)
    close(editor.encode(images), w_plus)
    for strength in (1.0, 0, -2.5, [0.3, 1.0]):
        for levels in (None, ["coarse"], []):
            close(editor.edit(images, strength, levels), plain.edit(images, strength, levels))
    # Of any number, and of latents that are a view, need a gradient or come from inference mode.
    for count in (1, 3, 4, 6):
        close(editor.edit(w_plus[1:][:count]), plain.edit(w_plus[1:][:count]))
    close(editor.edit(w_plus.clone().requires_grad_()), plain.edit(w_plus))
    with torch.inference_mode():
        close(editor.edit(w_plus.clone()), plain.edit(w_plus))
    for i, image in enumerate(images):
        save_png(tmp_path / "faces" / f"{i}.png", image)
    for some, out in ((editor, "compiled"), (plain, "plain")):
        some.edit_files(tmp_path / "faces", tmp_path / out, 0.7, progress=False)
    for path in (tmp_path / "plain").iterdir():
        compiled, wanted = load_image(tmp_path / "compiled" / path.name), load_image(path)
        torch.testing.assert_close(compiled, wanted, atol=2 / 255, rtol=0)  # rounded to bytes
    assert len(list((tmp_path / "compiled").iterdir())) == 7
    assert counter.frame_count == 2


def test_latents_alone(parts, images: Tensor) -> None:
    """One compiled network where there is no encoder; batches are never larger than it was told."""
    shapes: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        shapes.append(next(i.shape[0] for i in inputs if i.shape[1:] == (8, 16)))
        return graph

    generator, edits, encoder = parts
    editor, plain = Editor(generator, edits[0][0]), Editor(generator, edits[0][0])
    w_plus = Editor(*parts).encode(images)
    with torch._dynamo.config.patch(recompile_limit=1):  # what others have compiled is not counted
        for size in (3, 2):
            editor.compile(size, backend=backend)
            close(editor.edit(w_plus, batch_size=16), plain.edit(w_plus))
    assert shapes == [3, 2]


def test_what_cannot_be_compiled_leaves_the_editor_as_it_was(parts, images: Tensor) -> None:
    editor = Editor(*parts)
    want = editor.edit(images)

    def broken(*_: object) -> None:
        raise RuntimeError("no memory for that")

    with pytest.raises(Exception, match="no memory for that"):
        editor.compile(backend=broken)
    with pytest.raises(ValueError, match="torch.compile does not work here .* 'nothing'"):
        editor.compile(backend="nothing")
    assert torch.equal(editor.edit(images), want)
    with pytest.raises(ValueError, match="batch_size must be a positive integer"):
        editor.compile(0)
