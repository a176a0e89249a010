"""What is known of a photograph of clothing: its kind, which is labeled, and how bright it is."""

from __future__ import annotations

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": (
        "t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
        "boot",
    ),
    "brightness": ("dark", "medium", "light"),
}  # fmt: skip
"""The kinds are in the order of Fashion-MNIST's labels 0 … 9."""

HEADS: dict[str, int] = {name: len(values) for name, values in ATTRIBUTES.items()}

DARK_BELOW, LIGHT_ABOVE = 80.0, 130.0
"""Mean brightness of a garment's pixels, 0 … 255. About a third of all photographs lie between."""
