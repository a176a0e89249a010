"""onnxruntime-web, which runs ONNX files in a browser: fetched once, checked, packed small."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ..files import PathLike, expanded, write_bytes
from ..measured import measured_file

VERSION = "1.30.0"
INTEGRITY = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
"""SHA-512 of the package of this version, as `npm view … dist.integrity` tells it."""

REGISTRY = "https://registry.npmjs.org"

_SCRIPTS = ("ort.wasm.bundle.min.mjs", "ort.webgpu.bundle.min.mjs")
_BINARIES = ("ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.asyncify.wasm")
"""For the processor alone; for the graphics card too. Packed, as browsers unpack them."""

_MOST_BYTES = 2**27  # the package has 33 MB
_SECONDS = 60

NOTICE = f"""ONNX Runtime Web {VERSION}, from the npm package onnxruntime-web.

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def runtime_files(
    source: PathLike | None, registry: str = REGISTRY, say: Callable[[str], None] | None = None
) -> dict[str, bytes]:
    """The files that a page needs, by name; WebAssembly compressed, as `….wasm.gz`.

    Args:
        source: the package as `npm pack onnxruntime-web@1.30.0` writes it, or its folder in
            `node_modules`; None: what an earlier call has left in the user's cache, else the
            package is downloaded from `registry` and compared with its checksum.
        registry: an npm registry, such as a mirror of your own.
        say: told before a download.

    Raises:
        FileNotFoundError: there is no such package. ValueError: it is another one, or damaged.
        ConnectionError: it cannot be downloaded.
    """
    if source is not None and expanded(source).is_dir():
        return _packed(_of_folder(expanded(source)))
    cache = measured_file().parent / f"onnxruntime-web-{VERSION}"
    names = [*_SCRIPTS, *(f"{name}.gz" for name in _BINARIES)]
    if source is None and all((cache / name).is_file() for name in names):
        return {name: (cache / name).read_bytes() for name in names}
    if source is None:
        package = _download(registry, say)
    else:
        path = expanded(source)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such package of onnxruntime-web")
        package = path.read_bytes()
    made = _packed(_of_package(package, str(source or registry)))
    for name, data in made.items():
        write_bytes(cache / name, data)
    return made


def _download(registry: str, say: Callable[[str], None] | None) -> bytes:
    url = f"{registry.rstrip('/')}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"a registry is an address of http or https, got {registry!r}")
    if say is not None:
        say(f"downloading onnxruntime-web {VERSION} (33 MB, once) from {registry}")
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as response:
            data: bytes = response.read(_MOST_BYTES)
    except (urllib.error.URLError, OSError) as error:
        why = getattr(error, "reason", error)
        raise ConnectionError(
            f"{url} cannot be downloaded ({why}). Name another registry (registry=…, "
            "--npm-registry), or get the package where there is a network, by `npm pack "
            f"onnxruntime-web@{VERSION}`, and name the file (runtime=…, --onnxruntime-web)"
        ) from error
    return data


def _of_package(data: bytes, source: str) -> dict[str, bytes]:
    """The files of a .tgz that is, byte for byte, the published one."""
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != INTEGRITY:
        raise ValueError(
            f"what {source} gives is not onnxruntime-web {VERSION}: its SHA-512 is another. It is "
            "damaged or of another version; get it again"
        )
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        found = {}
        for name in (*_SCRIPTS, *_BINARIES):
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None  # the checksum is that of a package that has it
            found[name] = member.read()
    return found


def _of_folder(folder: Path) -> dict[str, bytes]:
    about = folder / "package.json"
    told = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    if (told.get("name"), told.get("version")) != ("onnxruntime-web", VERSION):
        raise ValueError(
            f"{folder} is not onnxruntime-web {VERSION} but {told.get('name')} "
            f"{told.get('version')}: npm install onnxruntime-web@{VERSION} gets it"
        )
    return {name: (folder / "dist" / name).read_bytes() for name in (*_SCRIPTS, *_BINARIES)}


def _packed(found: dict[str, bytes]) -> dict[str, bytes]:
    scripts = {name: found[name] for name in _SCRIPTS}
    return scripts | {f"{name}.gz": gzip.compress(found[name], mtime=0) for name in _BINARIES}
