"""How many images at once, and the counts that it rests on."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from sd_families import FULL, FULL_VAE, build_networks
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sdd_fast._build_info import build_info
from sdd_fast.memory import (
    _DIFFUSERS_VAE_ELEMENTS,
    _GENERATOR_BYTES,
    _ROW_ELEMENTS,
    _UNET_ELEMENTS,
    _VAE_ELEMENTS,
    _VAE_LAYER_ELEMENTS,
    SelectionSizes,
    fits_cache,
    rendering_batch,
    selection_sizes,
    training_batch,
)
from sdd_fast.models import StyleGAN2
from sdd_fast.out_of_memory import check_ran_out, ran_out
from sdd_fast.teacher.fast_encoder import encode_mean
from sdd_fast.teacher.vae_encoder import VAEEncoder


def kept(network: nn.Module, run: Callable[[], Any]) -> int:
    """Bytes that autograd keeps from a forward pass, but for weights; counted on meta tensors."""
    own = {t.untyped_storage()._cdata for t in (*network.parameters(), *network.buffers())}
    sizes: dict[int, int] = {}
    alive = []  # so that no address is used twice

    def note(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(sizes.values())


def new_vae(**config: Any) -> Any:
    """A VAE with four levels on meta tensors."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            **config,
        ).requires_grad_(False)


def test_what_the_vae_encoder_keeps() -> None:
    vae = new_vae(block_out_channels=(128, 256, 512, 512), layers_per_block=2)
    images = torch.empty(1, 3, 512, 512, requires_grad=True, device="meta")
    found = kept(vae, lambda: vae.encode(images).latent_dist.mode())
    assert found == pytest.approx(3.24e9, rel=0.01)
    assert _DIFFUSERS_VAE_ELEMENTS * 512**2 * 4 == pytest.approx(found, rel=0.01)
    # Without attention, which on the meta device keeps what no real one does: q, k, v, what enters
    # it and what leaves it.
    del vae.encoder.mid_block.attentions[0]
    vae.encoder.mid_block.attentions.append(None)
    attention = 5 * 512 * 64**2 * 4
    found = attention + kept(vae, lambda: encode_mean(vae, images))
    assert found == pytest.approx(1.01e9 if build_info()["native"] else 1.97e9, rel=0.01)
    if build_info()["native"]:
        assert _VAE_ELEMENTS * 512**2 * 4 == pytest.approx(found, rel=0.01)


def test_what_a_unet_keeps() -> None:
    with torch.device("meta"):
        unet = build_networks("1.x", FULL["1.x"], FULL_VAE)["unet"].requires_grad_(False)
        latents, text = torch.empty(1, 4, 64, 64, requires_grad=True), torch.empty(1, 77, 768)
    found = kept(unet, lambda: unet(latents, 500, encoder_hidden_states=text).sample)
    assert 2 * found == pytest.approx(8.7e9, rel=0.01)
    assert found < _UNET_ELEMENTS * 512**2 * 4 < 1.25 * found


