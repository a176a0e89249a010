"""StyleGAN2 generator (Karras et al. 2020): mapping network and synthesis with skip connections.

Layer order, for W+ and for S-space alike::

    W+ index      0      1        1      2      3        3      4      5    ...
    layer         conv1  to_rgb1  convs.0 convs.1 to_rgbs.0 convs.2 convs.3 to_rgbs.1 ...
    resolution    4      4        8      8      8        16     16     16   ...

Parameter names follow the widespread PyTorch naming (`convs.3.conv.modulation.weight`), so that
converted checkpoints load without a table. Filters are constants of the configuration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import upfirdn2d
from .save import SaveLoadMixin
from .style_space import get_style, set_style, style_names
from .stylegan2_layers import ConstantInput, MappingNetwork, StyledConv, ToRGB

NOISE_MODES = ("const", "random", "none")


class StyleGAN2(SaveLoadMixin, nn.Module):
    """Generator from latents z, w, W+ or styles to images.

    Args:
        resolution: side of the (square) images, a power of two, at least 8.
        w_dim, z_dim: dimensions of w and z.
        n_mlp: layers of the mapping network.
        channel_base, channel_max: a layer at `res` has `min(channel_base // res, channel_max)`
            channels. The published "config f" is the default; half of 32768 gives the small one.
        c_dim: length of the labels of a conditional network, 0 for none.
        lr_multiplier: learning rate multiplier that the mapping network was trained with.
        conv_clamp: limit of the output of every convolution, after its activation, and of every
            toRGB; None for no limit. Networks trained with float16 layers have 256.
        num_fp16_res: this many of the highest resolutions (never 4x4) are computed in float16, as
            the attribute `fp16` decides.
        resample_filter: taps of the upsampling filter, an even number; any scale.
        content_rows: (first, last + 1), the rows that hold content where the training images were
            padded to a square; images are these rows only. None for all.

    Attributes:
        fp16: whether the `num_fp16_res` resolutions are computed in float16 although the network
            is float32: None where it is on a GPU, True or False always or never. Not saved.
            Training and refinement do without, see `manipulator.float32_layers`.
        layers_dtype: what all layers of a float32 network compute in, whatever `fp16` says; styles
            and images stay float32. None: as `fp16` says. Not saved.
        config: the arguments above.

    Raises:
        ValueError: an impossible size, clamp, filter or range of rows.
    """

    latent_avg: Tensor  # [w_dim], mean of w over z, for truncation; zeros until it is set
    resample_filter: Tensor  # [t], sums to 1

    def __init__(
        self,
        resolution: int,
        w_dim: int = 512,
        z_dim: int = 512,
        n_mlp: int = 8,
        channel_base: int = 32768,
        channel_max: int = 512,
        *,
        c_dim: int = 0,
        lr_multiplier: float = 0.01,
        conv_clamp: float | None = None,
        num_fp16_res: int = 0,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        content_rows: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.config = {
            "resolution": resolution, "w_dim": w_dim, "z_dim": z_dim, "n_mlp": n_mlp,
            "channel_base": channel_base, "channel_max": channel_max, "c_dim": c_dim,
            "lr_multiplier": lr_multiplier, "conv_clamp": conv_clamp, "num_fp16_res": num_fp16_res,
            "resample_filter": list(resample_filter),
            "content_rows": None if content_rows is None else list(content_rows),
        }  # fmt: skip
        _check(self.config)
        self.resolution, self.w_dim, self.z_dim, self.c_dim = resolution, w_dim, z_dim, c_dim
        self.content_rows = None if content_rows is None else tuple(content_rows)
        self.fp16: bool | None = None
        self.layers_dtype: torch.dtype | None = None
        self.num_layers = 2 * int(math.log2(resolution)) - 2
        resolutions = [2**k for k in range(3, int(math.log2(resolution)) + 1)]  # 8, 16, ...
        width = {res: min(channel_base // res, channel_max) for res in [4, *resolutions]}

        self.style = MappingNetwork(z_dim, w_dim, n_mlp, lr_multiplier, c_dim)
        self.input = ConstantInput(width[4])
        self.conv1 = StyledConv(width[4], width[4], w_dim, clamp=conv_clamp)
        self.to_rgb1 = ToRGB(width[4], w_dim, conv_clamp)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for res in resolutions:
            self.convs.append(StyledConv(width[res // 2], width[res], w_dim, 2, conv_clamp))
            self.convs.append(StyledConv(width[res], width[res], w_dim, 1, conv_clamp))
            self.to_rgbs.append(ToRGB(width[res], w_dim, conv_clamp))
        self.noises = nn.Module()
        for k in range(self.num_layers - 1):
            side = 2 ** ((k + 5) // 2)  # 4, 8, 8, 16, 16, ...
            self.noises.register_buffer(f"noise_{k}", torch.randn(1, 1, side, side))
        self.register_buffer("latent_avg", torch.zeros(w_dim))
        taps = torch.tensor(resample_filter, dtype=torch.float64)
        self.register_buffer("resample_filter", (taps / taps.sum()).float(), persistent=False)

        # (layer, index into W+) in the order of the styles; see the module's docstring.
        self._plan: list[tuple[StyledConv | ToRGB, int]] = [(self.conv1, 0), (self.to_rgb1, 1)]
        for j, rgb in enumerate(self.to_rgbs):
            self._plan.append((self.convs[2 * j], 2 * j + 1))  # type: ignore[arg-type]
            self._plan.append((self.convs[2 * j + 1], 2 * j + 2))  # type: ignore[arg-type]
            self._plan.append((rgb, 2 * j + 3))  # type: ignore[arg-type]
        self._first_half = len(self._plan) - 3 * num_fp16_res

    @property
    def image_size(self) -> tuple[int, int]:
        """Give height and width of the images: square, but for `content_rows`."""
        top, bottom = self.content_rows or (0, self.resolution)
        return bottom - top, self.resolution

    # -- z to w to W+ ------------------------------------------------------------------------------

    def mapping(
        self, z: Tensor, truncation_psi: float = 1.0, labels: Tensor | None = None
    ) -> Tensor:
        """Map z [B, z_dim], standard normal, to w [B, w_dim], pulled to `latent_avg` if psi < 1.

        `labels` [B, c_dim], usually one-hot classes, belong to a conditional network. To truncate
        only some layers use `broadcast` and `truncate`.

        Raises:
            ValueError: a wrong shape, or labels that are missing or out of place.
        """
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"StyleGAN2: z must be [B, {self.z_dim}], got {list(z.shape)}")
        w: Tensor = self.style(z, labels)
        return w if truncation_psi == 1.0 else self.latent_avg.lerp(w, truncation_psi)

    def broadcast(self, w: Tensor) -> Tensor:
        """Expand w [B, w_dim] to W+ [B, num_layers, w_dim], one w for every layer (no copy)."""
        if w.ndim != 2 or w.shape[1] != self.w_dim:
            raise ValueError(f"StyleGAN2: w must be [B, {self.w_dim}], got {list(w.shape)}")
        return w[:, None].expand(-1, self.num_layers, -1)

    def truncate(self, w_plus: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """Pull the first `cutoff` layers of W+ (None: all) to `latent_avg` by the factor psi."""
        self._check_w_plus(w_plus)
        cutoff = self.num_layers if cutoff is None else cutoff
        if not 0 <= cutoff <= self.num_layers:
            raise ValueError(
                f"StyleGAN2: the truncation cutoff must lie in [0, {self.num_layers}], got {cutoff}"
            )
        return torch.cat([self.latent_avg.lerp(w_plus[:, :cutoff], psi), w_plus[:, cutoff:]], 1)

    @torch.no_grad()
    def update_latent_avg(self, rng: torch.Generator, samples: int = 10_000) -> None:
        """Set `latent_avg` to the mean of w over `samples` random z drawn from `rng` (CPU).

        A conditional network is given every class equally often, on average.
        """
        total = torch.zeros_like(self.latent_avg)
        for start in range(0, samples, 1000):
            total += self.random_w(min(1000, samples - start), rng).sum(0)
        self.latent_avg.copy_(total / samples)

    @torch.no_grad()
    def random_w(self, count: int, rng: torch.Generator, truncation_psi: float = 1.0) -> Tensor:
        """Draw w [count, w_dim], of random z and classes where there are any, from `rng` (CPU)."""
        z = torch.randn(count, self.z_dim, generator=rng).to(self.latent_avg)
        labels = None
        if self.c_dim:
            classes = torch.randint(self.c_dim, (count,), generator=rng)
            labels = F.one_hot(classes, self.c_dim).to(z)
        return self.mapping(z, truncation_psi, labels)

    # -- W+ to styles to images --------------------------------------------------------------------

    @property
    def style_names(self) -> list[str]:
        """Name the layer of each style vector: conv1, to_rgb1, convs.0, convs.1, to_rgbs.0…

        See `get_style` for how the published (layer, channel) indices map.
        """
        return style_names(len(self._plan))

    @property
    def style_dims(self) -> list[int]:
        """List the lengths of style vectors: 2 at 4x4 (convolution, toRGB), 3 per resolution."""
        return [layer.conv.modulation.weight.shape[0] for layer, _ in self._plan]

    get_style = staticmethod(get_style)
    set_style = staticmethod(set_style)

    def style_vectors(self, w_plus: Tensor) -> list[Tensor]:
        """Map W+ [B, num_layers, w_dim] to S-space: one [B, style_dims[i]] per layer, toRGB too.

        Source: Wu et al. 2021, "StyleSpace Analysis".
        """
        self._check_w_plus(w_plus)
        return [layer.conv.modulation(w_plus[:, index]) for layer, index in self._plan]

    def synthesis(
        self, w_plus: Tensor, noise_mode: str = "const", rng: torch.Generator | None = None
    ) -> Tensor:
        """Render images [B, 3, *image_size] of W+; about [-1, 1], not clamped.

        Args:
            w_plus: [B, num_layers, w_dim].
            noise_mode: "const" adds the stored noise maps (the same image every time), "random"
                draws new ones, "none" adds none.
            rng: where "random" noise comes from, on the device of `w_plus`; None for torch's own.
        """
        return self.synthesis_from_styles(self.style_vectors(w_plus), noise_mode, rng)

    def synthesis_from_styles(
        self,
        styles: Sequence[Tensor],
        noise_mode: str = "const",
        rng: torch.Generator | None = None,
        resolution: int | None = None,
    ) -> Tensor:
        """Render the style vectors that `style_vectors` gives; arguments as for `synthesis`.

        `resolution` stops at the image of a lower one, which the later layers would refine; None:
        the generator's.
        """
        if noise_mode not in NOISE_MODES:
            raise ValueError(
                f"StyleGAN2: noise_mode must be one of {', '.join(NOISE_MODES)}, got {noise_mode!r}"
            )
        dims, given = self.style_dims, [list(style.shape) for style in styles]
        if len(given) != len(dims) or given != [[styles[0].shape[0], dim] for dim in dims]:
            raise ValueError(
                f"StyleGAN2: needs {len(dims)} styles [B, n] with n = {dims}, got shapes {given}"
            )
        last = self._last_layer(resolution)
        x = self.input(styles[0].shape[0])
        whole = x.dtype
        low, dtype = self._low_layers(x)
        image: Tensor | None = None
        k = 0  # index of the noise map: one per styled convolution
        for i, ((layer, _), style) in enumerate(zip(self._plan, styles, strict=True)):
            if i == low:
                x = x.to(dtype)
            if isinstance(layer, StyledConv):
                noise = self._noise(k, noise_mode, x, layer.up, rng)
                x = layer(x, style, noise, self.resample_filter)
                k += 1
            else:
                rgb = layer(x, style)
                rgb = rgb if i < low else rgb.to(whole)
                image = rgb if image is None else rgb + self._upsample(image)
            if i == last:
                break
        assert image is not None
        if self.content_rows is not None:
            rows = (row * image.shape[3] // self.resolution for row in self.content_rows)
            image = image[:, :, slice(*rows)]
        return image.contiguous()

    def forward(
        self,
        z: Tensor,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        rng: torch.Generator | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Render images of z [B, z_dim]; see `mapping`, `truncate` and `synthesis`."""
        w_plus = self.broadcast(self.mapping(z, labels=labels))
        if truncation_psi != 1.0:
            w_plus = self.truncate(w_plus, truncation_psi, truncation_cutoff)
        return self.synthesis(w_plus, noise_mode, rng)

    def _last_layer(self, resolution: int | None) -> int:
        """Return the place in the plan of the toRGB layer that completes a resolution."""
        resolution = self.resolution if resolution is None else resolution
        if not 4 <= resolution <= self.resolution or resolution & (resolution - 1):
            raise ValueError(
                "StyleGAN2: the resolution of an image must be a power of two from 4 to "
                f"{self.resolution}, got {resolution}"
            )
        return 3 * int(math.log2(resolution)) - 5

    def _low_layers(self, x: Tensor) -> tuple[int, torch.dtype]:
        """Return from which layer on another dtype than that of `x` is computed in, and which."""
        if x.dtype == torch.float32:
            if self.layers_dtype is not None:
                return 0, self.layers_dtype
            if x.is_cuda if self.fp16 is None else self.fp16:
                return self._first_half, torch.float16
        return len(self._plan), x.dtype

    def _noise(
        self, k: int, mode: str, x: Tensor, up: int, rng: torch.Generator | None
    ) -> Tensor | None:
        if mode == "none":
            return None
        if mode == "const":
            noise: Tensor = getattr(self.noises, f"noise_{k}")
            return noise.to(x.dtype)
        batch, _, height, width = x.shape
        shape = (batch, 1, height * up, width * up)
        return torch.randn(shape, generator=rng, dtype=x.dtype, device=x.device)

    def _upsample(self, image: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, 3, 2H, 2W]
        before = self.resample_filter.numel() // 2
        padding = (before, before - 1) * 2
        return upfirdn2d(image, self.resample_filter, up=2, padding=padding, gain=4.0)

    def _check_w_plus(self, w_plus: Tensor) -> None:
        if w_plus.ndim != 3 or w_plus.shape[1:] != (self.num_layers, self.w_dim):
            raise ValueError(
                f"StyleGAN2: w_plus must be [B, {self.num_layers}, {self.w_dim}] for resolution "
                f"{self.resolution}, got {list(w_plus.shape)}; broadcast() makes it of w"
            )


