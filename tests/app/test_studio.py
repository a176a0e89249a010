"""Pictures, edits and runs of a page, without the page."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdd_fast.app.launch import open_studio
from sdd_fast.app.library import Library
from sdd_fast.app.outbox import KEPT, Outbox
from sdd_fast.app.studio import MOST_EDITS, SWEEP, Session, Settings, Studio
from sdd_fast.editing.editor import Editor
from sdd_fast.images import to_pil

BOTH = Settings([0.5, -1.0])


@pytest.fixture(scope="module")
def studio(home: Any) -> Studio:
    return home.studio()


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "me & you.png"
    noise = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((180, 120)).save(path)
    return path


def opened(studio: Studio, photo: Path) -> Session:
    return studio.open_file(studio.new_session(), photo)


def test_edits_are_those_of_the_python_editor(studio: Studio, photo: Path, home: Any) -> None:
    editor = Editor.load(home.given, home.domain)
    session = opened(studio, photo)
    for settings in (BOTH, Settings([2.0, 0.0], ["medium"]), Settings([1.0, 1.0], [])):
        wanted = editor.edit(photo, list(settings.strengths), settings.levels)[0]
        assert np.array_equal(studio.edit(session, settings), to_pil(wanted))
    assert session.prompts == ["white hair", "old <b>&amp;</b>"]
    assert session.levels == ["coarse", "medium"]


def test_a_picture_is_encoded_once(studio: Studio, photo: Path, tmp_path: Path) -> None:
    encoder, calls = studio.editor.encoder, []
    assert encoder is not None
    handle = encoder.register_forward_hook(lambda *told: calls.append(1))
    try:
        session = opened(studio, photo)
        for i in range(5):
            studio.edit(session, Settings([i / 4, 0.0]))
        studio.write_picture(session, BOTH, tmp_path / "a.png", into_photo=True)
        studio.write_animation(session, BOTH, 0, tmp_path / "a.webp")
        session = studio.add_run(session, "beard")
        studio.edit(session, Settings([1.0, 0.0, 1.0]))
    finally:
        handle.remove()
    assert len(calls) == 1


def test_a_download_is_the_crop_or_the_whole_photograph(
    studio: Studio, photo: Path, tmp_path: Path
) -> None:
    session = opened(studio, photo)
    crop = Image.open(studio.write_picture(session, BOTH, tmp_path / "crop.png"))
    assert np.array_equal(crop, studio.edit(session, BOTH))
    path = studio.write_picture(session, BOTH, tmp_path / "whole.png", into_photo=True)
    wanted = session.editor.edit_photo(photo, list(BOTH.strengths))
    assert Image.open(path).size == (180, 120) and np.array_equal(Image.open(path), wanted)
    sample = studio.open_sample(session, 1)  # has no photograph around it
    path = studio.write_picture(sample, BOTH, tmp_path / "sample.png", into_photo=True)
    assert Image.open(path).size == (32, 32)


def test_a_photograph_that_is_gone_is_asked_for_again(
    studio: Studio, photo: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(photo.read_bytes())
    session = opened(studio, copy)
    copy.unlink()
    studio.edit(session, BOTH)
    with pytest.raises(FileNotFoundError, match="choose the picture again"):
        studio.write_picture(session, BOTH, tmp_path / "a.png", into_photo=True)


def test_an_animation_lets_one_strength_grow_or_all(
    studio: Studio, photo: Path, tmp_path: Path
) -> None:
    session = opened(studio, photo)
    for which in (None, 1):
        path = studio.write_animation(session, BOTH, which, tmp_path / f"{which}.webp")
        with Image.open(path) as film:
            assert film.n_frames == 2 * len(SWEEP) - 2
            shown = np.asarray(film.convert("RGB").resize((32, 32), Image.Resampling.BOX), float)
        strengths = [SWEEP[0], SWEEP[0]] if which is None else [0.5, SWEEP[0]]
        wanted = np.asarray(studio.edit(session, Settings(strengths)), float)
        assert abs(shown - wanted).mean() < 8  # WebP, enlarged and reduced again
    with pytest.raises(ValueError, match="no edit 3"):
        studio.write_animation(session, BOTH, 2, tmp_path / "a.webp")


def test_samples_are_pictures_like_others(studio: Studio) -> None:
    session = studio.open_sample(studio.new_session(), 2)
    assert session.picture is not None and session.picture.before.size == (32, 32)
    wanted = studio.editor.edit(studio.samples[2], list(BOTH.strengths), output="numpy")[0]
    assert np.array_equal(studio.edit(session, BOTH), wanted)
    with pytest.raises(ValueError, match="no sample 9"):
        studio.open_sample(session, 8)


def test_bad_settings_are_told(studio: Studio, photo: Path) -> None:
    with pytest.raises(ValueError, match="choose a picture first"):
        studio.edit(studio.new_session(), BOTH)
    session = opened(studio, photo)
    studio.edit(session, Settings([1.0, 1.0, 0.0, 0.0]))  # of sliders that are not shown
    with pytest.raises(ValueError, match="other edits than the 2 that are open; reload it"):
        studio.edit(session, Settings([1.0, 1.0, 0.5]))
    with pytest.raises(ValueError, match="finite"):
        studio.edit(session, Settings([float("nan"), 0.0]))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("notes.png", "notes.png is not an image that can be read"),
        ("half.png", "truncated or corrupt"),
        ("large.png", "20000×10000 = 200 million pixels, at most 128 million"),
        ("small.png", "too small: 8×8"),
        ("empty.png", "is empty"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_own_name(
    studio: Studio, photo: Path, tmp_path: Path, name: str, told: str
) -> None:
    path = tmp_path / name
    if name == "large.png":
        Image.new("1", (20000, 10000)).save(path)
    elif name == "small.png":
        Image.new("RGB", (8, 8)).save(path)
    else:
        kinds = {"notes.png": b"no picture", "half.png": photo.read_bytes()[:500], "empty.png": b""}
        path.write_bytes(kinds[name])
    session = opened(studio, photo)
    with pytest.raises(ValueError, match=told) as error:
        studio.open_file(session, path)
    assert str(tmp_path) not in str(error.value)


def test_a_run_is_added_to_one_session(studio: Studio, photo: Path) -> None:
    session, other = opened(studio, photo), studio.new_session()
    more = studio.add_run(session, "beard")
    assert more.prompts[-1] == "a beard" and more.picture is session.picture
    without = studio.edit(session, Settings([0.5, 0.0]))
    assert np.array_equal(studio.edit(more, Settings([0.5, 0.0, 0.0])), without)
    assert not np.array_equal(studio.edit(more, Settings([0.5, 0.0, 1.0])), without)
    assert len(session.runs) == len(other.runs) == len(studio.new_session().runs) == 2
    assert more.editor.generator is session.editor.generator


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hair", "among the sliders already"),
        ("cat", "another domain: cats; this page edits pictures of tiny"),
        ("twin", "another one that is called tiny as well"),
        ("nothing", "there is no run 'nothing'"),
        ("../tiny", "there is no run"),
        ("/etc", "there is no run"),
    ],
)
def test_a_run_that_cannot_be_added_is_told_why(studio: Studio, name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        studio.add_run(studio.new_session(), name)


def test_there_are_as_many_edits_as_sliders(studio: Studio) -> None:
    session = studio.new_session()
    full = Session(session.editor, tuple(str(i) for i in range(MOST_EDITS)))
    with pytest.raises(ValueError, match=f"{MOST_EDITS} edits here, which is the most"):
        studio.add_run(full, "beard")


def test_an_editor_without_encoder_edits_its_samples(home: Any, photo: Path) -> None:
    studio = home.studio(encoder=None)
    session = studio.open_sample(studio.new_session(), 0)
    assert np.array_equal(studio.edit(session, Settings([0.0, 0.0])), studio.samples[0])
    with pytest.raises(ValueError, match="has no encoder and edits its own samples only"):
        studio.open_file(session, photo)


def test_a_whole_editor_needs_no_domain(studio: Studio, photo: Path, tmp_path: Path) -> None:
    studio.editor.save(tmp_path / "editor.safetensors")
    alone = open_studio([tmp_path / "editor.safetensors"])
    assert alone.domain is None and alone.samples == []
    session = alone.open_file(alone.new_session(), photo)
    assert np.array_equal(alone.edit(session, BOTH), studio.edit(opened(studio, photo), BOTH))


def test_runs_are_known_by_name(home: Any, tmp_path: Path) -> None:
    library = Library(home.given, home.folder)
    names = [run.name for run in library.runs()]
    assert names[:2] == ["hair", "old"] and set(names) == {"hair", "old", "beard", "cat", "twin"}
    assert library.find("beard").title == "a beard (beard)"
    assert [run.name for run in library.reported()] == ["hair"]
    with pytest.raises(ValueError, match="has no report.html"):
        library.report("old")
    assert Library([], tmp_path / "none").runs() == []
    same = Library([tmp_path / "a/run", tmp_path / "b/run", tmp_path / "b/run"], tmp_path)
    assert [run.name for run in same.given] == ["a/run", "2: b/run", "3: b/run"]


def test_a_report_that_leads_elsewhere_is_not_read(home: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.html"
    secret.write_text("secret")
    run = home.folder / "old"
    (run / "report.html").symlink_to(secret)
    try:
        library = Library(home.given, home.folder)
        with pytest.raises(ValueError, match="has no report.html"):
            library.report("old")
    finally:
        (run / "report.html").unlink()


def test_what_was_made_for_visitors_goes_after_a_while(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "out")
    first = outbox.place("../../me.png")
    assert first.parent.parent == tmp_path / "out" and "/" not in first.name
    first.write_bytes(b"1")
    os.utime(first.parent, (time.time() - KEPT - 5,) * 2)
    second = outbox.place("me.png")
    assert not first.exists() and second.parent.exists()


def test_a_page_has_a_run_at_least(home: Any) -> None:
    with pytest.raises(ValueError, match="a page has 1 to"):
        open_studio([])
    with pytest.raises(FileNotFoundError):
        open_studio([home.folder / "notes"], domain=home.domain)


def test_sessions_are_edited_from_several_threads(studio: Studio, photo: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    session = opened(studio, photo)
    several = [Settings([i / 8, 0.0]) for i in range(8)]
    alone = [np.asarray(studio.edit(session, one)) for one in several]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: np.asarray(studio.edit(session, one)), several))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not torch.is_inference_mode_enabled()
