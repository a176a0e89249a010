"""Splits the wheel of the whole package: `make wheel`.

    python tools/split_wheel.py build/wheel/sdd_fast-….whl dist

The weights of each embedded domain become a wheel of their own. That of the code asks for those of
faces64: pip gets both; for those of others by an extra, as in pip install sdd_fast[fashion32]. A
release of the code, for each platform, is then a fifth of the size. The weights have a version of
their own, the last in weights/versions.json.

They are installed as a package, such as sdd_fast_faces64, and not into the folder in which a
checkout has them: there an upgrade or removal of one distribution would take the files of the
other.

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

SUMMARIES = {
    "faces64": "The weights of faces64, the domain of drawn faces that sdd_fast brings along",
    "fashion32": "The weights of fashion32, a domain of photographs of clothing for sdd_fast",
}
"""Embedded domain → what its wheel says of it. The code cannot do without the first."""
VERSIONS = "versions.json"
INIT = '"""The weights of {name}; sdd_fast.load_domain("{name}") finds them here."""\n'
METADATA = """\
Metadata-Version: 2.4
Name: sdd-fast-{name}
Version: {version}
Summary: {summary}
License-Expression: {license}
License-File: {files}
Description-Content-Type: text/markdown

"""
WHEEL = """\
Wheel-Version: 1.0
Generator: sdd_fast
Root-Is-Purelib: true
Tag: py3-none-any
"""


def split(whole: Path, folder: Path) -> list[Path]:
    """Writes the wheel of the code and those of the weights into `folder`.

    Args:
        whole: the wheel that pip makes from a checkout.

    Raises:
        ValueError: it holds no weights of faces64, or others than their versions say.
    """
    with zipfile.ZipFile(whole) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}
    found = {name: weights_in(files, name) for name in SUMMARIES}
    needed = next(iter(SUMMARIES))
    if not found[needed]:
        raise ValueError(
            f"{whole} holds no {folder_of(needed)}: expected the wheel that `pip wheel .` makes "
            "from a checkout, not one that was split already"
        )
    versions = {name: checked_version(name, some) for name, some in found.items() if some}
    info = next(n for n in files if n.endswith(".dist-info/METADATA")).removesuffix("/METADATA")
    apart = tuple(map(folder_of, SUMMARIES))
    code = {n: data for n, data in files.items() if not n.startswith(apart)}
    # Before the first requirement: what follows the header lines is the readme.
    head, mark, rest = code[f"{info}/METADATA"].partition(b"\nRequires-Dist: ")
    asked = [requirement(name, version, name != needed) for name, version in versions.items()]
    code[f"{info}/METADATA"] = head + "".join(asked).encode() + mark + rest
    packed = [
        weights_wheel(name, found[name], version, files[f"{info}/licenses/LICENSE"])
        for name, version in versions.items()
    ]
    paths = [folder / whole.name]
    write_wheel(paths[0], code, info)
    for content, its_info in packed:
        paths.append(folder / f"{its_info.removesuffix('.dist-info')}-py3-none-any.whl")
        write_wheel(paths[-1], content, its_info)
    return paths


def folder_of(name: str) -> str:
    return f"sdd_fast/domains/{name}/weights/"


def weights_in(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    folder = folder_of(name)
    return {n.removeprefix(folder): data for n, data in files.items() if n.startswith(folder)}


def requirement(name: str, version: str, extra: bool) -> str:
    """The header lines by which the code asks for weights. A mapper fits the networks that it was
    distilled with, and the first number of the version is theirs."""
    asked = f"\nRequires-Dist: sdd-fast-{name}=={version.split('.')[0]}.*"
    return f'\nProvides-Extra: {name}{asked}; extra == "{name}"' if extra else asked


def weights_wheel(
    name: str, weights: dict[str, bytes], version: str, license_text: bytes
) -> tuple[dict[str, bytes], str]:
    """Its files, and its .dist-info folder. Licences of data among the weights go with it."""
    package = f"sdd_fast_{name}"
    info = f"{package}-{version}.dist-info"
    of_data = {n: data for n, data in weights.items() if n.startswith("LICENSE")}
    licenses = {"LICENSE": license_text} | of_data
    metadata = METADATA.format(
        name=name,
        version=version,
        summary=SUMMARIES[name],
        license="Apache-2.0 AND MIT" if of_data else "Apache-2.0",
        files="\nLicense-File: ".join(licenses),
    )
    files = {f"{package}/{n}": data for n, data in weights.items()}
    files[f"{package}/__init__.py"] = INIT.format(name=name).encode()
    files[f"{info}/METADATA"] = metadata.encode() + weights["MODEL_CARD.md"]
    files[f"{info}/WHEEL"] = WHEEL.encode()
    files |= {f"{info}/licenses/{n}": data for n, data in licenses.items()}
    return files, info


def checked_version(name: str, weights: dict[str, bytes]) -> str:
    """The version of these weights.

    Raises:
        ValueError: they have changed and have no version yet, or there is no list of versions.
    """
    if VERSIONS not in weights:
        raise ValueError(
            f"{folder_of(name)}{VERSIONS} is missing: put back that of the last weights"
        )
    versions: dict[str, str] = json.loads(weights[VERSIONS])
    version, digest = list(versions.items())[-1]
    found = digest_of(weights)
    if found != digest:
        networks, rest = map(int, version.split("."))
        raise ValueError(
            f"the weights of {name} are not those of version {version}. Add to {folder_of(name)}"
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
