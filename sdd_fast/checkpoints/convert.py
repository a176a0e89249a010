"""Any checkpoint file → our safetensors file of one of the things in it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ..files import PathLike, expanded, safetensors_path, save_tensors
from ..manipulator import save_mapper
from ..outputs import check_free
from .formats.read import read_checkpoint
from .inspect import KINDS, contents, summarize
from .latents import KIND
from .load import load_encoder, load_generator, load_identity, load_latents, load_mapper

PARTS = ("generator", "encoder", "identity", "mapper", "latents")
ENCODERS = ("e4e", "psp")


def convert(
    source: PathLike,
    target: PathLike,
    part: str | None = None,
    *,
    content_rows: tuple[int, int] | None = None,
    overwrite: bool = False,
    generator: PathLike | None = None,
) -> str:
    """Write what a foreign file holds as our safetensors file, atomically.

    The network or latents are exactly those that the `load_` function of their kind returns, in
    float32. The metadata tell, besides what every file of ours tells, the "source": name, format
    and SHA-256 of the input, and the version of this package.

    Args:
        source: a file that `load_generator`, `load_encoder`, `load_identity`, `load_mapper` or
            `load_latents` reads.
        target: the file to write, *.safetensors.
        part: which of `PARTS`, where the file holds several; None: the only one. "e4e" or "psp" is
            an encoder of a file that does not tell which of them it holds.
        content_rows: of a generator, the rows that show something, see `load_generator`: the file
            written tells them from then on.
        overwrite: replace `target` if it exists.
        generator: of an encoder whose file lost it, the file of the generator whose average latent
            it starts from, see `load_encoder`.

    Returns:
        The part that was written.

    Raises:
        FileNotFoundError: there is no such file.
        FileExistsError: `target` exists, and not `overwrite`.
        ValueError: the file holds nothing that can be converted, several parts or not that one;
            what its loader finds wrong with it; `content_rows` of anything but a generator,
            `generator` of anything but an encoder; or `target` is `source`, or no .safetensors
            file.
    """
    path, out = expanded(source), safetensors_path(target)
    if part is not None and part not in (*PARTS, *ENCODERS):
        raise ValueError(f"there is no part {part!r}; parts are {', '.join((*PARTS, *ENCODERS))}")
    kind, part = (part, "encoder") if part in ENCODERS else (None, part)
    if out.exists() and path.exists() and out.samefile(path):
        raise ValueError(f"{out} is the input, which is never overwritten; give another name")
    check_free([out], overwrite)
    checkpoint = read_checkpoint(path)
    present = [kind for kind in contents(checkpoint) if kind in PARTS]
    if part is None and len(present) > 1:
        names = " and ".join(KINDS[kind] for kind in present)
        raise ValueError(f"{path} holds {names}: say which part, {' or '.join(present)}")
    if not present or (part is not None and part not in present):
        expected = KINDS[part] if part else f"one of {', '.join(PARTS)}"
        raise ValueError(f"{path} is {summarize(checkpoint)}; expected {expected}")
    chosen = part or present[0]
    if content_rows is not None and chosen != "generator":
        raise ValueError(f"content_rows are those of a generator, but this is {KINDS[chosen]}")
    if generator is not None and chosen != "encoder":
        raise ValueError(f"generator is that of an encoder, but this is {KINDS[chosen]}")
    metadata = {"source": json.dumps(_source(path, checkpoint.format))}
    if chosen == "mapper":
        mapper, info = load_mapper(path)
        save_mapper(out, mapper, info, metadata)
    elif chosen == "latents":
        save_tensors(out, {"w_plus": load_latents(path)}, {"kind": KIND, **metadata})
    elif chosen == "generator":
        load_generator(path, content_rows=content_rows).save(out, metadata=metadata)
    elif chosen == "encoder":
        average = None if generator is None else load_generator(generator).latent_avg
        load_encoder(path, kind=kind, latent_avg=average).save(out, metadata=metadata)
    else:
        load_identity(path).save(out, metadata=metadata)
    return chosen


def _source(path: Path, file_format: str) -> dict[str, str]:
    from .. import __version__

    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return {
        "file": path.name, "format": file_format, "sha256": digest.hexdigest(),
        "sdd_fast": __version__,
    }  # fmt: skip
