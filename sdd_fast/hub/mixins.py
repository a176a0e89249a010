"""The mixins of huggingface_hub; where it is missing, as where kernels run alone, empty ones."""

from __future__ import annotations

from typing import Any

try:
    from huggingface_hub import (
        ModelHubMixin as ModelHubMixin,
        PyTorchModelHubMixin as PyTorchModelHubMixin,
    )
except ModuleNotFoundError:

    class ModelHubMixin:  # type: ignore[no-redef]
        """Takes what the real one is told of a class."""

        def __init_subclass__(cls, **about: Any) -> None:
            super().__init_subclass__()

    class PyTorchModelHubMixin(ModelHubMixin):  # type: ignore[no-redef]
        """Likewise."""
