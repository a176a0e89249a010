from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sdd_fast.checkpoints.convert import convert
from sdd_fast.checkpoints.inspect import describe_file
from sdd_fast.editing import batch_editing, edit_files
from sdd_fast.editing.editor import Editor
from sdd_fast.editing.save_as import save_image
from sdd_fast.export import export_torchscript, load_torchscript
from sdd_fast.files import write_json
from sdd_fast.images import load_image, to_pil
from sdd_fast.manipulator import MapperInfo, save_mapper
from sdd_fast.models import Encoder, LevelsMapper, StyleGAN2, StyleSpaceMapper
from sdd_fast.progress import Progress


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    torch.manual_seed(0)
    return StyleGAN2(64, w_dim=16, z_dim=16, n_mlp=2, channel_base=256, channel_max=8)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(1)
    return Encoder(64, 10, 16, channel_base=256, channel_max=8, head_channels=2)


def make_mapper(seed: int) -> LevelsMapper:
    torch.manual_seed(seed)
    return LevelsMapper(10, 16, zero_init=False)


@pytest.fixture(scope="module")
def editor(generator: StyleGAN2, encoder: Encoder) -> Editor:
    edits = [(make_mapper(2), MapperInfo("white hair", lam=0.5)), make_mapper(3)]
    return Editor(generator, edits, encoder)


@pytest.fixture(scope="module")
def w_plus() -> Tensor:
    return torch.randn(5, 10, 16, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (70, 90, 3), dtype=np.uint8)


@torch.no_grad()
def expected(editor: Editor, w: Tensor, *strengths: float) -> Tensor:
    a, b = editor.mappers
    w_hat = w + strengths[0] * 0.5 * a(w) + strengths[1] * b(w)
    return editor.generator.synthesis(w_hat).clamp(-1, 1)


def test_strengths_and_lambda(editor: Editor, w_plus: Tensor) -> None:
    assert_close = torch.testing.assert_close
    assert_close(editor.edit(w_plus), expected(editor, w_plus, 1, 1))
    assert_close(editor.edit(w_plus, -1.5), expected(editor, w_plus, -1.5, -1.5))
    assert_close(editor.edit(w_plus, [2.0, -0.5]), expected(editor, w_plus, 2, -0.5))
    assert_close(editor.edit(w_plus, 0), editor.generator.synthesis(w_plus).clamp(-1, 1))
    assert_close(editor.edit(w_plus, batch_size=2), expected(editor, w_plus, 1, 1))
    assert not editor.edit(w_plus).requires_grad


def test_a_strength_for_each_image(
    editor: Editor, generator: StyleGAN2, w_plus: Tensor, tmp_path: Path
) -> None:
    table = [[0.0, 1.0], [1.0, 0.0], [-0.5, 2.0], [0.3, 0.3], [0.0, 0.0]]
    want = torch.cat([expected(editor, w_plus[i : i + 1], *table[i]) for i in range(5)])
    for given in (table, np.array(table), torch.tensor(table)):
        torch.testing.assert_close(editor.edit(w_plus, given, batch_size=2), want)
    single = Editor(generator, editor.mappers[1])
    want = torch.cat([single.edit(w_plus[i : i + 1], 0.5 * i - 1) for i in range(5)])
    torch.testing.assert_close(single.edit(w_plus, [-1, -0.5, 0, 0.5, 1]), want)
    torch.manual_seed(0)
    styles = Editor(generator, StyleSpaceMapper(generator.style_dims, zero_init=False))
    want = torch.cat([styles.edit(w_plus[i : i + 1], i) for i in range(5)])
    torch.testing.assert_close(styles.edit(w_plus, range(5)), want)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected one strength, or one for each of 2 edits"):
        editor.edit_files(tmp_path, tmp_path / "out", table)


def test_levels_in_a_call(editor: Editor, w_plus: Tensor) -> None:
    part = editor.edit(w_plus, levels=["fine"])
    a, b = editor.mappers
    with torch.no_grad():
        delta = 0.5 * a(w_plus) + b(w_plus)
        delta[:, :8] = 0
        want = editor.generator.synthesis(w_plus + delta).clamp(-1, 1)
    torch.testing.assert_close(part, want)
    assert torch.equal(editor.edit(w_plus, levels=[]), editor.edit(w_plus, 0))
    with pytest.raises(ValueError, match="'hair'"):
        editor.edit(w_plus, levels=["hair"])


