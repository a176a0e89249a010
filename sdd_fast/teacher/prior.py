"""The diffusion model seen as a teacher.

Composes `text` (prompt → embeddings), `vae_encoder` (image → latent), `schedule` (α_t, σ_t) and the
U-Net ((noised latent, timestep, embeddings) → noise prediction).
Everything here is frozen: no weight of the prior ever receives a gradient, but gradients do flow
*through* it to images and latents, which is what selection (Sec. 4.2) and distillation (Sec. 4.1)
need.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..shield import shielded
from .attention import attention_in_use
from .compiled import in_use
from .configs import native_size
from .load import load_parts
from .parts import Components, adopt_scheduler, check_fit, make_uniform
from .precision import Dtype
from .schedule import Schedule, Timesteps
from .text import PromptEmbeds, encode_prompt
from .vae_encoder import VAEEncoder, vae_scale_factor


class DiffusionPrior:
    """A frozen latent diffusion model (Stable Diffusion 1.x, 2.x or XL architecture of any size).

    Usually made by `DiffusionPrior.from_pretrained`; the constructor takes the parts themselves, as
    diffusers and transformers objects, switches them to eval mode and freezes them in place. A
    network of mixed dtypes is cast to one that holds all of them.

    Attributes:
        schedule: α_t, σ_t, w(t). vae_encoder: images → latents.
        num_train_timesteps: T; timesteps run from 0 to T − 1.
        prediction_type: "epsilon" or "v_prediction"; both give a noise prediction.
        resolution: native image size in pixels; vae_scale_factor: pixels per latent pixel.
        latent_channels: channels C of a latent.
        device, dtype: of the networks, under autocast too. Latents, noise and predictions are
            float32 whatever the dtype (float64 when dtype is float64); `compute_dtype` says which.
        unet_calls, unet_rows: how often the U-Net was called, and with how many rows in total.
    """

    @shielded()
    def __init__(
        self,
        vae: Any,
        unet: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        force_zeros_for_empty_prompt: bool = False,
    ) -> None:
        check_fit(
            Components(vae, unet, text_encoder, tokenizer, scheduler, text_encoder_2, tokenizer_2)
        )
        for network in (vae, unet, text_encoder, text_encoder_2):
            if network is not None:
                make_uniform(network.requires_grad_(False).eval())
        scheduler = adopt_scheduler(scheduler)
        if text_encoder_2 is not None and vae.config.force_upcast and vae.dtype == torch.float16:
            vae.float()  # the activations of SDXL's VAE exceed the range of float16
        self.vae, self.unet, self.text_encoder = vae, unet, text_encoder
        self.tokenizer, self.scheduler = tokenizer, scheduler
        self.text_encoder_2, self.tokenizer_2 = text_encoder_2, tokenizer_2
        self.force_zeros_for_empty_prompt = force_zeros_for_empty_prompt
        self.device: torch.device = unet.device
        self.dtype: torch.dtype = unet.dtype
        self.compute_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.schedule = Schedule(scheduler, self.device, self.compute_dtype)
        self.prediction_type = self.schedule.prediction_type
        self.num_train_timesteps = len(self.schedule)
        self.latent_channels: int = vae.config.latent_channels
        self.vae_scale_factor = vae_scale_factor(vae)
        self.resolution: int = native_size(unet.config.sample_size) * self.vae_scale_factor
        self.vae_encoder = VAEEncoder(
            vae,
            resolution=self.resolution,
            unet_levels=len(unet.config.block_out_channels),
            device=self.device,
            dtype=self.compute_dtype,
        )
        self.unet_calls = 0
        self.unet_rows = 0
        self._time_ids: dict[tuple[int, int], Tensor] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        # `vae_encoder` and `schedule` are made of these and would go on with the earlier ones.
        if name in ("vae", "scheduler") and name in vars(self):
            raise AttributeError(
                f"the {name} of a teacher cannot be exchanged; make another: load it with vae=… of "
                "from_pretrained, or give DiffusionPrior(…) the parts"
            )
        super().__setattr__(name, value)

    @classmethod
    @shielded()
    def from_pretrained(
        cls,
        source: str | Path | Any,
        *,
        dtype: Dtype | None = None,
        device: str | torch.device | None = None,
        attention: str | None = None,
        variant: str | None = None,
        tokenizer: str | Path | None = None,
        vae: str | Path | None = None,
        lora: str | Path | Sequence[str | Path] | None = None,
    ) -> DiffusionPrior:
        """Load a Stable Diffusion folder, single file or hub id, or take a pipeline's parts.

        Nothing that came with the weights is executed: of a `.ckpt` or `.bin` only the tensors are
        read. A network connection is used only for a hub id, given as `source` or `tokenizer`.

        Args:
            source: folder as diffusers writes it, or its model_index.json; `.safetensors` or
                `.ckpt` file in the original layout; hub id "owner/name", if there is no such path;
                or a pipeline of diffusers, whose parts are used and frozen as they are.
            dtype: precision of the networks: float32, float16, bfloat16 or float64, by name or as
                torch's; "auto": float16 on an NVIDIA GPU, bfloat16 on a CPU that has it, else
                float32, and float32 where the teacher failed `sdd bench precision`. The VAE of
                SDXL stays in float32 when float16 would overflow (its `force_upcast`). None:
                float32, or what a pipeline has. device: None: the CPU, or where a pipeline is.
            attention: "sdpa", PyTorch's; another key of `teacher.attention.BACKENDS`, such as
                "xformers"; or "auto", the fastest for each layer, timed once on a GPU and kept in
                the user's cache; on a CPU that is "sdpa". None: "auto", or as a pipeline has it.
            variant: of a folder, load `*.{variant}.safetensors`, e.g. "fp16", and the plain weights
                of parts without it. None takes the plain weights, or the only variant there is.
            tokenizer: of a single file, which has none: a folder with vocab.json and merges.txt,
                or a hub id. None looks for a folder tokenizer/ beside the file, then in the hub's
                cache.
            vae: file or folder of a VAE that takes the place of the teacher's own.
            lora: `FILE` or `FILE:scale`, one or several, fused into the weights.

        Raises:
            FileNotFoundError: no such folder or file, or parts of it are missing; the message
                lists what it must contain.
            ValueError: corrupt files, or a pipeline, prediction type, dtype, device or attention
                that is not supported here; something that a config says and nothing here handles;
                a LoRA or VAE of another model.
        """
        parts = load_parts(
            source, dtype=dtype, device=device, attention=attention, vae=vae, lora=lora,
            variant=variant, tokenizer=tokenizer,
        )  # fmt: skip
        return cls(**parts._asdict())

    @property
    def attention(self) -> dict[str, dict[str, Any]]:
        """Which backend computes the attention layers of each shape, and what each took in ms."""
        return attention_in_use({"unet": self.unet, "vae": self.vae})

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ_t, [T] float32 on the prior's device."""
        return self.schedule.alphas_cumprod

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latent of one square image."""
        return self.latent_shape_for(self.resolution, self.resolution)

    def latent_shape_for(self, height: int, width: int) -> tuple[int, int, int]:
        """Return (C, h, w) of the latent of one image, whose longer side becomes `resolution`.

        Raises:
            ValueError: a side would not be a multiple of what the U-Net halves it to.
        """
        return self.vae_encoder.latent_shape(height, width)

    @shielded(grad=False)
    def encode_prompt(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] = ""
    ) -> PromptEmbeds:
        """Encode one prompt or P prompts; encode once and reuse.

        Args:
            prompt: non-empty text(s). Text beyond the tokenizer's length is cut off with a warning.
            negative_prompt: what the unconditional branch of guidance sees: one for all, or one per
                prompt.

        Raises:
            ValueError: an empty prompt, or the numbers of prompts and negative prompts differ.
        """
        encoders = [(self.tokenizer, self.text_encoder)]
        if self.text_encoder_2 is not None:
            encoders.append((self.tokenizer_2, self.text_encoder_2))
        return encode_prompt(
            encoders, prompt, negative_prompt, blank=self.force_zeros_for_empty_prompt
        )

    @shielded(grad=None)
    def encode(self, images: Tensor) -> Tensor:
        """Encode images to latents z = s·E(resize(y)).

        s is vae.config.scaling_factor, E the mode of the VAE encoder's posterior.
        Differentiable with respect to `images`. Other sizes are resized bilinearly so that the
        longer side has the native resolution (at an exact factor 2 that is the 2×2 average);
        downscaling by more than 2 is anti-aliased.

        Args:
            images: [B, 3, H, W] floating point in [-1, 1], on any device.

        Returns:
            [B, C, h, w] in `compute_dtype` on the prior's device; see `latent_shape_for`.

        Raises:
            TypeError: not a floating-point tensor. ValueError: wrong shape, or proportions that the
                U-Net does not take.
        """
        return self.vae_encoder.encode(images)

    @shielded(grad=None)
    def decode(self, z: Tensor) -> Tensor:
        """Decode latents [B, C, h, w] to images [B, 3, H, W], nominally in [-1, 1], not clamped."""
        z = z.to(self.device, self.compute_dtype) / self.vae.config.scaling_factor
        return self.vae.decode(z.to(self.vae.dtype)).sample.to(self.compute_dtype)

    def timesteps_tensor(self, timesteps: Timesteps, batch: int) -> Tensor:
        """Check one timestep for all or one per sample; return int64 [batch] on the prior's device.

        See `Schedule.timesteps_tensor`.

        Raises:
            TypeError: not integers. ValueError: out of range, or a number other than 1 or `batch`.
        """
        return self.schedule.timesteps_tensor(timesteps, batch)

    def add_noise(self, z: Tensor, noise: Tensor, timesteps: Timesteps) -> Tensor:
        """Return z_t = √ᾱ_t z + √(1−ᾱ_t) ε for z and ε [B, C, h, w]; one t, or one per row."""
        if noise.shape != z.shape:
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}, expected that of the latents, "
                f"{tuple(z.shape)}"
            )
        t = self.timesteps_tensor(timesteps, len(z))
        return self.schedule.add_noise(z, noise.to(z.device, z.dtype), t)

    @shielded(grad=None)
    def predict_noise(
        self,
        z_t: Tensor,
        timesteps: Timesteps,
        embeds: PromptEmbeds,
        guidance_scale: float | Tensor,
    ) -> Tensor:
        """Predict the noise with guidance: ε̂ = ε_u + g·(ε_c − ε_u) (classifier-free guidance).

        One U-Net call of 2B rows; with g = 1, where the unconditional branch cancels, of B rows.
        Differentiable with respect to `z_t`; wrap in torch.no_grad() when that is not needed.

        Args:
            z_t: [B, C, h, w] noised latents. timesteps: see `timesteps_tensor`.
            embeds: of one prompt, or of one prompt per row.
            guidance_scale: one for all rows, or [B] of each; then the call has 2B rows.

        Returns:
            [B, C, h, w] in `compute_dtype`. Guidance is applied in that precision, because g
            multiplies the difference of two rounded numbers.
        """
        (prediction,) = self.predict_noises([(z_t, timesteps, guidance_scale)], embeds)
        return prediction

    @shielded(grad=None)
    def predict_noises(
        self, asked: Sequence[tuple[Tensor, Timesteps, float | Tensor]], embeds: PromptEmbeds
    ) -> list[Tensor]:
        """Predict the noise for several (z_t, timesteps, guidance scale) in one U-Net call.

        Args:
            asked: see `predict_noise`; all of B rows. embeds: of one prompt, or of one per row.

        Returns:
            A tensor for each, as `predict_noise` returns it.
        """
        checked = [(z_t, self.timesteps_tensor(t, len(z_t)), scale) for z_t, t, scale in asked]
        outputs = self._predict(checked, embeds)
        return [
            self.schedule.noise_prediction(output, z_t, t)
            for output, (z_t, t, _) in zip(outputs, checked, strict=True)
        ]

    def _predict(
        self, asked: Sequence[tuple[Tensor, Tensor, float | Tensor]], embeds: PromptEmbeds
    ) -> list[Tensor]:
        """Return the U-Net's guided outputs, of whichever prediction type; t: int64 [B]."""
        batch = len(asked[0][0])
        cond, uncond = embeds.expand(batch)
        pooled = uncond_pooled = None
        if self.text_encoder_2 is not None:
            pooled, uncond_pooled = embeds.expand_pooled(batch)
        rows: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []
        guided = []
        for z_t, t, scale in asked:
            if tuple(z_t.shape[1:2]) != (self.latent_channels,) or z_t.ndim != 4:
                raise ValueError(
                    f"latents must be [B, {self.latent_channels}, h, w], got {tuple(z_t.shape)}"
                )
            x = z_t.to(self.device, self.dtype)
            guided.append(isinstance(scale, Tensor) or scale != 1)
            if guided[-1]:
                rows.append((x, t, uncond, uncond_pooled))
            rows.append((x, t, cond, pooled))
        x, t, text = (torch.cat([row[i] for row in rows]) for i in range(3))  # type: ignore[misc]
        vectors = [row[3] for row in rows if row[3] is not None]
        out = iter(
            self.unet_output(x, t, text, torch.cat(vectors) if vectors else None).split(batch)
        )
        found = []
        for (_, _, scale), both in zip(asked, guided, strict=True):
            without = next(out) if both else None
            prediction = next(out)
            if without is not None:
                g = scale.view(-1, 1, 1, 1) if isinstance(scale, Tensor) else scale
                prediction = without + g * (prediction - without)
            found.append(prediction)
        return found

    @shielded(grad=None)
    def unet_output(self, x: Tensor, t: Tensor, text: Tensor, pooled: Tensor | None) -> Tensor:
        """Call the U-Net once, without guidance: one text for each row.

        Args:
            x: [R, C, h, w] noised latents. t: int64 [R] on the prior's device.
            text: [R, S, D] embeddings; pooled: [R, E] of the same texts, for SDXL only.

        Returns:
            [R, C, h, w] in `compute_dtype`: a prediction of ε or of v, see `prediction_type`.
        """
        added = {}
        if self.text_encoder_2 is not None and pooled is not None:
            size = self._size_conditions(*x.shape[2:]).expand(len(x), -1)
            added = {"added_cond_kwargs": {"text_embeds": pooled.to(self.dtype), "time_ids": size}}
        self.unet_calls += 1
        self.unet_rows += len(x)
        x, text = x.to(self.device, self.dtype), text.to(self.dtype)
        output = in_use(self.unet)(x, t, encoder_hidden_states=text, **added)
        return output.sample.to(self.compute_dtype)

    def _size_conditions(self, h: int, w: int) -> Tensor:
        """Return SDXL's [1, 6] of an image that always had this size, with nothing cropped away."""
        if (h, w) not in self._time_ids:  # kept: sending it makes the host wait for a GPU
            size = [h * self.vae_scale_factor, w * self.vae_scale_factor]
            ids = torch.tensor([[*size, 0, 0, *size]])
            self._time_ids[h, w] = ids.to(self.device, self.dtype)
        return self._time_ids[h, w]

    @shielded(grad=False)
    def sample(
        self,
        prompts: str | Sequence[str] | PromptEmbeds,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        *,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """Draw one image per prompt by deterministic DDIM (η = 0).

        Args:
            prompts: P prompts, or their embeddings. All P run as one batch.
            rng: source of the initial noise, drawn on the generator's own device; default: torch's
                global one.

        Returns:
            [P, 3, resolution, resolution] in [-1, 1] (clamped), in `compute_dtype`.
        """
        from diffusers import DDIMScheduler

        if not 1 <= num_inference_steps <= self.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps must be 1 to {self.num_train_timesteps}, got "
                f"{num_inference_steps}"
            )
        embeds = prompts if isinstance(prompts, PromptEmbeds) else self.encode_prompt(prompts)
        batch = len(embeds.cond)
        # A fresh scheduler: set_timesteps changes it, and this prior may be in use elsewhere.
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(num_inference_steps)
        source = rng.device if rng is not None else "cpu"
        z_t = torch.randn(batch, *self.latent_shape, generator=rng, device=source)
        z_t = z_t.to(self.device, self.compute_dtype) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            at = t.to(self.device).expand(batch)
            (prediction,) = self._predict([(z_t, at, guidance_scale)], embeds)
            z_t = scheduler.step(prediction, t, z_t).prev_sample
        return self.decode(z_t).clamp(-1, 1)