def _check(config: dict[str, Any]) -> None:
    """Raise ValueError unless a network can be built so."""
    resolution, base = config["resolution"], config["channel_base"]
    if resolution < 8 or resolution & (resolution - 1):
        raise ValueError(
            f"StyleGAN2: resolution must be a power of two of at least 8, got {resolution}"
        )
    sizes = {key: config[key] for key in ("w_dim", "z_dim", "n_mlp", "channel_max")}
    if min(sizes.values()) < 1 or base < resolution:
        given = ", ".join(
            f"{key}={value}" for key, value in {**sizes, "channel_base": base}.items()
        )
        raise ValueError(
            "StyleGAN2: w_dim, z_dim, n_mlp and channel_max must be positive and channel_base "
            f"at least the resolution, got {given}"
        )
    if config["c_dim"] < 0 or config["lr_multiplier"] <= 0:
        raise ValueError(
            "StyleGAN2: c_dim must not be negative and lr_multiplier be positive, got "
            f"c_dim={config['c_dim']}, lr_multiplier={config['lr_multiplier']}"
        )
    clamp, halves, taps = (config[k] for k in ("conv_clamp", "num_fp16_res", "resample_filter"))
    if clamp is not None and not clamp > 0:
        raise ValueError(f"StyleGAN2: conv_clamp must be positive or None, got {clamp}")
    most = int(math.log2(resolution)) - 2
    if not 0 <= halves <= most:
        raise ValueError(f"StyleGAN2: num_fp16_res must lie in [0, {most}], got {halves}")
    if len(taps) not in range(2, 99, 2) or sum(taps) == 0:
        raise ValueError(
            "StyleGAN2: resample_filter must be an even number of taps, at most 98, that do not "
            f"sum to 0, got {taps}"
        )
    rows = config["content_rows"]
    if rows is not None and not (len(rows) == 2 and 0 <= rows[0] < rows[1] <= resolution):
        raise ValueError(
            f"StyleGAN2: content_rows must be (first, last + 1) within {resolution}, got {rows}"
        )
