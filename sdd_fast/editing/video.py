"""The frames of a video, edited one by one: each is aligned, encoded once, and put back."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageOps

from ..checks import check_count
from ..files import PathLike, atomic_path, expanded
from ..images import to_pil
from ..manipulator import Strength, strengths_of
from ..outputs import check_free
from ..progress import Listener, Task
from ..shield import shielded
from . import edit_inputs
from .animation import video_library
from .paste_back import paste_back as put_back

if TYPE_CHECKING:
    from .editor import Editor

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
_SOUNDS = ("aac", "mp3", "opus", "ac3", "eac3", "alac", "flac")  # any other becomes AAC
_LARGE = 720  # lines, from which a video that does not tell its color matrix is of BT.709
_BT601, _BT709, _LIMITED = 5, 1, 1  # as FFmpeg numbers matrices and ranges
_KNOWN = (1, 4, 5, 7, 9)  # matrices that frames can be converted from
# FFmpeg's bicubic with SWS_FULL_CHR_H_INT and SWS_ACCURATE_RND: without these two colors are
# taken from the nearest pixel that has one, and every conversion makes a picture darker.
_EXACT = 4 | 0x2000 | 0x40000
_TONE_MAPPING = (
    'ffmpeg -i {} -vf "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable,'
    'zscale=t=bt709:m=bt709:r=tv,format=yuv420p" -c:a copy sdr.mp4'
)
_HDR = {16: "PQ", 18: "HLG"}  # transfer functions, as FFmpeg numbers them
_TOLERANCE = 1  # seconds that a whole video may end before the time that it tells


@shielded(grad=False)
def edit_video(
    editor: Editor,
    path: PathLike,
    out: PathLike,
    strength: Strength = 1.0,
    levels: Sequence[str] | None = None,
    *,
    batch_size: int = 16,
    aligned: bool = False,
    paste_back: bool | None = None,
    overwrite: bool = False,
    progress: bool | Listener = True,
) -> Path:
    """Edit every frame of a video and write an MP4 (H.264) of the same times, with its sound.

    Frames are edited for themselves: where the encoder sees neighbors differently, or the alignment
    of a face trembles, so does the edit. A few frames at a time are held in memory.

    Args:
        editor: with an encoder.
        path: a video that FFmpeg reads. out: ends in .mp4.
        strength, levels, aligned: as of `Editor.edit`; of strengths one for each edit.
        batch_size: frames that go through the networks at once.
        paste_back: write whole frames, edited where the edit changed something, or the edited crops
            alone; None: whole where a face is looked for. Of whole frames those in which no face
            is found stay as they are.
        overwrite: replace `out`.

    Returns:
        `out`.

    Raises:
        ValueError: no video, an HDR video, one that cannot be read to its end, an `out` of another
            ending or that is the input, a crop in which no face is found, or an editor without an
            encoder.
        FileExistsError: `out` exists, and not `overwrite`.
        ModuleNotFoundError: PyAV is not installed (the extra `video`).

    Warns:
        UserWarning: how many frames stayed as they are; how many of a damaged video are missing or
            broken, as far as the decoder notices; a video that ends before the time that it tells,
            as one that was cut off does; frames of another size than the first, which are fitted
            into that.
    """
    source, target = expanded(path), expanded(out)
    check_video(source, target, overwrite)
    at_once = check_count("batch_size", batch_size)
    strengths = strengths_of(strength, len(editor.infos), 1)[0].tolist()
    if editor.encoder is None:
        raise ValueError("this Editor has no encoder, which the frames of a video need")
    align = None if aligned else editor.align
    whole = align is not None if paste_back is None else paste_back
    untouched = 0
    with _reading(source) as (reading, stream), atomic_path(target) as temporary:
        task = Task("editing", _count(reading, stream), progress, unit="frames")
        with task, _Writer(temporary, reading, stream) as writer:
            sound = [] if writer.sound is None else [reading.streams.audio[0]]
            decoder = _Decoder(source, reading, [stream, *sound])
            frames = _frames(decoder, stream, writer)
            while some := list(islice(frames, at_once)):
                found = [_placed(editor, image, at, align, whole) for at, image in some]
                edited = _edited(editor, found, strengths, levels, whole)
                untouched += found.count(None)
                for (at, image), result in zip(some, edited, strict=True):
                    writer.write(image if result is None else result, at)
                task.total = max(task.total, task.done + len(some))
                task.advance(len(some))
        if not task.done:
            raise ValueError(f"{source} is a video without a frame that can be read")
        told = [*writer.warnings, *decoder.warnings()]
    for text in told:
        warnings.warn(text, stacklevel=3)
    if untouched:
        warnings.warn(
            f"in {untouched} of {task.done} frames no face was found; they are as they were",
            stacklevel=3,
        )
    return target


def check_video(source: Path, target: Path, overwrite: bool) -> None:
    """Raise before any work where `edit_video` cannot write its result, or not read at all."""
    video_library()
    if target.suffix.lower() != ".mp4":
        raise ValueError(f"{target}: an edited video is an MP4; give a name that ends in .mp4")
    if not source.is_file():
        raise FileNotFoundError(f"{source}: there is no such video")
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target} is the video itself, which is never replaced")
    check_free([target], overwrite)
    with _reading(source):
        pass


def _placed(
    editor: Editor, image: Image.Image, at: Fraction, align: Any, whole: bool
) -> edit_inputs.Placed | None:
    """Where in a frame the crop lies; None where there is no face in a whole frame."""
    try:
        if whole:
            return edit_inputs.load_placed(image, editor.input_size, align)
        crop = edit_inputs.load_one(image, editor.input_size, align)
        return edit_inputs.Placed(image, crop, edit_inputs.upright_quad(slice(0, 1), slice(0, 1)))
    except ValueError as error:
        if align is not None and whole:
            return None
        raise ValueError(f"at {float(at):.2f} s: {error}") from error


def _edited(
    editor: Editor,
    found: Sequence[edit_inputs.Placed | None],
    strengths: list[float],
    levels: Sequence[str] | None,
    whole: bool,
) -> list[Image.Image | None]:
    placed = [one for one in found if one is not None]
    if not placed:
        return [None] * len(found)
    w_plus = editor.encode(torch.stack([one.crop for one in placed]), len(placed))
    after = editor.edit(w_plus, strengths, levels, batch_size=len(placed))
    results = [to_pil(image) for image in after]
    if whole:
        before = editor.edit(w_plus, [0.0] * len(strengths), levels, batch_size=len(placed))
        results = [
            put_back(one.photo, a, b, one.quad)
            for one, a, b in zip(placed, after, before, strict=True)
        ]
    rest = iter(results)
    return [None if one is None else next(rest) for one in found]


@contextmanager
def _reading(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video; yields its container and its first stream of pictures."""
    av = video_library()
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, ValueError) as error:
        raise ValueError(f"{path} is not a video that can be read ({error})") from error
    with container:
        if not container.streams.video:
            raise ValueError(f"{path} has no pictures, only sound or text")
        stream = container.streams.video[0]
        if (transfer := _HDR.get(int(stream.codec_context.color_trc))) is not None:
            raise ValueError(
                f"{path} is an HDR video ({transfer}), whose colors would come out wrong; make one "
                f"of standard range first: {_TONE_MAPPING.format(shlex.quote(str(path)))}"
            )
        # With threads for frames, an error loses those that are whole and waiting, too.
        stream.thread_type = "SLICE"
        yield container, stream


