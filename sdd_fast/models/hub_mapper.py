"""What a mapper has to do with the hub, as models of other libraries have it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from torch import nn

from ..files import PathLike, expanded
from ..hub.card import LIBRARY, PIPELINE, TAGS, Card, CardEdit, check_license, default_license
from ..hub.contents import EDITOR_FILE, MAPPER_FILE
from ..hub.download import Access, local_source
from ..hub.folder import write_folder
from ..hub.mixins import PyTorchModelHubMixin
from ..hub.names import check_name
from ..hub.push import Pushed, PushOptions, push_folder
from .save import SaveLoadMixin

H = TypeVar("H", bound="HubMapper")


class HubMapper(
    SaveLoadMixin,
    PyTorchModelHubMixin,
    library_name=LIBRARY,
    pipeline_tag=PIPELINE,
    license="apache-2.0",
    tags=list(TAGS),
    paper_url="https://arxiv.org/abs/2307.08448",
):
    """Loads and publishes a mapper in our own format, mapper.safetensors, by its name on the hub.

    `info` is the `MapperInfo` of the edit: what the file says of it for `load_mapper`.
    """

    # torch.jit.script goes by the first class with annotations and cannot read those of
    # ModelHubMixin. So it finds one of nn.Module here; as a type, as it cannot read names either.
    __annotations__ = {"training": bool}

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[H],
        pretrained_model_name_or_path: PathLike,
        *,
        revision: str | None = None,
        cache_dir: PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> H:
        """Load a mapper by its name on the hub, or from a folder of `save_pretrained` or its file.

        What it is for, such as its λ, is told by `load_mapper` of the same name.

        Args:
            pretrained_model_name_or_path: "owner/name", "owner/name@revision", or a path, which
                wins if it exists. The others are as huggingface_hub has them.

        Returns:
            The network on the CPU, float32, in eval mode and frozen.

        Raises:
            FileNotFoundError: there is no such path, and the hub has no such name, refuses it or
                cannot be asked; the message says which.
            ValueError: the repository or file holds no mapper of this class.
        """
        source: Any = pretrained_model_name_or_path
        access = Access(cache_dir, token, local_files_only, force_download)
        path = local_source(source, access, revision)
        if path.is_dir():
            whole = (path / EDITOR_FILE).exists() and not (path / MAPPER_FILE).exists()
            path = path / (EDITOR_FILE if whole else MAPPER_FILE)
        loaded = cls.load(path)
        assert isinstance(loaded, nn.Module)
        loaded.eval().requires_grad_(False)
        return loaded

    def save_pretrained(  # type: ignore[override]
        self, save_directory: PathLike, *, info: Any = None, license: str | None = None
    ) -> Path:
        """Write what `push_to_hub` would publish into a folder, and return that."""
        return self._write(expanded(save_directory), "OWNER/NAME", info, license)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        info: Any = None,
        license: str | None = None,
        branch: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        overwrite: bool = False,
    ) -> Pushed:
        """Publish the mapper on the hub, in one commit; see `Editor.push_to_hub`.

        `sdd push RUN` also publishes the pictures and figures of its run.
        """
        check_name(repo_id)
        options = PushOptions(branch, commit_message, private, token, overwrite)
        told = getattr(info, "prompt", "") or "a mapper"
        with TemporaryDirectory(prefix="sdd-push-") as place:
            folder = self._write(Path(place) / "repository", repo_id, info, license)
            return push_folder(folder, repo_id, options, f"Push “{told}”"[:200])

    def _write(self, folder: Path, name: str, info: Any, license: str | None) -> Path:
        assert isinstance(self, nn.Module)
        told: dict[str, Any] = asdict(info) if info is not None else {}
        count = sum(parameter.numel() for parameter in self.parameters())
        unknown = {"prompt": "", "lam": 1.0, "levels": [], "timesteps": [], "domain": ""}
        shown: dict[str, Any] = unknown | told
        edit = CardEdit(shown, f"{type(self).__name__}, {count:,} parameters")
        known = default_license([shown["domain"]])
        card = Card(name, "mapper", [edit], check_license(license) if license else known)
        metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in told.items()}
        return write_folder(folder, card, lambda path: self.save(path, metadata=metadata))
