"""Which images are held out: a matter of names and captions, never of any order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from cups import write_cups, write_listing

from sdd_fast.training.data import HELD_OUT, ImageFolder, hold_out


def test_the_order_of_files_does_not_matter() -> None:
    captions = {f"{i:04d}.png": [f"cup {i}"] for i in range(200)}
    train, held_out = hold_out(captions)
    names = list(captions)
    random.Random(0).shuffle(names)
    assert hold_out({name: captions[name] for name in names}) == (train, held_out)
    assert len(held_out) == 40 and sorted(train + held_out) == sorted(captions)
    assert hold_out(captions, seed=1)[1] != held_out
    assert len(hold_out({str(i): [str(i)] for i in range(5000)})[1]) == HELD_OUT


def test_of_a_folder_sorted_by_class_every_class_is_trained_on_and_judged_on() -> None:
    for classes, count in ((4, 16), (40, 40)):
        captions = {
            f"{kind:02d}/{i:03d}.png": [f"a cup of kind {kind}"]
            for kind in range(classes)
            for i in range(count)
        }
        train, held_out = hold_out(captions)
        assert {name[:2] for name in train} == {f"{kind:02d}" for kind in range(classes)}
        assert len({name[:2] for name in held_out}) > 0.7 * classes
        # So is the beginning of either list, which is all that some parts look at.
        assert len({name[:2] for name in train[: len(train) // 4]}) > 0.7 * classes
        share = sum(name < f"{classes // 2:02d}" for name in held_out) / len(held_out)
        assert 0.25 < share < 0.75


def test_near_copies_stay_together() -> None:
    captions = {f"{i:03d}-{k}.png": [f"cup number {i}", "Cup"] for i in range(100) for k in "abc"}
    train, held_out = ({name[:3] for name in names} for names in hold_out(captions))
    assert len(held_out) == 20 and not train & held_out
    # In capitals they are the same captions.
    loud = {name: [text.upper() for text in texts] for name, texts in captions.items()}
    assert hold_out(captions | dict(list(loud.items())[::2])) == hold_out(captions)


def test_a_folder_is_split_before_it_is_read(tmp_path: Path) -> None:
    captions = write_cups(tmp_path, count=24)
    split = ImageFolder(tmp_path, "a cup", progress=False).images(tmp_path, 32, 1.0)
    train, held_out = hold_out({name: [text] for name, text in captions.items()})
    assert list(split.train.names) == train and list(split.held_out.names) == held_out
    assert len(split.train) == 20 and len(split.held_out) == 4
    for part in (split.train, split.held_out):
        for i, name in enumerate(part.names):
            red, green, blue = part.images(torch.tensor([i]))[0].mean((1, 2)).tolist()
            assert name.split("/")[0] == max(zip((red, green, blue), ("red", "green", "blue"),
                                                 strict=True))[1]  # fmt: skip
            assert part.captions(torch.tensor([i]), seed=3) == [captions[name]]
    shuffled = dict(sorted(captions.items(), reverse=True))
    write_listing(tmp_path, shuffled)
    again = ImageFolder(tmp_path, "a cup", progress=False).images(tmp_path, 32, 1.0)
    assert again.record() == split.record()
    write_listing(tmp_path, captions | {held_out[0]: "another caption"})
    other = ImageFolder(tmp_path, "a cup", progress=False).images(tmp_path, 32, 1.0)
    assert other.record() != split.record()


def test_all_pictures_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    first, second, *_ = write_cups(tmp_path, count=24)
    (tmp_path / first).write_bytes(b"no picture")
    (tmp_path / second).write_bytes((tmp_path / second).read_bytes()[:60])
    with pytest.raises(ValueError, match="2 of 24 pictures cannot be read") as error:
        ImageFolder(tmp_path, "a cup", progress=False).images(tmp_path, 32, 1.0)
    assert first in str(error.value) and second in str(error.value)


def test_every_caption_of_an_image_is_drawn_now_and_then(tmp_path: Path) -> None:
    captions = write_cups(tmp_path, count=20)
    name = hold_out({name: [text] for name, text in captions.items()})[0][0]
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write(f'\n{{"file_name": "{name}", "text": "a vessel"}}')
    train = ImageFolder(tmp_path, "a cup", progress=False).images(tmp_path, 32, 1.0).train
    index = torch.tensor([train.names.index(name)])
    drawn = {train.captions(index, seed)[0] for seed in range(20)}
    assert drawn == {"a vessel", captions[name]} <= set(train.all_captions())