def _count(container: Any, stream: Any) -> int:
    """About how many frames there are."""
    seconds = float(container.duration or 0) / 1e6
    return max(1, stream.frames or round(seconds * float(stream.average_rate or 25)))


class _Decoder:
    """Reads a video to its end, and counts what is damaged in it."""

    def __init__(self, path: Path, container: Any, streams: list[Any]) -> None:
        self._av = video_library()
        self._path, self._container, self._streams = path, container, streams
        self._end = Fraction(0)  # of the last packet, in seconds
        self._packets = self._frames = self._failed = self._broken = 0
        self._sounds = self._failed_sounds = 0

    def packets(self) -> Iterator[Any]:
        """Yield the packets of the streams.

        Raises:
            ValueError: they cannot be read any further.
        """
        try:
            for packet in self._container.demux(self._streams):
                if packet.pts is not None:
                    end = (packet.pts + (packet.duration or 0)) * packet.time_base
                    self._end = max(self._end, end)
                yield packet
        except self._av.error.FFmpegError as error:
            raise ValueError(
                f"{self._path} breaks off after {float(self._end):.2f} s ({error}); nothing was "
                "written"
            ) from error

    def decode(self, packet: Any) -> list[Any]:
        """Return the frames or sounds that are complete with a packet; none of a damaged one."""
        try:
            found: list[Any] = packet.decode()
        except self._av.error.InvalidDataError:
            found, failed = [], 1
        else:
            failed = 0
        if packet.stream.type == "video":
            self._packets += packet.size > 0  # not the one that tells the end
            self._frames += len(found)
            self._failed += failed
            self._broken += sum(frame.is_corrupt for frame in found)
        else:
            self._sounds += packet.size > 0
            self._failed_sounds += failed
        return found

    def warnings(self) -> Iterator[str]:
        """Tell what was damaged or cut off, once everything is read."""
        # Those that refer to a frame that is not there are dropped without an error.
        lost = max(self._failed, self._packets - self._frames) if self._failed else 0
        damaged = {
            f"of {self._packets} frames cannot be decoded": lost,
            f"of {self._packets} frames only in part": self._broken,
            f"of {self._sounds} packets of sound cannot be decoded": self._failed_sounds,
        }
        if any(damaged.values()):
            counted = ", ".join(f"{count} {what}" for what, count in damaged.items() if count)
            yield f"{self._path} is damaged: {counted}; what is there was edited"
        told = Fraction(self._container.duration or 0, self._av.time_base)
        # Where a file has more than is read here, such as subtitles, that may be what lasts longer.
        whole = len(self._streams) == len(self._container.streams)
        if whole and told - self._end > _TOLERANCE:
            yield (
                f"{self._path} tells that it lasts {float(told):.2f} s, but ends after "
                f"{float(self._end):.2f} s, as if it had been cut off; what is there was edited"
            )


