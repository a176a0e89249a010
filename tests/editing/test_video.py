"""The frames of a video, edited one by one."""

from __future__ import annotations

import io
import sys
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdd_fast.editing.editor import Editor
from sdd_fast.editing.video import _EXACT, _picture, check_video, edit_video
from sdd_fast.models import Encoder, LevelsMapper, StyleGAN2

av = pytest.importorskip("av", reason="videos need PyAV: the extra video")

TIMES = [0, 40, 80, 200, 240]  # milliseconds; between two of them nothing was recorded


def write_video(path: Path, frames: list[Image.Image], sound: str | None = None) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"qscale": "1"})
        stream.width, stream.height = frames[0].size
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        audio = None if sound is None else container.add_stream(sound, rate=44100)
        for image, at in zip(frames, TIMES, strict=False):
            frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for i in range(8 if audio is not None else 0):
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            silence.sample_rate, silence.pts = 44100, 1024 * i
            container.mux(audio.encode(silence))
        if audio is not None:
            container.mux(audio.encode())
    return path


def read(
    path: Path, conversion: int | None = None
) -> tuple[list[float], list[np.ndarray], list[str]]:
    """Times in seconds, frames, and kinds of sound."""
    with av.open(str(path)) as container:
        sounds = [stream.codec_context.name for stream in container.streams.audio]
        found = [(frame.time, frame) for frame in container.decode(video=0)]
        kinds = [int(frame.colorspace) if int(frame.colorspace) != 2 else 5 for _, frame in found]
        pixels = [
            frame.reformat(
                format="rgb24", src_colorspace=kind, interpolation=conversion
            ).to_ndarray()
            for (_, frame), kind in zip(found, kinds, strict=True)
        ]
    return [time for time, _ in found], pixels, sounds


def frames(count: int = 5, size: tuple[int, int] = (64, 48)) -> list[Image.Image]:
    return [Image.new("RGB", size, (180, 40 + 30 * i, 30)) for i in range(count)]


@pytest.fixture
def editor() -> Editor:
    torch.manual_seed(0)
    generator = StyleGAN2(32, w_dim=16, z_dim=16, n_mlp=2, channel_base=256, channel_max=8)
    encoder = Encoder(32, generator.num_layers, 16, 256, 8, 2)
    mapper = LevelsMapper(generator.num_layers, 16, ["coarse", "medium"], zero_init=False)
    return Editor(generator.eval(), mapper.eval(), encoder.eval())


