"""StyleGAN2 generator (Karras et al. 2020): mapping network and synthesis with skip connections.

Layer order, for W+ and for S-space alike::

    W+ index      0      1        1      2      3        3      4      5    ...
    layer         conv1  to_rgb1  convs.0 convs.1 to_rgbs.0 convs.2 convs.3 to_rgbs.1 ...
    resolution    4      4        8      8      8        16     16     16   ...

Parameter names follow the widespread PyTorch naming (`convs.3.conv.modulation.weight`), so that
converted checkpoints load without a table. Filters are constants and are not stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops import modulated_conv2d, upfirdn2d
from .checkpoint import Checkpointed
from .layers import EqualLinear, PixelNorm

NOISE_MODES = ("const", "random", "none")


class StyleGAN2(Checkpointed, nn.Module):
    """Generator from latents z, w, W+ or styles to images.

    Args:
        resolution: side of the (square) images, a power of two, at least 8.
        w_dim, z_dim: dimensions of w and z.
        n_mlp: layers of the mapping network.
        channel_base, channel_max: a layer at `res` has `min(channel_base // res, channel_max)`
            channels. The published "config f" is the default; half of 32768 gives the small one.

    Raises:
        ValueError: an impossible size.
    """

    latent_avg: Tensor  # [w_dim], mean of w over z, for truncation; zeros until it is set
    resample_filter: Tensor  # [4]

    def __init__(
        self,
        resolution: int,
        w_dim: int = 512,
        z_dim: int = 512,
        n_mlp: int = 8,
        channel_base: int = 32768,
        channel_max: int = 512,
    ) -> None:
        super().__init__()
        if resolution < 8 or resolution & (resolution - 1):
            raise ValueError(
                f"StyleGAN2: resolution must be a power of two of at least 8, got {resolution}"
            )
        if min(w_dim, z_dim, n_mlp, channel_max) < 1 or channel_base < resolution:
            raise ValueError(
                "StyleGAN2: w_dim, z_dim, n_mlp and channel_max must be positive and channel_base "
                f"at least the resolution, got w_dim={w_dim}, z_dim={z_dim}, n_mlp={n_mlp}, "
                f"channel_base={channel_base}, channel_max={channel_max}"
            )
        self.config = {
            "resolution": resolution, "w_dim": w_dim, "z_dim": z_dim, "n_mlp": n_mlp,
            "channel_base": channel_base, "channel_max": channel_max,
        }  # fmt: skip
        self.resolution, self.w_dim, self.z_dim = resolution, w_dim, z_dim
        self.num_layers = 2 * int(math.log2(resolution)) - 2
        resolutions = [2**k for k in range(3, int(math.log2(resolution)) + 1)]  # 8, 16, ...
        width = {res: min(channel_base // res, channel_max) for res in [4, *resolutions]}

        self.style = nn.Sequential(
            PixelNorm(),
            *[
                EqualLinear(z_dim if i == 0 else w_dim, w_dim, lr_multiplier=0.01, activation=True)
                for i in range(n_mlp)
            ],
        )
        self.input = ConstantInput(width[4])
        self.conv1 = StyledConv(width[4], width[4], w_dim)
        self.to_rgb1 = ToRGB(width[4], w_dim)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for res in resolutions:
            self.convs.append(StyledConv(width[res // 2], width[res], w_dim, up=2))
            self.convs.append(StyledConv(width[res], width[res], w_dim))
            self.to_rgbs.append(ToRGB(width[res], w_dim))
        self.noises = nn.Module()
        for k in range(self.num_layers - 1):
            side = 2 ** ((k + 5) // 2)  # 4, 8, 8, 16, 16, ...
            self.noises.register_buffer(f"noise_{k}", torch.randn(1, 1, side, side))
        self.register_buffer("latent_avg", torch.zeros(w_dim))
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("resample_filter", taps / taps.sum(), persistent=False)

        # (layer, index into W+) in the order of the styles; see the module's docstring.
        self._plan: list[tuple[StyledConv | ToRGB, int]] = [(self.conv1, 0), (self.to_rgb1, 1)]
        for j, rgb in enumerate(self.to_rgbs):
            self._plan.append((self.convs[2 * j], 2 * j + 1))  # type: ignore[arg-type]
            self._plan.append((self.convs[2 * j + 1], 2 * j + 2))  # type: ignore[arg-type]
            self._plan.append((rgb, 2 * j + 3))  # type: ignore[arg-type]

    # -- z to w to W+ ------------------------------------------------------------------------------

    def mapping(self, z: Tensor, truncation_psi: float = 1.0) -> Tensor:
        """z [B, z_dim], standard normal, to w [B, w_dim], pulled towards `latent_avg` if psi < 1.

        To truncate only some layers use `broadcast` and `truncate`.
        """
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"StyleGAN2: z must be [B, {self.z_dim}], got {list(z.shape)}")
        w: Tensor = self.style(z)
        return w if truncation_psi == 1.0 else self.latent_avg.lerp(w, truncation_psi)

    def broadcast(self, w: Tensor) -> Tensor:
        """w [B, w_dim] to W+ [B, num_layers, w_dim], the same w for every layer (no copy)."""
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
        """Set `latent_avg` to the mean of w over `samples` random z drawn from `rng` (CPU)."""
        total = torch.zeros_like(self.latent_avg)
        for start in range(0, samples, 1000):
            z = torch.randn(min(1000, samples - start), self.z_dim, generator=rng)
            total += self.style(z.to(total)).sum(0)
        self.latent_avg.copy_(total / samples)

    # -- W+ to styles to images --------------------------------------------------------------------

    @property
    def style_dims(self) -> list[int]:
        """Length of every style vector: 2 at 4x4 (convolution, toRGB), then 3 per resolution."""
        return [layer.conv.modulation.weight.shape[0] for layer, _ in self._plan]

    def style_vectors(self, w_plus: Tensor) -> list[Tensor]:
        """W+ [B, num_layers, w_dim] to S-space: one [B, style_dims[i]] per layer, toRGB included.

        Source: Wu et al. 2021, "StyleSpace Analysis".
        """
        self._check_w_plus(w_plus)
        return [layer.conv.modulation(w_plus[:, index]) for layer, index in self._plan]

    def synthesis(
        self, w_plus: Tensor, noise_mode: str = "const", rng: torch.Generator | None = None
    ) -> Tensor:
        """Images [B, 3, resolution, resolution] of W+; about [-1, 1], not clamped.

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
    ) -> Tensor:
        """Images of the style vectors that `style_vectors` gives; arguments as for `synthesis`."""
        if noise_mode not in NOISE_MODES:
            raise ValueError(
                f"StyleGAN2: noise_mode must be one of {', '.join(NOISE_MODES)}, got {noise_mode!r}"
            )
        dims, given = self.style_dims, [list(style.shape) for style in styles]
        if len(given) != len(dims) or given != [[styles[0].shape[0], dim] for dim in dims]:
            raise ValueError(
                f"StyleGAN2: needs {len(dims)} styles [B, n] with n = {dims}, got shapes {given}"
            )
        x = self.input(styles[0].shape[0])
        image: Tensor | None = None
        k = 0  # index of the noise map: one per styled convolution
        for (layer, _), style in zip(self._plan, styles, strict=True):
            if isinstance(layer, StyledConv):
                noise = self._noise(k, noise_mode, x, layer.up, rng)
                x = layer(x, style, noise, self.resample_filter)
                k += 1
            else:
                rgb = layer(x, style)
                image = rgb if image is None else rgb + self._upsample(image)
        assert image is not None
        return image.contiguous()

    def forward(
        self,
        z: Tensor,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """Images of z [B, z_dim]; see `mapping`, `truncate` and `synthesis`."""
        w_plus = self.broadcast(self.mapping(z))
        if truncation_psi != 1.0:
            w_plus = self.truncate(w_plus, truncation_psi, truncation_cutoff)
        return self.synthesis(w_plus, noise_mode, rng)

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
        return upfirdn2d(image, self.resample_filter, up=2, padding=(2, 1, 2, 1), gain=4.0)

    def _check_w_plus(self, w_plus: Tensor) -> None:
        if w_plus.ndim != 3 or w_plus.shape[1:] != (self.num_layers, self.w_dim):
            raise ValueError(
                f"StyleGAN2: w_plus must be [B, {self.num_layers}, {self.w_dim}] for resolution "
                f"{self.resolution}, got {list(w_plus.shape)}; broadcast() makes it of w"
            )


class ConstantInput(nn.Module):
    """The learned 4x4 input of the synthesis network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, batch: int) -> Tensor:
        # Every layer keeps this memory format; it makes the convolutions up to twice as fast.
        x = self.input.expand(batch, -1, -1, -1)
        return x.contiguous(memory_format=torch.channels_last)


class ModulatedConv(nn.Module):
    """Weights of a modulated convolution and the affine map from w to its style."""

    def __init__(self, inputs: int, outputs: int, side: int, w_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, side, side))
        self.modulation = EqualLinear(w_dim, inputs, bias_init=1.0)
        self.gain = 1.0 / math.sqrt(inputs * side * side)


class NoiseStrength(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class ActivationBias(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, optionally upsampling, with noise, bias and leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, up: int = 1) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, w_dim)
        self.noise = NoiseStrength()
        self.activate = ActivationBias(outputs)
        self.up = up

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None, taps: Tensor) -> Tensor:
        # The equalised-learning-rate gain goes into the style, the smallest of the factors.
        return modulated_conv2d(
            x,
            self.conv.weight[0],
            style * self.conv.gain,
            up=self.up,
            resample_filter=taps,
            noise=None if noise is None else noise * self.noise.weight,
            bias=self.activate.bias,
            act="lrelu",
        )


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to three channels, without demodulation."""

    def __init__(self, inputs: int, w_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, 3, 1, w_dim)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return modulated_conv2d(
            x,
            self.conv.weight[0],
            style * self.conv.gain,
            demodulate=False,
            bias=self.bias.reshape(3),
        )
