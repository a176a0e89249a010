"""The page's server: what its handlers answer to gradio's client, and what it refuses to others."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdd_fast.app import launch
from sdd_fast.app.edit_tab import ALL_EDITS, LEVELS
from sdd_fast.app.launch import check_port, serving
from sdd_fast.app.other_tabs import timesteps_of
from sdd_fast.app.studio import MOST_EDITS
from sdd_fast.editing.editor import Editor
from sdd_fast.images import load_image

pytest.importorskip("gradio", reason="pip install 'sdd_fast[app]'")
httpx = pytest.importorskip("httpx")

ALL = list(LEVELS)[:2]  # those that the edits have


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def address(home: Any) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "MAX_UPLOAD", 1_000_000)
        with serving(home.studio(), port=free_port()) as there:
            yield there
            files = Path(os.environ["GRADIO_TEMP_DIR"])
            assert any(files.rglob("*.png"))
    assert not files.parent.exists()  # what visitors sent is gone with the server


@pytest.fixture
def client(address: str) -> Any:
    return new_client(address)


def new_client(address: str) -> Any:
    from gradio_client import Client

    return Client(address, verbose=False, analytics_enabled=False)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for i, path in enumerate(paths):
        values = np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(values).resize((80, 60)).save(path)
    return paths


def strengths(*given: float) -> list[float]:
    return [*given, *[0.0] * (MOST_EDITS - len(given))]


def choose(client: Any, path: Path) -> None:
    from gradio_client import handle_file

    client.predict(handle_file(path), False, api_name="/choose")


def edited(client: Any, *given: float) -> np.ndarray:
    (before, after), told = client.predict(ALL, *strengths(*given), api_name="/edit")
    assert "ms" in told and Path(before).exists()
    return np.asarray(Image.open(after).convert("RGB"))


def wanted(home: Any, path: Path, *given: float) -> np.ndarray:
    editor = Editor.load(home.given, home.domain)
    images: np.ndarray = editor.edit(load_image(path)[None], list(given), output="numpy")
    return images[0]


def test_a_client_edits_as_the_python_editor(
    client: Any, home: Any, photos: list[Path], tmp_path: Path
) -> None:
    choose(client, photos[0])
    assert np.array_equal(edited(client, 0.5, -1.0), wanted(home, photos[0], 0.5, -1.0))
    path = client.predict(True, ALL, *strengths(0.5, -1.0), api_name="/download")
    assert Path(path).name == "a-edited.png" and Image.open(path).size == (80, 60)
    film = client.predict(ALL_EDITS, ALL, *strengths(1.0), api_name="/animate")
    assert Image.open(film).n_frames > 40  # type: ignore[attr-defined]


def test_two_tabs_do_not_mix(address: str, home: Any, photos: list[Path]) -> None:
    first, second = new_client(address), new_client(address)
    choose(first, photos[0])
    choose(second, photos[1])
    first.predict(api_name="/runs")
    first.predict("beard", api_name="/add")
    assert np.array_equal(edited(first, 1.0, 0.0), wanted(home, photos[0], 1.0, 0.0))
    assert np.array_equal(edited(second, 1.0, 0.0), wanted(home, photos[1], 1.0, 0.0))
    assert not np.array_equal(edited(first, 1.0, 0.0, 1.0), wanted(home, photos[0], 1.0, 0.0))
    with pytest.raises(Exception, match="other edits than the 2 that are open"):
        edited(second, 1.0, 0.0, 1.0)


def test_wrong_files_are_refused_and_the_page_goes_on(
    client: Any, home: Any, photos: list[Path], tmp_path: Path
) -> None:
    choose(client, photos[0])
    (tmp_path / "notes.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(photos[0].read_bytes()[:300])
    Image.new("1", (20000, 10000)).save(tmp_path / "large.png")
    for name, told in (
        ("notes.png", "notes.png is not an image"),
        ("half.png", "half.png is a truncated or corrupt image"),
        ("large.png", "200 million pixels, at most 128 million are decoded"),
    ):
        with pytest.raises(Exception, match=told):
            choose(client, tmp_path / name)
    with pytest.raises(Exception, match="another domain: cats"):
        client.predict(api_name="/runs")
        client.predict("cat", api_name="/add")
    assert np.array_equal(edited(client, 1.0, 0.0), wanted(home, photos[0], 1.0, 0.0))


def test_uploads_are_limited_and_may_break_off(
    address: str, client: Any, home: Any, photos: list[Path]
) -> None:
    upload = f"{address}gradio_api/upload"
    large = httpx.post(upload, files={"files": ("a.png", b"0" * 1_200_000)})
    assert large.status_code == 413
    port = int(address.rstrip("/").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as half:
        head = (
            "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            'Content-Disposition: form-data; name="files"; filename="half.png"\r\n\r\n'
        )
        half.sendall(head.encode() + b"0" * 1000)
    choose(client, photos[0])
    assert np.array_equal(edited(client, 1.0, 0.0), wanted(home, photos[0], 1.0, 0.0))


def called(address: str, name: str, data: list[Any]) -> str:
    """What an endpoint answers, whatever is sent; as no client of gradio's would."""
    asked = httpx.post(f"{address}gradio_api/call/{name}", json={"data": data})
    if asked.status_code != 200:
        return str(asked.text)
    event = asked.json()["event_id"]
    return str(httpx.get(f"{address}gradio_api/call/{name}/{event}", timeout=60).text)