def test_every_kind_of_picture_gives_the_same_edit(
    editor: Editor, photo: np.ndarray, tmp_path: Path
) -> None:
    picture = Image.fromarray(photo)
    picture.save(tmp_path / "a.png")
    tensor = load_image(photo)
    with torch.no_grad():
        assert editor.encoder is not None
        want = expected(editor, editor.encoder(load_image(photo, 64)[None]), 1, 1)
    content = (tmp_path / "a.png").read_bytes()
    for given in (content, bytearray(content), memoryview(content), io.BytesIO(content)):
        torch.testing.assert_close(editor.edit(given), want)
    with (tmp_path / "a.png").open("rb") as opened:
        torch.testing.assert_close(editor.edit([opened]), want)
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), picture, photo, tensor]
    for source in [*sources, tensor[None], [picture]]:
        torch.testing.assert_close(editor.edit(source), want)  # type: ignore[arg-type]
    many = editor.edit(sources, batch_size=2)
    torch.testing.assert_close(many, want.expand(5, -1, -1, -1), atol=1e-4, rtol=1e-4)
    one_latent = editor.encode(photo)[0]
    torch.testing.assert_close(editor.edit(one_latent), want)


def test_pil_output(editor: Editor, w_plus: Tensor) -> None:
    pictures = editor.edit(w_plus, output="pil")
    assert len(pictures) == 5 and pictures[0].size == (64, 64)
    assert pictures[2].tobytes() == to_pil(editor.edit(w_plus)[2]).tobytes()
    arrays = editor.edit(w_plus, output="numpy")
    assert arrays.shape == (5, 64, 64, 3) and arrays.dtype == np.uint8
    assert np.array_equal(arrays[2], np.asarray(pictures[2]))


def test_style_space_edit(generator: StyleGAN2, w_plus: Tensor) -> None:
    torch.manual_seed(0)
    mapper = StyleSpaceMapper(generator.style_dims, zero_init=False)
    got = Editor(generator, mapper).edit(w_plus, -1)
    with torch.no_grad():
        styles = generator.style_vectors(w_plus)
        edited = [s - d for s, d in zip(styles, mapper(styles), strict=True)]
        want = generator.synthesis_from_styles(edited).clamp(-1, 1)
    torch.testing.assert_close(got, want)