class Live(TorchDispatchMode):
    """The most bytes that results of a forward pass take at one time; views of weights are none."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.own = {t.untyped_storage()._cdata for t in (*network.parameters(), *network.buffers())}
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self.own and key not in self.sizes:
                self.sizes[key] = storage.nbytes()
                weakref.finalize(storage, self.sizes.pop, key)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return result


def test_what_a_forward_pass_takes_at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import AutoencoderKL

    def attention(q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return torch.empty_like(q)  # as kernels do that keep no matrix of S × S

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    with torch.device("meta"), torch.no_grad():
        unet = build_networks("1.x", FULL["1.x"], FULL_VAE)["unet"]
        latents, text = torch.empty(2, 4, 64, 64), torch.empty(2, 77, 768)
        with Live(unet) as rows:
            unet(latents, 500, encoder_hidden_states=text)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
        with Live(vae) as image:
            vae.encode(torch.empty(1, 3, 512, 512))
    pixels = 512**2 * 4
    assert rows.peak / 2 < _ROW_ELEMENTS * pixels < 1.25 * rows.peak / 2
    assert image.peak < _VAE_LAYER_ELEMENTS * pixels < 1.25 * image.peak


@pytest.mark.parametrize(("resolution", "want"), [(1024, 1.54e9), (512, 0.79e9), (256, 0.42e9)])
def test_what_a_generator_keeps(resolution: int, want: float) -> None:
    with torch.device("meta"):
        generator = StyleGAN2(resolution).requires_grad_(False)
        w_plus = torch.empty(1, generator.num_layers, 512, requires_grad=True)
    found = kept(generator, lambda: generator.synthesis(w_plus))
    # The references of the native kernels keep half more.
    more = 1 if build_info()["native"] else 1.48
    assert found == pytest.approx(more * want, rel=0.05)
    assert found == pytest.approx(more * _GENERATOR_BYTES * resolution, rel=0.07)


def prior(resolution: int, dtype: torch.dtype = torch.float32, **vae_config: Any) -> Any:
    """As much of Stable Diffusion as is asked."""
    vae = new_vae(block_out_channels=(32,) * 4, **vae_config).to(dtype)
    encoder = VAEEncoder(
        vae, resolution=resolution, unet_levels=4, device=vae.device, dtype=torch.float32
    )
    return SimpleNamespace(
        vae=vae,
        dtype=dtype,
        vae_encoder=encoder,
        vae_scale_factor=8,
        latent_shape_for=encoder.latent_shape,
    )


def generator(height: int, width: int, resolution: int) -> Any:
    return SimpleNamespace(image_size=(height, width), resolution=resolution)


def images(*args: Any, **kwargs: Any) -> int:
    return selection_sizes(*args, **kwargs).images


def test_as_many_as_fit() -> None:
    ffhq, car = generator(1024, 1024, 1024), generator(384, 512, 512)
    # 12 GB: eleven times 1.01, four times 1.01 + 1.64.
    assert images(prior(512), (1024, 1024)) == 8
    assert training_batch(ffhq, prior(512)) == 4
    # In half precision a VAE keeps 0.5 GB.
    assert images(prior(1024), (1024, 1024)) == 2
    assert images(prior(1024, torch.float16), (1024, 1024)) == 5
    assert training_batch(ffhq, prior(512, torch.float16)) == 4
    # Through the U-Net twice 5.2 GB more.
    assert images(prior(512), (1024, 1024), jacobian="full") == 1
    assert images(prior(256), (1024, 1024), jacobian="full") == 4
    # The teacher sees 384 × 512 pixels of a car.
    assert images(prior(1024), (384, 512)) == 3
    assert training_batch(car, prior(512)) == 4
    # On diffusers' module three times as much.
    with pytest.warns(UserWarning, match="GELU"):
        other = prior(512, act_fn="gelu")
    assert images(other, (1024, 1024)) == 3
    assert training_batch(ffhq, other) == 2
    # Never more than eight, or than the usual four; never none.
    assert images(prior(64), (64, 64)) == 8
    assert training_batch(generator(64, 64, 64), prior(64)) == 4
    assert images(prior(2048), (1024, 1024)) == training_batch(ffhq, prior(2048)) == 1


def test_rows_of_the_unet() -> None:
    """4 GB of 0.16 GB each; half of it in half precision; through the U-Net two for an image."""
    assert selection_sizes(prior(512), (1024, 1024)).rows == 25
    assert selection_sizes(prior(512, torch.float16), (1024, 1024)).rows == 50
    assert selection_sizes(prior(64), (64, 64)) == SelectionSizes(8, 64)
    assert selection_sizes(prior(256), (64, 64), jacobian="full") == SelectionSizes(4, 8)
    assert selection_sizes(prior(512), (512, 512), gradient_at="latent").images == 16


@pytest.mark.parametrize(("side", "want"), [(64, 64), (256, 64), (512, 16), (1024, 4), (4096, 1)])
def test_rendering_without_a_gradient(side: int, want: int) -> None:
    assert rendering_batch(generator(side, side, side)) == want
    assert rendering_batch(generator(side, side, side), most=16) == min(want, 16)


def test_what_is_kept_between_steps() -> None:
    image = torch.empty(3, 1024, 1024, device="meta")
    assert fits_cache(image, 21) and not fits_cache(image, 22)


def arisen(cause: Exception) -> Exception:
    try:
        try:
            raise cause
        except Exception as error:
            raise ValueError("unet/ may be truncated") from error
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate "
                      "memory: you tried to allocate 8 bytes. Error code 12"), True),
        (RuntimeError("unable to mmap 80 bytes from file <a>: Cannot allocate memory (12)"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (SafetensorError("Cannot allocate memory (os error 12)"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (ImportError("libblas.so: failed to map segment from shared object"), True),
        (arisen(MemoryError()), True),
        (ValueError("the prompt is too long: 'a man out of memory'"), False),
        (FileNotFoundError(errno.ENOENT, "no such file", "out of memory.png"), False),
        (RuntimeError("shape mismatch"), False),
        (ImportError("libblas.so: cannot open shared object file"), False),
    ],
)  # fmt: skip
def test_memory_that_ran_out_is_known_in_every_wording(error: Exception, memory: bool) -> None:
    assert ran_out(error) == memory


def test_what_did_not_fit_is_named() -> None:
    check_ran_out(RuntimeError("shape mismatch"), "unet/")
    with pytest.raises(MemoryError, match="unet/ of sd does not fit into memory"):
        check_ran_out(OSError(errno.ENOMEM, "Cannot allocate memory"), "unet/ of sd")