def test_no_file_outside_its_folders_is_read(address: str, home: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (32, 32), "red").save(secret)
    mapper = home.folder / "hair/mapper.safetensors"
    here = Path(launch.__file__)
    files = os.environ["GRADIO_TEMP_DIR"]
    for path in (
        "/etc/passwd", secret, mapper, here, "pyproject.toml", f"{files}/../../../etc/passwd",
        f"{files}/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc/passwd", "file:///etc/passwd",
    ):  # fmt: skip
        for route in ("file=", "file/"):
            answer = httpx.get(f"{address}gradio_api/{route}{path}")
            assert answer.status_code in (400, 403, 404), (path, answer.status_code)
    for path in (secret, "/etc/passwd", f"{files}/../../..{secret}"):
        sent = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        assert "event: error" in called(address, "choose", [sent, False])
    for name in ("../../etc", "/etc/passwd", str(home.folder / "hair")):
        assert "event: error" in called(address, "report", [name])
        assert "event: error" in called(address, "add", [name])


def test_what_is_sent_is_read(address: str, photos: list[Path]) -> None:
    """So that the refusals above are not for another reason."""
    upload = httpx.post(
        f"{address}gradio_api/upload", files={"files": ("a.png", photos[0].read_bytes())}
    )
    sent = {"path": upload.json()[0], "meta": {"_type": "gradio.FileData"}}
    assert "event: complete" in called(address, "choose", [sent, False])
    read = httpx.get(f"{address}gradio_api/file={upload.json()[0]}")
    assert read.content == photos[0].read_bytes()


def test_the_server_fetches_nothing_for_visitors(address: str) -> None:
    for path in ("file=http://127.0.0.1:9/a.png", "file=https://example.org/a.png",
                 "file/https:/example.org/a.png", "proxy=https://example.org/a.png"):  # fmt: skip
        answer = httpx.get(f"{address}gradio_api/{path}")
        assert answer.status_code == 403 and answer.text == "not served here"


def test_the_page_names_no_other_host(address: str) -> None:
    answer = httpx.get(address)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy
    asked = re.findall(r"(?:src|href)=[\"']?([^\"'\s>]+)|url\(([^)]+)\)", answer.text)
    for link in (first or second for first, second in asked):
        assert not re.match(r"['\"]?(?:https?:)?//", link), link
    theme = httpx.get(f"{address}theme.css").text
    assert "url(http" not in theme and "@import" not in theme and "system-ui" in theme
    config = httpx.get(f"{address}config").json()
    assert config["analytics_enabled"] is False
    assert "monitoring" not in httpx.get(f"{address}monitoring/summary").text[:20]


def test_it_listens_to_this_machine_alone(address: str) -> None:
    port = int(address.rstrip("/").rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))  # sends nothing; tells this machine's address
            outside = probe.getsockname()[0]
        except OSError:
            pytest.skip("this machine has no network")
    if outside.startswith("127."):
        pytest.skip("this machine has no network")
    with pytest.raises(OSError):
        socket.create_connection((outside, port), timeout=2).close()


def test_a_port_in_use_is_told(address: str) -> None:
    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 is in use.*--port {port + 1}"):
        check_port("127.0.0.1", port)
    with pytest.raises(ValueError, match="--host 192.0.2.1 is no address of this machine"):
        check_port("192.0.2.1", port)
    with pytest.raises(ValueError, match="--host no.such.host.invalid is no address"):
        check_port("no.such.host.invalid", port)


def test_a_report_is_shown_without_the_rights_of_the_page(client: Any) -> None:
    client.predict(None, api_name="/reports")
    shown = client.predict("hair", api_name="/report")
    assert shown.startswith('<iframe class="report" sandbox title="Report of hair"')
    assert "<script>" not in shown and "&lt;script&gt;" in shown


def test_timesteps_are_typed_as_numbers() -> None:
    assert timesteps_of("700, 750") == (700, 750) and timesteps_of("  ") == timesteps_of(None) == ()
    for text in ("7.5", "many", "-3", "700;800", "١٢"):
        with pytest.raises(ValueError, match="whole numbers"):
            timesteps_of(text)


def test_a_tab_whose_session_is_lost_is_told(address: str) -> None:
    lost = new_client(address)  # as after a server that was started anew
    _, told = lost.predict(ALL, *strengths(1.0, 0.0), api_name="/edit")
    assert "Choose a picture" in told
    with pytest.raises(Exception, match="choose a picture first"):
        lost.predict(False, ALL, *strengths(1.0, 0.0), api_name="/download")
