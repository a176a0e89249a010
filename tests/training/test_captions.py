"""The captions of a folder of pictures, in each form, and what is said of those that are wrong."""

from __future__ import annotations

import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdd_fast.training.captions import example_prompts, read_captions


@pytest.fixture
def cups(tmp_path: Path) -> Path:
    folder = tmp_path / "cups"
    (folder / "blue").mkdir(parents=True)
    for name in ("1.png", "2.png", "blue/3.jpg"):
        Image.new("RGB", (32, 32)).save(folder / name)
    return folder


def listing(folder: Path, *rows: Any, start: bytes = b"", encoding: str = "utf-8") -> None:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "metadata.jsonl").write_bytes(start + "\n".join(lines).encode(encoding))


def row(name: str, text: Any = "a cup") -> dict[str, Any]:
    return {"file_name": name, "text": text}


ALL = {"1.png": ["a red cup"], "2.png": ["a cup"], "blue/3.jpg": ["a blue cup"]}
ROWS = [row("2.png"), row("blue/3.jpg", "a blue cup"), row("1.png", " a red cup ")]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["", "\r"])
def test_a_line_an_image_in_any_order(cups: Path, start: bytes, end: str) -> None:
    lines = [json.dumps(r) + end for r in (*ROWS[::-1],)]
    listing(cups, *lines, "", start=start)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_captions(cups) == ALL
    assert list(read_captions(cups)) == sorted(ALL)


def test_a_table(cups: Path) -> None:
    text = 'file_name,text\n2.png,a cup\n"blue/3.jpg", "a blue cup"\n1.png,a red cup\n'
    for data in (text.encode(), b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()):
        (cups / "metadata.csv").write_bytes(data)
        assert read_captions(cups) == ALL
    (cups / "metadata.csv").write_text('file_name,text\n1.png,"a cup, seen\nfrom above"\n')
    with pytest.warns(UserWarning, match="2 of 3 pictures in .* have no caption"):
        assert read_captions(cups) == {"1.png": ["a cup, seen\nfrom above"]}
    (cups / "metadata.csv").write_text("file_name,text\n2.png,a cup\n1.png,a cup, seen from above")
    with pytest.raises(ValueError, match=r"metadata\.csv, line 3: .* more fields than the 2"):
        read_captions(cups)
    (cups / "metadata.csv").write_text('file_name,text\n1.png,"a cup\n')
    with pytest.raises(ValueError, match=r"metadata\.csv, line 1: unexpected end"):
        read_captions(cups)