def test_frames_keep_their_times_and_the_sound(editor: Editor, tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", frames(), "aac")
    encoded: list[int] = []
    hook = editor.encoder.register_forward_hook(  # type: ignore[union-attr]
        lambda *given: encoded.append(len(given[1][0]))
    )
    out = edit_video(editor, source, tmp_path / "b.mp4", 1.0, batch_size=2, progress=False)
    hook.remove()
    assert encoded == [2, 2, 1]  # each frame once
    times, pixels, sounds = read(out)
    assert times == pytest.approx([t / 1000 for t in TIMES], abs=1e-3)
    assert sounds == ["aac"] and pixels[0].shape == (32, 32, 3)
    given = [Image.fromarray(frame) for frame in read(source, _EXACT)[1]]
    expected = editor.edit(given, 1.0, output="numpy", batch_size=1)
    plain = editor.edit(given[:1], 0.0, output="numpy")[0].reshape(8, 4, 8, 4, 3).mean((1, 3))
    for shown, right in zip(pixels, expected, strict=True):
        # Colors are kept at half of the resolution, and compressed.
        coarse = [x.astype(float).reshape(8, 4, 8, 4, 3).mean((1, 3)) for x in (shown, right)]
        assert np.abs(coarse[0] - coarse[1]).mean() < 3 < np.abs(coarse[0] - plain).mean()


def test_at_strength_0_whole_frames_are_as_they_were(editor: Editor, tmp_path: Path) -> None:
    """Colors survive, whether the video tells its matrix or not."""
    source = write_video(tmp_path / "a.mp4", frames())
    out = edit_video(
        editor, source, tmp_path / "b.mp4", 0.0, paste_back=True, progress=False
    )  # fmt: skip
    again = edit_video(editor, out, tmp_path / "c.mp4", 0.0, paste_back=True, progress=False)
    for path in (out, again):
        with av.open(str(path)) as container:
            for frame, right in zip(container.decode(video=0), frames(), strict=True):
                assert int(frame.colorspace) == 1  # BT.709
                seen = frame.reformat(format="rgb24", src_colorspace=1).to_ndarray()
                assert np.abs(seen.astype(float) - np.asarray(right)).max() <= 6


def test_frames_without_a_face_stay_and_are_counted(editor: Editor, tmp_path: Path) -> None:
    def align(photo: Image.Image) -> Image.Image:
        if photo.getpixel((5, 5))[1] > 90:  # type: ignore[index]
            raise ValueError("no face was found in a picture")
        aligned = photo.resize((32, 32))
        aligned.info["quad"] = np.array([[0, 0], [0, 47], [63, 47], [63, 0]])
        return aligned

    editor.align = align
    source = write_video(tmp_path / "a.mp4", frames())
    with pytest.warns(UserWarning, match="in 3 of 5 frames no face was found; they are as they"):
        out = edit_video(editor, source, tmp_path / "b.mp4", 2.0, progress=False)
    changes = [
        np.abs(shown.astype(float) - np.asarray(right)).max()
        for shown, right in zip(read(out)[1], frames(), strict=True)
    ]
    assert max(changes[2:]) <= 12 < min(changes[:2])
    with pytest.raises(ValueError, match=r"at 0.08 s: no face was found"):
        edit_video(editor, source, tmp_path / "c.mp4", paste_back=False, progress=False)
    assert not (tmp_path / "c.mp4").exists()


def test_sound_that_mp4_has_not_becomes_aac(editor: Editor, tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mov", frames(), "pcm_s16le")
    out = edit_video(editor, source, tmp_path / "b.mp4", progress=False)
    assert read(out)[2] == ["aac"]
    with av.open(str(out)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert 8 * 1024 <= samples <= 10 * 1024


def test_what_is_refused_leaves_nothing(
    editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_video(tmp_path / "a.mp4", frames(), "aac")
    out = tmp_path / "b.mp4"
    with pytest.raises(FileNotFoundError, match="none.mp4: there is no such video"):
        edit_video(editor, tmp_path / "none.mp4", out)
    with pytest.raises(ValueError, match=r"give a name that ends in \.mp4"):
        edit_video(editor, source, tmp_path / "b.webm")
    with pytest.raises(ValueError, match="is the video itself"):
        edit_video(editor, source, source, overwrite=True)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text.mp4 is not a video that can be read"):
        edit_video(editor, tmp_path / "text.mp4", out)
    blind = Editor(editor.generator, editor.mappers)
    with pytest.raises(ValueError, match="has no encoder"):
        edit_video(blind, source, out)
    out.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="would be replaced"):
        edit_video(editor, source, out)
    assert out.read_bytes() == b"mine"
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r"sdd_fast\[video\]"):
        edit_video(editor, source, tmp_path / "c.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "text.mp4"]


def test_an_interruption_leaves_nothing(editor: Editor, tmp_path: Path) -> None:
    def stop(event: Any) -> None:
        if event.done == 2:
            raise KeyboardInterrupt

    source = write_video(tmp_path / "a.mp4", frames())
    with pytest.raises(KeyboardInterrupt):
        edit_video(editor, source, tmp_path / "b.mp4", batch_size=2, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_video_that_was_cut_off_is_edited_with_a_warning(editor: Editor, tmp_path: Path) -> None:
    """Containers of which a part is there end without an error."""
    whole = tmp_path / "whole.mp4"
    with av.open(str(whole), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=5, options={"qscale": "1", "g": "1"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for image in frames(20, (32, 32)):
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    content = whole.read_bytes()
    part = tmp_path / "part.mp4"
    part.write_bytes(content[: len(content) * 3 // 4])
    with pytest.warns(UserWarning, match=r"lasts 4\.00 s, but ends after [12]\.\d\d s"):
        out = edit_video(editor, part, tmp_path / "b.mp4", progress=False)
    assert 1 <= len(read(out)[0]) < 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edit_video(editor, whole, tmp_path / "c.mp4", progress=False)


def damage(path: Path, kind: str, *numbers: int) -> None:
    """Put zeros in the place of packets of a video's pictures or sound."""
    with av.open(str(path)) as container:
        stream = next(one for one in container.streams if one.type == kind)
        packets = [(packet.pos, packet.size) for packet in container.demux(stream)]
    content = bytearray(path.read_bytes())
    for number in numbers:
        at, size = packets[number]
        content[at : at + size] = bytes(size)
    path.write_bytes(content)


def test_frames_that_cannot_be_decoded_are_counted(editor: Editor, tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mov", frames(), "mp2")
    whole = read(edit_video(editor, source, tmp_path / "b.mp4", progress=False))
    damage(source, "video", 1, 3)
    damage(source, "audio", 2)
    with pytest.warns(UserWarning, match=r"a\.mov is damaged: 2 of 5 frames cannot be "
                      "decoded, 1 of 8 packets of sound cannot be") as told:  # fmt: skip
        out = edit_video(editor, source, tmp_path / "c.mp4", progress=False)
    assert len(told) == 1
    assert read(out)[0] == [time for i, time in enumerate(whole[0]) if i not in (1, 3)]
    damage(source, "video", *range(5))
    with pytest.raises(ValueError, match=r"a\.mov is a video without a frame that can be read"):
        edit_video(editor, source, tmp_path / "d.mp4", progress=False)
    assert not (tmp_path / "d.mp4").exists()


def test_frames_that_are_decoded_in_part_are_counted(editor: Editor, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    source = write_video(
        tmp_path / "a.avi", [Image.fromarray(np.roll(pixels, i)) for i in range(5)]
    )
    with av.open(str(source)) as container:
        packet = list(container.demux(video=0))[2]
    content = bytearray(source.read_bytes())
    middle = packet.pos + packet.size // 2
    content[middle : middle + 200] = bytes(200)
    source.write_bytes(content)
    with pytest.warns(UserWarning, match=r"a\.avi is damaged: 1 of 5 frames only in part"):
        out = edit_video(editor, source, tmp_path / "b.mp4", progress=False)
    assert len(read(out)[0]) == 5


@pytest.mark.parametrize(("number", "name"), [(16, "PQ"), (18, "HLG")])
def test_videos_of_high_dynamic_range_are_refused(
    editor: Editor, tmp_path: Path, number: int, name: str
) -> None:
    source = tmp_path / "my clip.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        (stream.width, stream.height), stream.pix_fmt = (64, 48), "yuv420p"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = number, 9, 9
        container.mux(stream.encode(av.VideoFrame.from_image(frames(1)[0])))
        container.mux(stream.encode())
    with pytest.raises(
        ValueError, match=rf"is an HDR video \({name}\).* first: ffmpeg -i '.*my clip\.mp4' -vf"
    ):
        edit_video(editor, source, tmp_path / "b.mp4")
    with pytest.raises(ValueError, match="HDR"):  # before any work
        check_video(source, tmp_path / "b.mp4", False)
    assert list(tmp_path.iterdir()) == [source]


def test_frames_of_another_size_are_fitted_into_the_first(editor: Editor, tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    picture = Image.new("RGB", (64, 48), "red")
    picture.paste("blue", (32, 0, 64, 48))
    with av.open(str(source), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        (stream.width, stream.height), stream.pix_fmt = picture.size, "yuvj420p"
        container.start_encoding()
        for i, size in enumerate([(64, 48), (128, 96), (128, 96)]):
            content = io.BytesIO()
            picture.resize(size).save(content, "JPEG", quality=95)
            packet = av.Packet(content.getvalue())
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = 100 * i
            container.mux(packet)
    with pytest.warns(
        UserWarning, match=r"from 0\.10 s on, frames change from 64×48 to 128×96 pixels"
    ):
        out = edit_video(editor, source, tmp_path / "b.mp4", 0.0, paste_back=True, progress=False)
    for shown in read(out)[1]:
        assert shown.shape == (48, 64, 3)
        assert shown[24, 8].argmax() == 0 and shown[24, 56].argmax() == 2  # red and blue


def test_pixels_that_are_not_square_become_so(editor: Editor, tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        (stream.width, stream.height), stream.pix_fmt = (32, 64), "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        container.mux(stream.encode(av.VideoFrame.from_image(frames(1, (32, 64))[0])))
        container.mux(stream.encode())
    out = edit_video(editor, source, tmp_path / "b.mp4", paste_back=True, progress=False)
    assert read(out)[1][0].shape == (64, 64, 3)


def test_colors_are_converted_exactly() -> None:
    """Frames are seen as they are: not darker, and with smooth colors."""
    noise = np.random.default_rng(0).integers(30, 220, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC)
    frame = av.VideoFrame.from_image(image).reformat(
        format="yuv444p", dst_colorspace=5, interpolation=_EXACT
    )
    frame = frame.reformat(format="yuv420p", src_colorspace=5, dst_colorspace=5)
    frame.colorspace = 5
    change = np.asarray(_picture(frame, None)).astype(float) - np.asarray(image)
    assert abs(change.mean()) < 0.4 and np.abs(change).mean() < 2