def test_edit_files(editor: Editor, photo: np.ndarray, tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c.webp"):
        Image.fromarray(photo).save(tmp_path / name)
    out = tmp_path / "out"
    written = editor.edit_files(tmp_path, out, 0.5, suffix="-white", batch_size=2)
    assert [p.name for p in written] == ["a-white.png", "b-white.png", "c-white.png"]
    assert sorted(out.iterdir()) == written
    want = to_pil(editor.edit(tmp_path / "a.png", 0.5)[0])
    difference = np.asarray(Image.open(written[0])).astype(int) - np.asarray(want).astype(int)
    assert abs(difference).max() <= 1
    assert editor.edit_files(tmp_path / "a.png", tmp_path / "one") == [tmp_path / "one" / "a.png"]


def test_what_is_given_twice_is_edited_once(
    editor: Editor, w_plus: Tensor, photo: np.ndarray, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo).save("a.png")
    np.save("w.npy", w_plus.numpy())
    names = ["a.png", ".", "a.png", str(tmp_path / "a.png"), "*.png", f"../{tmp_path.name}/a.png"]
    written = editor.edit_files([*names, "w.npy", "w.npy"], "out")
    assert [path.name for path in written] == ["a.png", *(f"w-000{i}.png" for i in range(1, 6))]
    (tmp_path / "broken.png").write_bytes(b"broken")
    left_out: list[Path] = []
    editor.edit_files(["a.png", "broken.png", "broken.png"], "out", overwrite=True,
                      on_error=lambda path, _: left_out.append(path))  # fmt: skip
    assert left_out == [tmp_path / "broken.png"]


def test_edit_files_writes_nothing_when_one_is_broken(
    editor: Editor, photo: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"b\.png"):
        editor.edit_files(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_broken_images_can_be_left_out(editor: Editor, photo: np.ndarray, tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    for name in ("a.png", "c.png", "d.png"):
        Image.fromarray(photo).save(faces / name)
    data = (faces / "c.png").read_bytes()
    (faces / "b.png").write_bytes(b"broken")
    (faces / "c.png").write_bytes(data[: len(data) // 2])  # which only decoding shows
    left_out: dict[Path, Exception] = {}
    written = editor.edit_files(
        [faces, tmp_path / "gone.png"], tmp_path / "out", batch_size=2,
        on_error=left_out.__setitem__,
    )  # fmt: skip
    assert [path.name for path in written] == ["a.png", "d.png"]
    assert sorted((tmp_path / "out").iterdir()) == written
    assert sorted(path.name for path in left_out) == ["b.png", "c.png", "gone.png"]
    assert all(path.name in str(error) for path, error in left_out.items())
    alone = editor.edit_files(faces / "d.png", tmp_path / "alone")
    assert written[1].read_bytes() == alone[0].read_bytes()


def test_what_a_glob_finds(editor: Editor, photo: np.ndarray, tmp_path: Path) -> None:
    for name in ("a.png", "b", "c.jpg_large"):  # a name tells nothing, the content does
        Image.fromarray(photo).save(tmp_path / name, "PNG")
    for name in ("notes.txt", "film.mp4"):
        (tmp_path / name).write_text("something else")
    found = sorted(tmp_path.iterdir())
    left_out: dict[Path, Exception] = {}
    with pytest.warns(UserWarning, match=r"^passed over: 2 other files \(.*\)$"):
        written = editor.edit_files(found, tmp_path / "out", on_error=left_out.__setitem__)
    assert [path.name for path in written] == ["a.png", "b.png", "c.png"] and not left_out
    with pytest.raises(ValueError, match=r"film\.mp4 is not an image"):
        editor.edit_files(found, tmp_path / "other")
    with pytest.raises(ValueError, match="list is empty"):
        editor.edit_files(tmp_path / "film.mp4", tmp_path / "other", on_error=left_out.__setitem__)
    assert list(left_out) == [tmp_path / "film.mp4"] and not (tmp_path / "other").exists()


def test_what_is_no_fault_of_an_image_ends_the_work(
    editor: Editor, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png")

    def align(photo: Image.Image) -> Image.Image:
        raise FileNotFoundError("the detector's weights are not there")

    monkeypatch.setattr(editor, "align", align)
    with pytest.raises(FileNotFoundError, match="the detector's weights"):
        editor.edit_files(tmp_path / "a.png", tmp_path / "out", on_error=lambda *_: None)


def test_edit_files_never_overwrites_inputs(
    editor: Editor, photo: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png")
    (tmp_path / "more").mkdir()
    Image.fromarray(photo).save(tmp_path / "more" / "a.png")
    with pytest.raises(ValueError, match=r"several inputs .* a\.png\.png"):
        editor.edit_files([tmp_path / "a.png", tmp_path / "more"], tmp_path / "out")
    with pytest.raises(ValueError, match="overwrite its input"):
        editor.edit_files(tmp_path / "a.png", tmp_path)
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(ValueError, match="overwrite its input"):
        editor.edit_files(tmp_path / "link.png", tmp_path, overwrite=True)
    with pytest.raises(ValueError, match="list is empty"):
        editor.edit_files([], tmp_path / "out")


def test_names_of_results(editor: Editor, photo: np.ndarray, tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    long = "x" * 251 + ".png"
    for name in ("a.png", "a.jpg", "b.v2.jpg", long):
        Image.fromarray(photo).save(faces / name)
    written = editor.edit_files(faces, tmp_path / "out")
    assert [path.name for path in written] == ["a.jpg.png", "a.png.png", "b.v2.png", long]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in written
    )
    # What cannot be written is known before the first is.
    for suffix, error, message in (
        ("-long", OSError, "x-long.png"),
        ("/../../b", ValueError, "is no name of a file in .*no separator"),
        ("a\0b", ValueError, "is no name of a file in .*no NUL"),
    ):
        with pytest.raises(error, match=message):
            editor.edit_files(faces, tmp_path / "other", suffix=suffix)
    (tmp_path / "out" / "b.v2.png").unlink()
    (tmp_path / "out" / "b.v2.png").mkdir()
    with pytest.raises(IsADirectoryError, match=r"b\.v2\.png is a folder"):
        editor.edit_files(faces, tmp_path / "out", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file"):
        editor.edit_files(faces, tmp_path / "file" / "out")
    assert not (tmp_path / "other").exists()


def test_names_that_a_disk_takes_for_one(
    editor: Editor, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one/A.png", "two/a.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(photo).save(tmp_path / name)
    paths = [tmp_path / "one", tmp_path / "two"]
    monkeypatch.setattr(batch_editing, "_ignores_case", lambda folder: True)
    with pytest.raises(ValueError, match=r"A\.png\.png, a\.png\.png are one file on the disk"):
        editor.edit_files(paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    if not batch_editing._ignores_case(tmp_path):
        assert len(editor.edit_files(paths, tmp_path / "out")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "out", "two"]


def test_an_interruption_keeps_what_is_written(
    editor: Editor, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces, out = tmp_path / "faces", tmp_path / "out"
    faces.mkdir()
    for name in "abcd":
        Image.fromarray(photo).save(faces / f"{name}.png")
    whole = editor.edit_files(faces, tmp_path / "whole", batch_size=2)

    def interrupted(path: Path, *rest: Any) -> None:
        if path.name > "b.png":
            raise KeyboardInterrupt("stopped by SIGTERM")
        save_image(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(edit_files, "save_image", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"SIGTERM after 2 of 4 .*--skip-existing"):
            editor.edit_files(faces, out, batch_size=2)
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png"]
    with pytest.raises(FileExistsError, match="or skip_existing=True to edit only the others"):
        editor.edit_files(faces, out)
    (out / "a.png").write_bytes(b"kept")
    assert len(editor.edit_files(faces, out, batch_size=2, skip_existing=True)) == 4
    assert (out / "a.png").read_bytes() == b"kept"
    for path in whole[1:]:
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_what_another_process_writes_meanwhile_is_kept(
    editor: Editor, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    for name in "ab":
        Image.fromarray(photo).save(faces / f"{name}.png")

    def edit(*given: Any, **options: Any) -> Tensor:
        edited = Editor.edit(editor, *given, **options)
        out.mkdir(exist_ok=True)
        (out / "b.png").write_bytes(b"of another")
        return edited

    monkeypatch.setattr(editor, "edit", edit)
    out = tmp_path / "refused"
    with pytest.raises(FileExistsError, match=r"b\.png would be replaced"):
        editor.edit_files(faces, out)
    assert (out / "b.png").read_bytes() == b"of another" and (out / "a.png").exists()
    out = tmp_path / "skipped"
    assert len(editor.edit_files(faces, out, skip_existing=True)) == 2
    assert (out / "b.png").read_bytes() == b"of another"


def test_edit_files_replaces_nothing_unasked(
    editor: Editor, photo: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(photo).save(tmp_path / "a.jpg")
    (tmp_path / "a.png").write_text("something else of that name")
    for out in (tmp_path, tmp_path / "out"):
        if out != tmp_path:
            editor.edit_files(tmp_path / "a.jpg", out)
        before = (out / "a.png").read_bytes()
        with pytest.raises(FileExistsError, match=r"a\.png would be replaced; .*overwrite=True"):
            editor.edit_files(tmp_path / "a.jpg", out, -3.0)
        assert (out / "a.png").read_bytes() == before
        editor.edit_files(tmp_path / "a.jpg", out, -3.0, overwrite=True)
        assert (out / "a.png").read_bytes() != before
    with pytest.raises(ValueError, match="overwrite its input"):
        editor.edit_files(tmp_path / "a.png", tmp_path, overwrite=True)


def test_earlier_names(editor: Editor, photo: np.ndarray) -> None:
    want = editor.load_images([photo])
    with pytest.warns(DeprecationWarning, match="now called load_images"):
        assert torch.equal(editor.load_pictures([photo]), want)
    with pytest.warns(DeprecationWarning, match="pictures is now called images"):
        assert torch.equal(editor.edit(pictures=photo), editor.edit(photo))


def test_progress_of_edited_files(editor: Editor, photo: np.ndarray, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(photo).save(tmp_path / name)
    events: list[Progress] = []
    editor.edit_files(tmp_path, tmp_path / "out", batch_size=2, progress=events.append)
    assert [event.done for event in events] == [0, 1, 2, 3, 3]
    assert {event.task for event in events} == {"editing"} and events[-1].closed


def test_home_folders(
    editor: Editor, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(photo).save(tmp_path / "a.png")
    assert editor.edit_files("~/a.png", "~/out") == [tmp_path / "out" / "a.png"]
    weights, script = "~/m.safetensors", "~/m.pt"
    save_mapper(weights, make_mapper(2), MapperInfo("old"))
    export_torchscript(make_mapper(2), script, prompt="old", lam=1, timesteps=[5], domain="")
    assert load_torchscript(script)[1]["prompt"] == "old"
    convert(weights, "~/converted.safetensors")
    assert describe_file("~/converted.safetensors")["network"] == "LevelsMapper"
    with pytest.raises(ValueError, match="'~no-such-user/a.png' names no home folder"):
        load_image("~no-such-user/a.png")


def test_bad_input(editor: Editor, generator: StyleGAN2, w_plus: Tensor, photo: np.ndarray) -> None:
    with pytest.raises(ValueError, match="list is empty"):
        editor.edit([])
    with pytest.raises(ValueError, match=r"\[5, 9, 16\]"):
        editor.edit(w_plus[:, :9])
    for strength in (1e39, -1.1e6, float("inf"), float("nan")):
        with pytest.raises(
            ValueError, match="strength must be finite, and at most 1,000,000 either"
        ):
            editor.edit(w_plus, strength)
    with pytest.raises(ValueError, match="one strength, or one for each of 2"):
        editor.edit(w_plus, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="finite"):
        editor.edit(w_plus, float("nan"))
    with pytest.raises(ValueError, match='"tensor", "pil" or "numpy", got \'png\''):
        editor.edit(w_plus, output="png")
    with pytest.raises(ValueError, match=r"5 images, \[5, 2\]; got \[2, 5\]"):
        editor.edit(w_plus, torch.ones(2, 5))
    for no_numbers in ("strong", [[1.0], [1.0, 2.0]]):
        with pytest.raises(ValueError, match="a number, or a list or table of numbers, got"):
            editor.edit(w_plus, no_numbers)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size"):
        editor.edit(w_plus, batch_size=0)
    with pytest.raises(ValueError, match=r"images\[2\]: the image is too small: 9×9"):
        editor.edit([photo, Image.fromarray(photo), Image.new("RGB", (9, 9))], batch_size=2)
    with pytest.raises(TypeError, match=r"images\[1\]: .*uint8.*got int64"):
        editor.edit([photo, photo.astype("int64")])
    with pytest.raises(ValueError, match="no encoder"):
        Editor(generator, make_mapper(0)).edit(photo)
    with pytest.raises(ValueError, match="at least one mapper"):
        Editor(generator, [])
    with pytest.raises(ValueError, match=r"'old'.*\[8, 16\].*\[10, 16\].*domain cats"):
        wrong = LevelsMapper(8, 16, ["coarse"])
        Editor(generator, [(wrong, MapperInfo("old", domain="cats"))])
    with pytest.raises(ValueError, match="another generator"):
        Editor(generator, StyleSpaceMapper([8, 8, 8, 8, 8]))
    with pytest.raises(TypeError, match=r"\(Linear\) has no num_layers and no w_dim"):
        Editor(torch.nn.Linear(2, 2), make_mapper(0))  # type: ignore[arg-type]
    diverged = make_mapper(0)
    diverged.mlps["fine"][1].weight.data[0, 0] = float("nan")
    with pytest.raises(
        ValueError, match=r"the mapper for 'old' holds NaN(.|\n)*mlps.fine.1.weight"
    ):
        Editor(generator, [(diverged, MapperInfo("old"))])


def test_load(
    generator: StyleGAN2, encoder: Encoder, w_plus: Tensor, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import sdd_fast.domains

    asked = []

    def load_domain(name: object, *, device: str = "cpu") -> SimpleNamespace:
        asked.append(name)
        return SimpleNamespace(generator=generator, encoder=encoder, align=False)

    monkeypatch.setattr(sdd_fast.domains, "load_domain", load_domain)
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        Editor.load(run)
    run.mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no mapper\.safetensors.*resume"):
        Editor.load(run)
    first, second = make_mapper(2), make_mapper(3)
    save_mapper(run / "mapper.safetensors", first, MapperInfo("white hair", 0.5, domain="faces64"))
    save_mapper(tmp_path / "other.safetensors", second, MapperInfo())
    loaded = Editor.load([run, tmp_path / "other.safetensors"])
    assert [info.prompt for info in loaded.infos] == ["white hair", ""]
    want = Editor(generator, [(first, MapperInfo(lam=0.5)), second]).edit(w_plus)
    torch.testing.assert_close(loaded.edit(w_plus), want)
    Editor.load(str(tmp_path / "other.safetensors"))
    Editor.load(run, domain=tmp_path)
    assert asked == ["faces64", None, tmp_path]
    cats, dogs = str(run / "cats"), str(tmp_path / "dogs")
    for home in (cats, dogs):
        write_json(Path(home) / "domain.json", {})
    write_json(run / "run.json", {"domain_reference": cats})
    Editor.load([run, tmp_path / "other.safetensors"])
    assert asked.pop() == cats
    save_mapper(tmp_path / "dogs.safetensors", second, MapperInfo(domain="dogs"))
    with pytest.raises(ValueError, match=f"different domains: {cats}, {dogs}"):
        Editor.load([run, tmp_path / "dogs.safetensors"])
    domain = SimpleNamespace(generator=generator, encoder=encoder, align=False)
    Editor.load(run, domain=domain)  # type: ignore[arg-type]
    assert len(asked) == 3
