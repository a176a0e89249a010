"""Our attention processor against diffusers' own, the choice of a backend, and what is kept."""

from __future__ import annotations

import json
import os
import sys
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from sd_families import FAMILIES, TINY, TINY_VAE, build_networks
from torch import Tensor, nn

from sdd_fast import measured
from sdd_fast.domains import load_domain
from sdd_fast.selection.hqs import hqs
from sdd_fast.teacher import attention
from sdd_fast.teacher.attention import BackendProcessor, Shape, set_attention
from sdd_fast.teacher.prior import DiffusionPrior

TOKENS = 16
SHAPE = Shape("unet", heads=2, head_dim=16, queries=64, keys=TOKENS)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return measured.measured_file()


def networks(family: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = build_networks(
            family, TINY[family], TINY_VAE, vocab_size=64, max_position_embeddings=TOKENS, **ids
        )
    return {
        part: nn.Module.to(made[part], dtype).eval().requires_grad_(False)
        for part in ("unet", "vae")
    }


def outputs(made: dict[str, Any], family: str, masked: bool = False) -> list[Tensor]:
    """Of the U-Net: output and gradient; of the VAE: latent, gradient, image."""
    unet, vae = made["unet"], made["vae"]
    rng, dtype = torch.Generator().manual_seed(1), unet.dtype

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).to(dtype)

    added = {}
    if family == "XL":
        added["added_cond_kwargs"] = {"text_embeds": draw(2, 128), "time_ids": draw(2, 6)}
    if masked:
        added["encoder_attention_mask"] = torch.arange(TOKENS).expand(2, -1) < 10
    z_t, y = draw(2, 4, 16, 16).requires_grad_(), draw(2, 3, 32, 32).requires_grad_()
    text = draw(2, TOKENS, TINY[family]["unet"]["cross_attention_dim"])
    eps = unet(z_t, 500, encoder_hidden_states=text, **added).sample
    z = vae.encode(y).latent_dist.mode()
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out, x in ((eps, z_t), (z, y))]
    with torch.no_grad():
        return [eps.detach(), z.detach(), *gradients, vae.decode(z).sample]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("dtype", "form", "masked"),
    [
        (torch.float32, torch.contiguous_format, True),
        (torch.bfloat16, torch.channels_last, False),
    ],
)
def test_sdpa_is_diffusers_own_processor_to_the_bit(
    family: str, dtype: torch.dtype, form: torch.memory_format, masked: bool
) -> None:
    made = networks(family, dtype)
    for network in made.values():
        network.to(memory_format=form)
    expected = outputs(made, family, masked)
    assert all(type(p) is AttnProcessor2_0 for p in made["unet"].attn_processors.values())
    set_attention(made, "sdpa", TOKENS)
    for ours, theirs in zip(outputs(made, family, masked), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_faces64_selects_as_with_diffusers_own_processor() -> None:
    domain = load_domain("faces64")
    run = partial(
        hqs, domain.prior, domain.held_out[:2], "a face with white hair", [300, 700],
        generator=domain.generator, progress=False,
    )  # fmt: skip
    ours = run()
    for network in (domain.prior.unet, domain.prior.vae):
        network.set_attn_processor(AttnProcessor2_0())
    theirs = run()
    assert torch.equal(ours.entropy, theirs.entropy) and torch.equal(ours.l1, theirs.l1)


@pytest.mark.parametrize("family", FAMILIES)
def test_another_backend_agrees_to_rounding_and_changes_no_default(family: str) -> None:
    made, default = networks(family), Registry._active_backend
    set_attention(made, "sdpa", TOKENS)
    expected = outputs(made, family)
    set_attention(made, "sdpa-math", TOKENS)
    got = outputs(made, family)
    assert Registry._active_backend is default
    assert torch.backends.cuda.flash_sdp_enabled()  # what singles a kernel out was put back
    assert any(not torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_layers_with_cross_norms_and_rescaled_outputs() -> None:
    torch.manual_seed(0)
    layer = Attention(
        32, 24, heads=4, dim_head=8, cross_attention_norm="layer_norm", qk_norm="layer_norm",
        residual_connection=True, rescale_output_factor=1.7, bias=True,
    ).eval()  # fmt: skip
    x, text = torch.randn(2, 9, 32), torch.randn(2, 7, 24)
    layer.set_processor(AttnProcessor2_0())
    expected = layer(x, text)
    layer.set_processor(BackendProcessor(attention.Backend("sdpa"), SHAPE))
    # diffusers normalizes heads of [B, H, S, D], we of [B, S, H, D]: the same elements
    torch.testing.assert_close(layer(x, text), expected, rtol=1e-6, atol=1e-6)


def kernels(run: Callable[[], Any]) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("name", ["auto", "sdpa", "sdpa-flash", "_native_flash", "sdpa-math"])
def test_the_kernel_that_was_asked_for_runs(name: str, tiny_sd: Path) -> None:
    prior = DiffusionPrior.from_pretrained(tiny_sd, attention=name)
    embeds = prior.encode_prompt("white hair")
    z = torch.zeros(1, *prior.latent_shape)
    y = torch.zeros(1, 3, 32, 32).requires_grad_()
    flash = "aten::_scaled_dot_product_flash_attention_for_cpu"
    for run in (
        lambda: prior.predict_noise(z, 500, embeds, 7.5),
        lambda: torch.autograd.grad(prior.encode(y).sum(), y),
    ):
        seen = kernels(run)
        assert (flash in seen) == (name != "sdpa-math")
        assert ("aten::_scaled_dot_product_attention_math" in seen) == (name == "sdpa-math")


def test_what_a_prior_says_of_its_attention(tiny_sd: Path) -> None:
    told = DiffusionPrior.from_pretrained(tiny_sd).attention
    assert {key: entry["backend"] for key, entry in told.items()} == {
        "unet: 16x16, 2 heads of 16": "sdpa",
        "vae: 64x64, 1 heads of 16": "sdpa",
    }
    json.dumps(told)


def test_shapes_of_the_full_size_network() -> None:
    from sd_families import FULL, FULL_VAE

    with torch.device("meta"):
        made = build_networks("1.x", FULL["1.x"], FULL_VAE)
    made["unet"].register_to_config(sample_size=64)
    shapes = {shape: 0 for _, shape in attention._layers(made, 77)}
    for _, shape in attention._layers(made, 77):
        shapes[shape] += 1
    expected = {
        Shape("unet", 8, dim, queries, keys): count
        for dim, queries, count in ((40, 4096, 5), (80, 1024, 5), (160, 256, 5), (160, 64, 1))
        for keys in (queries, 77)
    }
    assert shapes == expected | {Shape("vae", 1, 512, 4096, 4096): 2}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("xformers", r"needs xformers.ops: pip install 'sdd-fast\[xformers\]'"),
        ("flash", "needs flash_attn: pip install flash-attn"),
        ("sdpa-cudnn", "sdpa-cudnn' cannot run here .*: RuntimeError"),
        ("sage", "quantizes, and guidance multiplies its error"),
        ("_flash_3_hub", "downloads code"),
        ("nonsense", "expected auto or one of sdpa, "),
        (None, "expected auto or one of sdpa, "),
    ],
)
def test_a_backend_that_cannot_run_says_why(
    name: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xformers", None)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(ValueError, match=why):
        set_attention(networks("1.x"), name, TOKENS)


def test_layers_with_processors_of_their_own_are_left_alone() -> None:
    class Foreign:
        def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
            raise NotImplementedError

    made = networks("1.x")
    made["unet"].mid_block.attentions[0].transformer_blocks[0].attn1.set_processor(Foreign())
    before = made["unet"].attn_processors
    with pytest.raises(
        ValueError, match=r"mid_block.* of the unet has a processor of its own \(Foreign\)"
    ):
        set_attention(made, "sdpa", TOKENS)
    assert made["unet"].attn_processors == before


def test_a_pipelines_attention_stays_as_it_is(tiny_sd: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd)
    prior = DiffusionPrior.from_pretrained(pipeline)
    assert {e["backend"] for e in prior.attention.values()} == {"AttnProcessor2_0"}
    prior = DiffusionPrior.from_pretrained(pipeline, attention="sdpa-math")
    assert {e["backend"] for e in prior.attention.values()} == {"sdpa-math"}


# --- measuring ------------------------------------------------------------------------------------


def fastest(without: tuple[str, ...] = ()) -> attention.Backend:
    return attention._fastest(SHAPE, CPU, torch.float32, without)


def test_what_was_measured_is_kept_and_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"sdpa": 2.0, "sdpa-flash": 1.0}
    monkeypatch.setattr(attention, "_milliseconds", lambda name, *_: times[name])
    found = fastest()
    assert found.name == "sdpa-flash" and found.milliseconds == times
    assert set(found.refused) == {"sdpa-efficient", "sdpa-cudnn", "xformers", "flash", "flash-3"}
    times.update({"sdpa-flash": 9.0})  # noise of another day changes nothing
    assert fastest() == found
    (key,) = json.loads(cache.read_text())["measured"]
    assert all(word in key for word in ("64x16, 2 heads of 16", "torch.float32", torch.__version__))
    assert fastest(without=("sdpa-flash",)).name == "sdpa"
    (told,) = attention.timed_here().items()
    where = f"unet: 64x16, 2 heads of 16 | torch.float32 | {measured.device_name(CPU)}"
    assert told == (where, {"sdpa": 2.0, "sdpa-flash": 1.0})
    monkeypatch.setattr(measured, "_versions", lambda: ["torch 9.9"])
    assert attention.timed_here() == {}