def test_parquet_is_read_where_pyarrow_is_installed(
    cups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cups / "metadata.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"metadata\.parquet needs pyarrow \(pip install"):
        read_captions(cups)

    class ArrowException(Exception):
        pass

    def read_table(path: Path) -> Any:
        if path.read_bytes() != b"PAR1":
            raise ArrowException("no magic bytes")
        return types.SimpleNamespace(to_pylist=lambda: ROWS)

    arrow, parquet = types.ModuleType("pyarrow"), types.ModuleType("pyarrow.parquet")
    arrow.ArrowException, parquet.read_table = ArrowException, read_table  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", arrow)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    assert read_captions(cups) == ALL
    (cups / "metadata.parquet").write_bytes(b"PK")
    with pytest.raises(ValueError, match="no parquet file that pyarrow reads: no magic bytes"):
        read_captions(cups)


def test_files_beside_the_images(cups: Path) -> None:
    (cups / "1.txt").write_bytes(b"\xef\xbb\xbfa red cup\r\n")
    (cups / "2.txt").write_text("a cup")
    (cups / "blue" / "3.caption").write_text("a blue cup\na cup, seen\u2028from above\n")
    (cups / "notes.txt").write_text("of no picture")
    seen = "a cup, seen\u2028from above"
    assert read_captions(cups) == ALL | {"blue/3.jpg": sorted(["a blue cup", seen])}
    (cups / "1.caption").write_text("tags, of, a, cup")
    with pytest.raises(ValueError, match=r"1\.caption and 1\.txt; keep .*--caption-column"):
        read_captions(cups)
    with pytest.warns(UserWarning, match="1 of 3 pictures"):
        assert read_captions(cups, "caption")["1.png"] == ["tags, of, a, cup"]
    (cups / "2.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"2\.txt is empty; expected a caption of 2\.png"):
        read_captions(cups, "txt")


def test_other_names_of_files_beside_the_images(cups: Path, tmp_path: Path) -> None:
    (cups / "1.TXT").write_text("a red cup")
    (cups / "2.png.txt").write_text("a cup")
    (cups / "blue" / "3.jpg.Caption").write_text("a blue cup")
    assert read_captions(cups) == ALL
    (cups / "1.png.txt").write_text("a cup")
    with pytest.raises(ValueError, match=r"1\.png has captions in 1\.png\.txt and 1\.TXT; keep"):
        read_captions(cups)
    (cups / "1.wd14.txt").write_text("tags")
    with pytest.warns(UserWarning, match="2 of 3 pictures"):
        assert read_captions(cups, ".wd14.txt") == {"1.png": ["tags"]}
    for column in ("../etc", "..", "/", "a\0b", "none"):
        with pytest.raises(FileNotFoundError, match="has 3 pictures, .* no 1.* beside a 1.png"):
            read_captions(cups, column)


def test_several_captions_of_an_image(cups: Path) -> None:
    again = row("./1.png", ["cup", "a red cup"])
    listing(cups, *ROWS, again, again)
    with pytest.warns(UserWarning, match="1 of 3 pictures are listed more than once in .*: each"):
        assert read_captions(cups) == ALL | {"1.png": ["a red cup", "cup"]}


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
def test_only_a_line_feed_ends_a_line(cups: Path, separator: str) -> None:
    text = f"a cup{separator}with an ear"
    # Below U+0020 JSON wants them escaped.
    line = json.dumps(row("1.png", text), ensure_ascii=separator < " ")
    listing(cups, line, row("2.png"), row("blue/3.jpg"))
    assert read_captions(cups)["1.png"] == [text]


@pytest.mark.parametrize(
    "name",
    ["../1.png", "/etc/1.png", "blue/../../1.png", "~/1.png", "~root/1.png", "C:\\1.png",
     "\\\\host\\share\\1.png", "..\\1.png", "blue\\..\\..\\1.png", ".."],
)  # fmt: skip
def test_names_stay_in_the_folder(cups: Path, name: str) -> None:
    Image.new("RGB", (32, 32)).save(cups.parent / "1.png")
    listing(cups, row("2.png"), row(name))
    with pytest.raises(ValueError, match=r"jsonl, line 2: file_name .* leaves the folder"):
        read_captions(cups)


def test_names_are_understood_in_other_spellings(cups: Path) -> None:
    listing(cups, *ROWS[:1], row("blue\\3.jpg", "a blue cup"), row("blue/../1.png", "a red cup"))
    assert read_captions(cups) == ALL


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a.png"], r"line 1: expected an object with file_name and text \(Expecting value\)"),
        ([[1]], r"line 1: expected an object with file_name and text, .* got \[1\]"),
        ([row("1.png"), {"text": "a cup"}], "line 2: expected .* got only text"),
        ([{"file_name": "1.png", "caption": "a", "tags": "b"}],
         "no 'text', but only file_name, caption, tags; name what .* --caption-column"),
        ([row("1.png", "")], "line 1: file_name and text must be non-empty text"),
        ([row("1.png", ["a", 3])], "line 1: file_name and text must be"),
        ([row("1.png", [])], "line 1: file_name and text must be"),
        ([row("1.png", None)], "line 1: file_name and text must be"),
        (['{"file_name": "1.png", "text": "\\ud800"}'], "line 1: .*half a character"),
        ([], "names no picture"),
    ],
)  # fmt: skip
def test_lines_that_are_wrong(cups: Path, rows: list[Any], message: str) -> None:
    listing(cups, *rows)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_captions(cups)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252"])
def test_another_encoding_names_file_and_line(cups: Path, encoding: str) -> None:
    listing(cups, row("1.png"), row("2.png", "une tasse à thé"), encoding=encoding)
    number = 1 if encoding == "utf-16" else 2
    with pytest.raises(ValueError, match=rf"metadata\.jsonl, line {number}: not UTF-8 .*save the"):
        read_captions(cups)
    (cups / "metadata.jsonl").unlink()
    (cups / "1.txt").write_bytes("tasse à thé".encode("latin-1"))
    with pytest.raises(ValueError, match=r"1\.txt, line 1: not UTF-8"):
        read_captions(cups)


def test_another_column(cups: Path) -> None:
    listing(cups, *(r | {"additional_feature": f"of {r['file_name']}"} for r in ROWS))
    assert read_captions(cups, "additional_feature")["1.png"] == ["of 1.png"]
    with pytest.raises(ValueError, match="no 'title', but only file_name, text, additional_"):
        read_captions(cups, "title")


def test_missing_pictures_and_folders(cups: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="3 pictures, but no metadata.jsonl"):
        read_captions(cups)
    listing(cups, row("blue/3.jpg"), row("no\0name.png"))
    with pytest.raises(FileNotFoundError, match=r"line 2: there is no picture"):
        read_captions(cups)
    listing(cups, row("a" * 5000))
    with pytest.raises(FileNotFoundError, match="line 1: there is no picture"):
        read_captions(cups)
    listing(cups, row("a" * 5000 + "/1.png"))
    with pytest.raises(FileNotFoundError, match="line 1: there is no picture"):
        read_captions(cups)
    (cups / "blue" / "3.jpg").rename(cups / "blue" / "Ta\u0308sse.JPG")
    listing(cups, row("blue/T\u00e4sse.jpg"))
    with pytest.raises(FileNotFoundError, match=r"there is 'Ta\\u0308sse\.JPG', which differs in"):
        read_captions(cups)
    listing(cups, row("cups/1.png"))
    with pytest.raises(FileNotFoundError, match="relative to the folder that .*: write '1.png'"):
        read_captions(cups)
    with pytest.raises(FileNotFoundError, match=r"but .*cups has one: give that folder"):
        read_captions(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"but .*cups has one: give that folder"):
        read_captions(cups / "blue")
    (cups / "metadata.csv").write_text("file_name,text\n")
    with pytest.raises(ValueError, match=r"has metadata\.jsonl and metadata\.csv; keep the one"):
        read_captions(cups)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        read_captions(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="is a file, not a folder"):
        read_captions(cups / "1.png")


def test_prompts_to_try_are_the_commonest_captions_but_the_source_text() -> None:
    captions = {
        "1": ["a photo of a cup", "a red cup"],
        "2": ["A photo of a cup"],
        "3": ["a photo of a cup"],
        "4": ["a red cup", "a cup with a spoon"],
        "5": ["a cup " * 40],
    }
    assert example_prompts(captions, "a photo of a cup") == ["a red cup", "a cup with a spoon"]
    assert example_prompts({"1": ["a cup"]}, " A cup") == []