def _frames(
    decoder: _Decoder, stream: Any, writer: _Writer
) -> Iterator[tuple[Fraction, Image.Image]]:
    """Yield the time in seconds and the upright picture of each frame; passes the sound on."""
    last = Fraction(-1)
    for packet in decoder.packets():
        if packet.stream is not stream:
            writer.pass_on(packet, decoder)
            continue
        for frame in decoder.decode(packet):
            step = 1 / (stream.average_rate or Fraction(25))
            told = None if frame.pts is None else frame.pts * frame.time_base
            last = last + step if told is None or told <= last else told
            yield last, _picture(frame, stream.sample_aspect_ratio)


def _picture(frame: Any, pixel: Fraction | None) -> Image.Image:
    """Return a frame upright, its pixels made square; `pixel`: their width by their height."""
    known = frame.colorspace in _KNOWN
    matrix = frame.colorspace if known else _BT709 if frame.height >= _LARGE else _BT601
    image: Image.Image = frame.reformat(
        format="rgb24", src_colorspace=matrix, interpolation=_EXACT
    ).to_image()
    if pixel and pixel != 1:
        width, height = image.size
        longer = (round(width * pixel), height) if pixel > 1 else (width, round(height / pixel))
        image = image.resize(longer, Image.Resampling.BICUBIC)
    return image.rotate(frame.rotation, expand=True) if frame.rotation % 360 else image


class _Writer:
    """Writes pictures of one size and times as MP4, beside the sound of another video."""

    def __init__(self, path: Path, original: Any, stream: Any) -> None:
        self._av = video_library()
        self._container = self._av.open(str(path), "w", format="mp4")
        good = "libx264" in self._av.codecs_available
        codec, options = ("libx264", {"crf": "18"}) if good else ("mpeg4", {"qscale": "2"})
        rate = stream.average_rate or Fraction(25)
        self._stream = self._container.add_stream(codec, rate=rate, options=options)
        self._stream.pix_fmt = "yuv420p"
        self._base = Fraction(1, 90_000)
        self._given: tuple[int, int] | None = None  # size of the first picture
        self._size: tuple[int, int] | None = None
        self._fitted = False
        self.warnings: list[str] = []
        self._waiting: list[Any] = []  # sound before the first picture, whose size a file needs
        self.sound = self._sound(original)

    def _sound(self, original: Any) -> Any:
        if not original.streams.audio:
            return None
        audio = original.streams.audio[0]
        self._recoded = audio.codec_context.codec.canonical_name not in _SOUNDS
        if self._recoded:
            return self._container.add_stream("aac", rate=audio.rate)
        return self._container.add_stream_from_template(audio)

    def __enter__(self) -> _Writer:
        return self

    def write(self, image: Image.Image, at: Fraction) -> None:
        if self._size is None:
            self._given = image.size
            width, height = (max(2, side - side % 2) for side in image.size)  # as 4:2:0 needs it
            self._size = self._stream.width, self._stream.height = width, height
            context = self._stream.codec_context
            context.time_base = self._base
            context.colorspace, context.color_range = _BT709, _LIMITED
            self._container.start_encoding()
            self._container.mux(self._waiting)
        if self._given is not None and image.size != self._given:
            if not self._fitted:
                sizes = " to ".join(f"{w}×{h}" for w, h in (self._given, image.size))
                self.warnings.append(
                    f"from {float(at):.2f} s on, frames change from {sizes} pixels; they were "
                    "fitted into the first size"
                )
            self._fitted = True
            image = ImageOps.pad(image, self._given)
        cut = image.convert("RGB").crop((0, 0, *self._size))
        frame = self._av.VideoFrame.from_image(cut)
        frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709, interpolation=_EXACT)
        frame.colorspace, frame.color_range = _BT709, _LIMITED
        frame.pts, frame.time_base = round(at / self._base), self._base
        self._container.mux(self._stream.encode(frame))

    def pass_on(self, packet: Any, decoder: _Decoder) -> None:
        """Write a packet of the sound; the empty one at the end of a stream is none."""
        if self._recoded:
            self._mux(p for frame in decoder.decode(packet) for p in self.sound.encode(frame))
        elif packet.dts is not None:
            packet.stream = self.sound
            self._mux([packet])

    def _mux(self, packets: Iterable[Any]) -> None:
        if self._size is None:
            self._waiting += packets
        else:
            self._container.mux(packets)

    def __exit__(self, kind: Any, *more: object) -> None:
        if kind is None and self._size is not None:
            self._container.mux(self._stream.encode())
            if self.sound is not None and self._recoded:
                self._container.mux(self.sound.encode())
        self._container.close()