def test_a_kernel_that_fails_at_full_size_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = attention._attention

    def small(backend: str, q: Tensor, k: Tensor, v: Tensor, mask: Any = None) -> Tensor:
        if backend == "_native_flash" and len(q) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(backend, q, k, v, mask)

    monkeypatch.setattr(attention, "_attention", small)
    found = fastest()
    assert set(found.milliseconds) == {"sdpa"}
    assert found.refused["sdpa-flash"] == "OutOfMemoryError: CUDA out of memory"


def test_a_gain_within_the_noise_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"sdpa": 1.0, "sdpa-flash": 0.97}
    monkeypatch.setattr(attention, "_milliseconds", lambda name, *_: times[name])
    assert fastest().name == "sdpa"


@pytest.mark.parametrize(
    "damaged",
    ["", "[]", "{", '{"version": 9, "measured": {}}', '{"version": 1, "measured": []}'],
)
def test_a_damaged_file_is_measured_anew(
    damaged: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_milliseconds", lambda name, *_: 1.0)
    cache.parent.mkdir(parents=True)
    cache.write_text(damaged)
    with pytest.warns(UserWarning, match=r"measured.json is not used and written anew"):
        assert fastest().name == "sdpa"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fastest().name == "sdpa"


@pytest.mark.parametrize(
    "entry", [None, 3, {"milliseconds": {"sage": 1.0}}, {"milliseconds": {"sdpa": "soon"}}]
)
def test_an_entry_that_is_none_is_measured_anew(
    entry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_milliseconds", lambda name, *_: 1.0)
    fastest()
    (key,) = measured.everything()
    whole = {"refused": {}, "forward_only": []}
    measured.keep(key, entry if not isinstance(entry, dict) else whole | entry)
    assert fastest().milliseconds == {"sdpa": 1.0, "sdpa-flash": 1.0}


def test_a_cache_that_cannot_be_written_is_done_without(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_milliseconds", lambda name, *_: 1.0)
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="not kept for the next time"):
        assert fastest().name == "sdpa"


def test_a_kernel_that_is_wrong_or_has_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    real = attention._attention

    def faulty(backend: str, q: Tensor, k: Tensor, v: Tensor, mask: Any = None) -> Tensor:
        if backend == "_native_flash":
            return real(backend, q, k, v, mask) * 1.02
        return real(backend, q.detach(), k.detach(), v.detach(), mask)

    monkeypatch.setattr(attention, "_attention", faulty)
    with pytest.raises(attention._CannotRun, match="its result is off by 0.02"):
        attention._probe("sdpa-flash", SHAPE, CPU, torch.float32)
    assert not attention._probe("sdpa", SHAPE, CPU, torch.float32)
    with pytest.raises(attention._CannotRun, match="it has no gradient"):
        attention._probe("sdpa", SHAPE._replace(part="vae"), CPU, torch.float32)


def test_a_backend_without_a_gradient_leaves_gradients_to_sdpa() -> None:
    layer = Attention(16, heads=2, dim_head=8).eval()
    layer.set_processor(BackendProcessor(attention.Backend("sdpa-math", False), SHAPE))
    for requires_grad in (False, True):
        x = torch.zeros(1, 9, 16, requires_grad=requires_grad)
        with torch.set_grad_enabled(requires_grad):
            seen = kernels(lambda x=x: layer(x))
        assert ("aten::_scaled_dot_product_attention_math" in seen) != requires_grad


def test_real_timing_on_this_machine() -> None:
    found = fastest()
    assert set(found.milliseconds) == {"sdpa", "sdpa-flash"}
    assert all(0 < t < 1e4 for t in found.milliseconds.values())
    assert os.path.exists(measured.measured_file())


def test_a_package_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """xformers itself is no part of the tests: a stand-in shows that its function is called."""
    from diffusers.models import attention_dispatch

    calls = []

    def efficient(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
        calls.append(tuple(q.shape))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    module = types.SimpleNamespace(memory_efficient_attention=efficient)
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", types.ModuleType("xformers.ops"))
    monkeypatch.setattr(attention_dispatch, "xops", module)
    made = networks("1.x")
    set_attention(made, "sdpa", TOKENS)
    expected = outputs(made, "1.x")
    set_attention(made, "xformers", TOKENS)
    calls.clear()
    for a, b in zip(outputs(made, "1.x"), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert len(calls) == sum(len(network.attn_processors) for network in made.values())
    assert (2, 256, 8, 4) in calls  # [B, S, H, D], no copy to other layouts
