"""S-space: reading and replacing single style vectors and channels, by name or published index."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def style_names(count: int) -> list[str]:
    """Name the layer that each of a generator's `count` style vectors belongs to, in order.

    >>> style_names(8)
    ['conv1', 'to_rgb1', 'convs.0', 'convs.1', 'to_rgbs.0', 'convs.2', 'convs.3', 'to_rgbs.1']
    """
    names = ["conv1", "to_rgb1"]
    for j in range((count - 2) // 3):
        names += [f"convs.{2 * j}", f"convs.{2 * j + 1}", f"to_rgbs.{j}"]
    return names


def is_to_rgb(index: int) -> bool:
    """Tell whether a style vector feeds a toRGB layer: in the generator's order, 1, 4, 7, ..."""
    return index % 3 == 1


def get_style(styles: Sequence[Tensor], layer: str | int, channel: int | None = None) -> Tensor:
    """Copy one style vector [B, n], or one channel of it [B].

    Args:
        styles: one [B, n] per layer, as `StyleGAN2.style_vectors` gives them.
        layer: a name out of `style_names`, or its place there. The place is the layer index of
            Wu et al. 2021, who count the toRGB layers too: their channel "15_45" of a 1024x1024
            network is `(15, 45)`, or `("convs.9", 45)`. StyleCLIP counts in the same way.
        channel: counted from 0; None for the whole vector.

    Raises:
        ValueError: no such layer or channel.
    """
    vector = styles[_index(styles, layer, channel)]
    return (vector if channel is None else vector[:, channel]).clone()


def set_style(
    styles: Sequence[Tensor],
    layer: str | int,
    value: Tensor | float,
    channel: int | None = None,
) -> list[Tensor]:
    """Replace one vector or channel by `value` in new styles; `styles` stay as they are.

    Args:
        value: a number, or a tensor that broadcasts to what `get_style` gives. Gradients flow to
            it and to `styles`.
        styles, layer, channel: see `get_style`.

    Raises:
        ValueError: no such layer or channel.
    """
    i = _index(styles, layer, channel)
    vector = styles[i].clone()
    vector[:, slice(None) if channel is None else channel] = value
    return [*styles[:i], vector, *styles[i + 1 :]]


def _index(styles: Sequence[Tensor], layer: str | int, channel: int | None) -> int:
    names = style_names(len(styles))
    i = names.index(layer) if layer in names else layer
    if not isinstance(i, int) or not 0 <= i < len(names):
        raise ValueError(
            f"layer must be one of {', '.join(names)} or a number below {len(names)}, got {layer!r}"
        )
    channels = styles[i].shape[1]
    if channel is not None and not 0 <= channel < channels:
        raise ValueError(f"{names[i]} has style channels 0 to {channels - 1}, got {channel}")
    return i
