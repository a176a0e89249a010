"""What an `Editor` has to do with the hub, as models of other libraries have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from ..files import PathLike, expanded
from ..hub.card import LIBRARY, PIPELINE, TAGS
from ..hub.download import Access, local_source
from ..hub.mixins import ModelHubMixin
from ..hub.push import Pushed, PushOptions
from ..manipulator import MapperInfo

if TYPE_CHECKING:
    from ..domains import Domain
    from ..hub.edits import Edits

E = TypeVar("E", bound="HubEditor")


class HubEditor(
    ModelHubMixin,
    library_name=LIBRARY,
    pipeline_tag=PIPELINE,
    license="apache-2.0",
    tags=list(TAGS),
    paper_url="https://arxiv.org/abs/2307.08448",
):
    """Loads and publishes an editor by its name on the hub; see `Editor`."""

    if TYPE_CHECKING:
        generator: Any
        encoder: nn.Module | None
        mappers: list[nn.Module]
        infos: list[MapperInfo]
        image_size: tuple[int, int]
        align: Any

        @classmethod
        def load(cls: type[E], sources: Any, domain: Any, device: Any, **parts: Any) -> E: ...

        def save(self, path: PathLike) -> Path: ...

    @classmethod
    def from_pretrained(
        cls: type[E],
        pretrained_model_name_or_path: PathLike,
        *,
        revision: str | None = None,
        cache_dir: PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        domain: PathLike | Mapping[str, Any] | Domain | None = None,
        device: str | torch.device | None = None,
        **parts: Any,
    ) -> E:
        """Load what `sdd push` or `push_to_hub` published; nothing but safetensors is read.

        Args:
            pretrained_model_name_or_path: "owner/name", or "owner/name@revision"; or a folder of
                `save_pretrained`, and whatever else `load` takes. A path that exists wins.
            revision: a branch, a tag or a commit. cache_dir, token, local_files_only,
                force_download: as huggingface_hub has them; offline its cache is used.
            domain, device, parts: as of `load`. A mapper that was published alone needs its domain.

        Raises:
            FileNotFoundError: there is no such path, and the hub has no such name, refuses it or
                cannot be asked; the message says which.
            ValueError: the repository holds no edit, or as of `load`.
        """
        source: Any = pretrained_model_name_or_path
        access = Access(cache_dir, token, local_files_only, force_download)
        source = local_source(source, access, revision)
        return cls.load(source, domain, device, **parts)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: PathLike,
        *,
        part: str | None = None,
        license: str | None = None,
        runs: PathLike | Sequence[PathLike] = (),
    ) -> Path:
        """Write what `push_to_hub` would publish into a folder, and return that.

        `from_pretrained` and `load` read the folder. Arguments and errors are those of
        `push_to_hub`.
        """
        from ..hub.edits import write_edits

        return write_edits(save_directory, self._edits(part, license, runs))

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        part: str | None = None,
        license: str | None = None,
        runs: PathLike | Sequence[PathLike] = (),
        branch: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        overwrite: bool = False,
    ) -> Pushed:
        """Publish the edit, or all of the editor, on the hub, in one commit.

        Args:
            repo_id: "owner/name".
            part: "mapper": the edit alone, for who has its domain; "editor": generator and encoder
                with all edits. None: a single mapper of a domain that is built in or a preset.
            license: an identifier of the hub, such as "cc-by-4.0"; None: Apache-2.0 in domains that
                are built in, else unknown.
            runs: the run folder of each edit, for the pictures and figures of the model card.
            branch: made if there is none of that name; None: the main one.
            commit_message: None: the prompts.
            private: make a new repository private.
            token: None: that of `hf auth login` or HF_TOKEN.
            overwrite: also over a repository of something else, whose other files stay, over
                another edit, and over a card that somebody has edited.

        Raises:
            ValueError: a wrong name, part or license, a run that is not finished, or a repository
                that holds something else.
            PermissionError: nobody is logged in, or may not write there.
            ConnectionError: the hub cannot be reached, or refuses; nothing is half published.
        """
        from ..hub.edits import push_edits

        options = PushOptions(branch, commit_message, private, token, overwrite)
        return push_edits(repo_id, self._edits(part, license, runs), options)

    def _edits(
        self, part: str | None, license: str | None, runs: PathLike | Sequence[PathLike]
    ) -> Edits:
        from ..hub.edits import Edits, choose_part

        listed = [runs] if isinstance(runs, str) or not isinstance(runs, Sequence) else list(runs)
        if listed and len(listed) != len(self.infos):
            raise ValueError(
                f"runs must be the folder of each of {len(self.infos)} edits, got {len(listed)}"
            )
        return Edits(
            list(zip(self.mappers, self.infos, strict=True)),
            [expanded(run) for run in listed],
            choose_part(part, self.infos),
            license,
            self.save,
            self.image_size,
            self.align is not None,
            self.encoder is not None,
            self.generator,
        )
