"""Splits the wheel of the whole package: `make wheel`.

    python tools/split_wheel.py build/wheel/sdd_fast-….whl dist

The weights of faces64 become a wheel of their own, which that of the code asks for: pip gets both.
A release of the code, for each platform, is then a fifth of the size. The weights have a version of
their own, the last in weights/versions.json.

They are installed as a package, sdd_fast_faces64, and not into the folder in which a checkout has
them: there an upgrade or removal of one distribution would take the files of the other.

The same wheel gives the same bytes, and the same weights give the same wheel of weights.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import sys
import zipfile
from pathlib import Path

WEIGHTS = "sdd_fast/domains/faces64/weights/"
VERSIONS = "versions.json"
PACKAGE = "sdd_fast_faces64"
INIT = '"""The weights of faces64; sdd_fast.load_domain("faces64") finds them here."""\n'
METADATA = """\
Metadata-Version: 2.4
Name: sdd-fast-faces64
Version: {version}
Summary: The weights of faces64, the domain of drawn faces that sdd_fast brings along
License-Expression: Apache-2.0
License-File: LICENSE
Description-Content-Type: text/markdown

"""
WHEEL = """\
Wheel-Version: 1.0
Generator: sdd_fast
Root-Is-Purelib: true
Tag: py3-none-any
"""


def split(whole: Path, folder: Path) -> tuple[Path, Path]:
    """Writes the wheel of the code and that of the weights into `folder`.

    Args:
        whole: the wheel that pip makes from a checkout.

    Raises:
        ValueError: it holds no weights, or others than its version of them says.
    """
    with zipfile.ZipFile(whole) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}
    weights = {n.removeprefix(WEIGHTS): data for n, data in files.items() if n.startswith(WEIGHTS)}
    if not weights:
        raise ValueError(
            f"{whole} holds no {WEIGHTS}: expected the wheel that `pip wheel .` makes from a "
            "checkout, not one that was split already"
        )
    version = checked_version(weights)
    info = next(n for n in files if n.endswith(".dist-info/METADATA")).removesuffix("/METADATA")
    code = {n: data for n, data in files.items() if not n.startswith(WEIGHTS)}
    # Before the first requirement: what follows the header lines is the readme.
    head, mark, rest = code[f"{info}/METADATA"].partition(b"\nRequires-Dist: ")
    code[f"{info}/METADATA"] = head + mark + requirement(version).encode() + mark + rest
    paths = folder / whole.name, folder / f"{PACKAGE}-{version}-py3-none-any.whl"
    packed = weights_wheel(weights, version, files[f"{info}/licenses/LICENSE"])
    write_wheel(paths[0], code, info)
    write_wheel(paths[1], *packed)
    return paths


def requirement(version: str) -> str:
    """What the code asks for. A mapper fits the networks that it was distilled with, and the first
    number of the version is theirs."""
    return f"sdd-fast-faces64=={version.split('.')[0]}.*"


def weights_wheel(
    weights: dict[str, bytes], version: str, license_text: bytes
) -> tuple[dict[str, bytes], str]:
    """Its files, and its .dist-info folder."""
    info = f"{PACKAGE}-{version}.dist-info"
    files = {f"{PACKAGE}/{name}": data for name, data in weights.items()}
    files[f"{PACKAGE}/__init__.py"] = INIT.encode()
    files[f"{info}/METADATA"] = METADATA.format(version=version).encode() + weights["MODEL_CARD.md"]
    files[f"{info}/WHEEL"] = WHEEL.encode()
    files[f"{info}/licenses/LICENSE"] = license_text
    return files, info


def checked_version(weights: dict[str, bytes]) -> str:
    """The version of these weights.

    Raises:
        ValueError: they have changed and have no version yet, or there is no list of versions.
    """
    if VERSIONS not in weights:
        raise ValueError(f"{WEIGHTS}{VERSIONS} is missing: put back that of the last weights")
    versions: dict[str, str] = json.loads(weights[VERSIONS])
    version, digest = list(versions.items())[-1]
    found = digest_of(weights)
    if found != digest:
        networks, rest = map(int, version.split("."))
        raise ValueError(
            f"the weights of faces64 are not those of version {version}. Add to {WEIGHTS}"
            f'{VERSIONS} "{networks}.{rest + 1}": "{found}" where the networks are the same, or '
            f'"{networks + 1}.0": "{found}" where they are not'
        )
    return version


def digest_of(weights: dict[str, bytes]) -> str:
    """SHA-256 over names, sizes and contents of all but versions.json."""
    digest = hashlib.sha256()
    for name, data in sorted(weights.items()):
        if name != VERSIONS:
            digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def write_wheel(path: Path, files: dict[str, bytes], info: str) -> None:
    """Writes a wheel with a new RECORD: sorted, without dates, or not at all."""
    record = f"{info}/RECORD"
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    # What describes the wheel comes last, so that it can be replaced without moving the rest.
    names = sorted((n for n in files if n != record), key=lambda n: (n.startswith(info), n))
    for name in names:
        sha = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).decode().rstrip("=")
        rows.writerow([name, f"sha256={sha}", len(files[name])])
    rows.writerow([record, "", ""])
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name in [*names, record]:
                entry = zipfile.ZipInfo(name)  # of 1980
                entry.external_attr = 0o100644 << 16
                data = table.getvalue().encode() if name == record else files[name]
                archive.writestr(entry, data, zipfile.ZIP_DEFLATED, 9)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python tools/split_wheel.py WHEEL FOLDER")
    try:
        for path in split(Path(sys.argv[1]), Path(sys.argv[2])):
            print(f"    {path}: {path.stat().st_size / 1e6:.2f} MB")
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        sys.exit(f"{error}")
