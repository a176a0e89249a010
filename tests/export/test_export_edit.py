"""Mappers and whole editors as files: what each computes, tells, and refuses."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdd_fast.editing.editor import Editor
from sdd_fast.export import export_edit, load_torchscript, write
from sdd_fast.manipulator import MapperInfo
from sdd_fast.models import Encoder, LevelsMapper, StyleGAN2, StyleSpaceMapper
from sdd_fast.models.psp import PyramidEncoder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

HAIR = MapperInfo("white hair", 0.3, ("coarse", "medium"), (800, 850), "faces64")
OLD = MapperInfo("old", 0.5, (), (500,), "mine")


@pytest.fixture(scope="module")
def editor() -> Editor:
    """32 pixels, noise and clamps at work, a mapper of W+ and one of styles."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGAN2(
            32, w_dim=12, z_dim=12, n_mlp=1, channel_base=256, channel_max=8, conv_clamp=4.0,
            resample_filter=(1, 2, 3, 4), content_rows=(4, 28),
        )  # fmt: skip
        for name, parameter in generator.named_parameters():
            if "noise" in name or "bias" in name:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
        encoder = Encoder(
            32, generator.num_layers, 12, channel_base=256, channel_max=8, head_channels=2
        )
        levels = LevelsMapper(
            generator.num_layers, 12, ["coarse", "medium"], depth=2, zero_init=False
        )
        styles = StyleSpaceMapper(generator.style_dims, depth=1, zero_init=False)
    return Editor(generator, [(levels, HAIR), (styles, OLD)], encoder)


def images(count: int, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(7)) * 2 - 1


STRENGTHS = torch.tensor([[1.0, 0.5], [-1.5, 0.0], [2.0, 1.0], [0.0, -1.0], [0.7, 0.2]])


def edited_one_by_one(editor: Editor, count: int, levels: list[list[str]] | None = None) -> Tensor:
    """Five numbers of images are never tried by the export itself."""
    return torch.cat(
        [
            editor.edit(images(count)[i : i + 1], STRENGTHS[i].tolist(), levels and levels[i])
            for i in range(count)
        ]
    )


def onnx_session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


# --- the editor -----------------------------------------------------------------------------------


def test_torchscript_of_an_editor_runs_without_this_package(editor: Editor, tmp_path: Path) -> None:
    done = export_edit(editor, tmp_path / "editor.pt", part="editor")
    files = {"sdd.json": ""}
    module = torch.jit.load(str(tmp_path / "editor.pt"), _extra_files=files)
    difference = module(images(5), STRENGTHS) - edited_one_by_one(editor, 5)
    assert difference.abs().max() < 1e-4 and done.difference < 1e-4 < done.tolerance
    graph = str(module.inlined_graph)
    assert "sdd_fast::" not in graph  # an op of this package
    assert 'value="cpu"' not in graph  # which would tie it to this device
    about = json.loads(files["sdd.json"])
    assert about == done.about and about["format"] == "sdd_fast editor"
    assert [edit["prompt"] for edit in about["edits"]] == ["white hair", "old"]
    assert about["edits"][0]["lam"] == 0.3 and about["edits"][1]["timesteps"] == [500]
    assert about["inputs"][0]["shape"] == ["batch", 3, 32, 32]
    assert about["outputs"][0]["shape"] == ["batch", 3, 24, 32]
    assert "Apache-2.0" in about["license"] and "'mine', whose licenses apply" in about["license"]
    assert [path.name for path in tmp_path.iterdir()] == ["editor.pt"]


def test_onnx_of_an_editor_with_levels_as_an_input(editor: Editor, tmp_path: Path) -> None:
    done = export_edit(
        editor, tmp_path / "e.onnx", part="editor", levels_as_input=True, license="ask me"
    )
    session = onnx_session(tmp_path / "e.onnx")
    assert [one.name for one in session.get_inputs()] == ["images", "strengths", "levels"]
    on = np.array([[1, 1, 1], [0, 1, 0], [1, 0, 1]], np.float32)
    named = [["coarse", "medium", "fine"], ["medium"], ["coarse", "fine"]]
    given = {"images": images(3).numpy(), "strengths": STRENGTHS[:3].numpy(), "levels": on}
    got = torch.from_numpy(session.run(["edited"], given)[0])
    assert (got - edited_one_by_one(editor, 3, named)).abs().max() < 1e-4
    assert {node.domain for node in _model(tmp_path / "e.onnx").graph.node} == {""}
    about = json.loads(session.get_modelmeta().custom_metadata_map["sdd.json"])
    assert about == done.about and about["license"] == "ask me" and about["levels"] == "an input"


def _model(path: Path) -> Any:
    import onnx

    return onnx.load(path)


def test_an_exported_program_loads_by_torch_alone(editor: Editor, tmp_path: Path) -> None:
    export_edit(editor, tmp_path / "e.pt2", part="renderer", levels=["medium"])
    files = {"sdd.json": ""}
    program = torch.export.load(tmp_path / "e.pt2", extra_files=files)
    assert {str(node.target).split(".")[0] for node in program.graph.nodes
            if node.op == "call_function"} <= {"aten", "<built-in function getitem>"}  # fmt: skip
    w_plus = torch.randn(5, 8, 12, generator=torch.Generator().manual_seed(0))
    expected = torch.cat(
        [editor.edit(w_plus[i : i + 1], STRENGTHS[i].tolist(), ["medium"]) for i in range(5)]
    )
    assert (program.module()(w_plus, STRENGTHS) - expected).abs().max() < 1e-4
    assert json.loads(files["sdd.json"])["levels"] == ["medium"]


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".pt"])
def test_latents_of_zeros_are_rendered_as_in_python(
    editor: Editor, suffix: str, tmp_path: Path
) -> None:
    """An optimizer that drops 1e-8 divides by zero; the export itself would notice it."""
    path, zeros = tmp_path / f"r{suffix}", torch.zeros(1, 8, 12)
    export_edit(editor, path, part="renderer")
    if suffix == ".onnx":
        given = {"w_plus": zeros.numpy(), "strengths": STRENGTHS[:1].numpy()}
        got = torch.from_numpy(onnx_session(path).run(None, given)[0])
    else:
        program = torch.export.load(path).module() if suffix == ".pt2" else torch.jit.load(path)
        got = program(zeros, STRENGTHS[:1])
    assert (got - editor.edit(zeros, STRENGTHS[0].tolist())).abs().max() < 1e-4


def test_weights_of_an_editor_build_it_again(editor: Editor, tmp_path: Path) -> None:
    done = export_edit(editor, tmp_path / "e.safetensors", part="editor")
    again = Editor.load(tmp_path / "e.safetensors")
    assert done.difference == 0.0 and again.infos == editor.infos
    assert torch.equal(again.edit(images(2), [1, 0.5]), editor.edit(images(2), [1, 0.5]))
    with pytest.raises(ValueError, match="safetensors holds the weights of a mapper or an editor"):
        export_edit(editor, tmp_path / "r.safetensors", part="renderer")
    assert not (tmp_path / "r.safetensors").exists()


def test_encoders_and_a_large_editor_in_small(tmp_path: Path) -> None:
    """The layout of StyleGAN2-1024 with e4e: 18 layers, 1024 pixels, a pyramid; few channels."""
    generator = StyleGAN2(1024, 4, 4, 1, channel_base=2048, channel_max=2)
    for layer in (generator.conv1, *generator.convs):
        layer.noise.weight.data.fill_(0.1)
    encoder = PyramidEncoder(18, 4, units=(1, 1, 1, 1), width=1, squeeze_excitation=False)
    mapper = LevelsMapper(None, 4, pixel_norm="layers", zero_init=False)
    editor = Editor(generator, [(mapper, replace(HAIR, levels=()))], encoder)
    done = export_edit(editor, tmp_path / "e.pt", part="editor")
    assert done.about["inputs"][0]["shape"] == ["batch", 3, 256, 256]
    assert done.about["outputs"][0]["shape"] == ["batch", 3, 1024, 1024]
    weights = sum(p.numel() for m in (generator, encoder, mapper) for p in m.state_dict().values())
    assert 3.9 * weights < (tmp_path / "e.pt").stat().st_size < 4 * weights + 1_000_000


# --- the mapper -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".pt", ".safetensors"])
def test_a_mapper_of_some_levels(editor: Editor, suffix: str, tmp_path: Path) -> None:
    alone = Editor(editor.generator, [(editor.mappers[0], HAIR)])
    path = tmp_path / f"m{suffix}"
    done = export_edit(alone, path, levels=["medium"])
    assert done.part == "mapper" and done.difference <= done.tolerance
    assert done.about["levels"] == ["medium"] and done.about["lam"] == 0.3
    w_plus = torch.randn(5, 8, 12, generator=torch.Generator().manual_seed(1))
    expected = editor.mappers[0](w_plus, ["medium"])
    assert expected[:, 4:].abs().min() > 0
    if suffix == ".onnx":
        got = torch.from_numpy(onnx_session(path).run(None, {"w_plus": w_plus.numpy()})[0])
    elif suffix == ".pt2":
        got = torch.export.load(path).module()(w_plus)
    elif suffix == ".pt":
        got = load_torchscript(path)[0](w_plus)
    else:
        got = LevelsMapper.load(path)(w_plus)
    assert (got - expected).abs().max() < 1e-5


def test_a_mapper_of_styles_as_onnx(editor: Editor, tmp_path: Path) -> None:
    alone = Editor(editor.generator, [(editor.mappers[1], OLD)])
    export_edit(alone, tmp_path / "m.onnx")
    styles = editor.generator.style_vectors(torch.randn(4, 8, 12))
    given = {f"style_{i}": style.detach().numpy() for i, style in enumerate(styles)}
    got = onnx_session(tmp_path / "m.onnx").run(None, given)
    for one, expected in zip(got, editor.mappers[1](styles), strict=True):
        assert (torch.from_numpy(one) - expected).abs().max() < 1e-5


@pytest.mark.skipif(sys.platform != "linux", reason="compiles with g++")
def test_aoti_compiles_for_this_machine(
    editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    quick = {"compile_threads": 1, "cpp_cache_precompile_headers": False,
             "aot_inductor.precompile_headers": False}  # fmt: skip
    alone = Editor(editor.generator, [(editor.mappers[0], HAIR)])
    with torch._inductor.config.patch(quick):  # one compilation, for which nothing is prepared
        done = export_edit(alone, tmp_path / "m.pt2", format="aoti")
    module = torch._inductor.aoti_load_package(str(tmp_path / "m.pt2"))
    w_plus = torch.randn(5, 8, 12, generator=torch.Generator().manual_seed(1))
    assert (module(w_plus) - editor.mappers[0](w_plus)).abs().max() < 1e-5
    assert json.loads(module.get_metadata()["sdd.json"]) == done.about


# --- refusals -------------------------------------------------------------------------------------


def test_aoti_without_a_compiler_says_what_to_install(
    editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    with pytest.raises(ValueError, match=r"there is no C\+\+ compiler here: install g\+\+"):
        export_edit(editor, tmp_path / "e.pt2", part="editor", format="aoti")
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_package_says_what_to_install(
    editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sdd_fast\[onnx\]'") as caught:
        export_edit(editor, tmp_path / "e.onnx", part="editor")
    assert caught.value.name is None and not list(tmp_path.iterdir())


def test_an_editor_beyond_what_onnx_holds_is_refused_before_any_work(
    editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdd_fast.export.formats._ONNX_MOST", 1000)
    monkeypatch.delattr("torch.onnx.export")
    with pytest.raises(ValueError, match=r"holds at most 2\.1 GB, and this editor has 0\.0 GB .*"
                       r"export the halves encoder and renderer, fewer"):  # fmt: skip
        export_edit(editor, tmp_path / "e.onnx", part="editor")
    assert not list(tmp_path.iterdir())


class Drifting(nn.Module):
    """A generator whose images depend on how often it was called."""

    num_layers, w_dim, image_size = 1, 4, (2, 2)

    def __init__(self, drift: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 12))
        self.calls, self.drift = 0, drift

    def synthesis(self, w_plus: Tensor) -> Tensor:
        self.calls += 1
        return (w_plus[:, 0] @ self.scale * 0.01 + self.calls * self.drift).view(-1, 3, 2, 2)


@pytest.mark.parametrize("drift", [0.0, 0.01, float("nan")])
def test_a_file_that_computes_something_else_is_not_kept(drift: float, tmp_path: Path) -> None:
    mapper = LevelsMapper(1, 4, ["coarse"], zero_init=False)
    editor = Editor(Drifting(drift), [(mapper, replace(HAIR, levels=("coarse",)))])
    path = tmp_path / "r.pt"
    path.write_text("an earlier one")
    if drift == 0.0:
        assert export_edit(editor, path, part="renderer", overwrite=True).difference < 1e-6
        return
    with pytest.raises(ValueError, match=r"r\.pt was not kept: .* differs .* 1.0e-03 is allowed"):
        export_edit(editor, path, part="renderer", overwrite=True)
    assert path.read_text() == "an earlier one" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("e.pth", {}, r"'e.pth' must end in one of: .pt \(torchscript\), .onnx"),
        ("e.pt", {"format": "onnx"}, "must end in one of for the format 'onnx'"),
        ("e.pt", {"part": "teacher"}, "part must be one of editor, mapper"),
        ("e.pt", {}, "a mapper is of one edit, and 2 were given"),
        ("e.pt", {"part": "editor", "levels": ["hair"]}, "level must be one of"),
        ("e.pt", {"part": "encoder", "levels": ["fine"]}, "an encoder has no levels"),
        ("e.pt", {"levels_as_input": True}, "not of the mapper"),
        (
            "e.pt",
            {"part": "editor", "levels": ["fine"], "levels_as_input": True},
            "either fixed or an input",
        ),
    ],
)
def test_wrong_requests(
    editor: Editor, name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        export_edit(editor, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named(editor: Editor, tmp_path: Path) -> None:
    no_encoder = Editor(editor.generator, [(editor.mappers[0], HAIR)])
    with pytest.raises(ValueError, match="the editor needs an encoder, and this domain has none"):
        export_edit(no_encoder, tmp_path / "e.pt", part="editor")
    foreign = LevelsMapper(None, 12, zero_init=False)
    some = Editor(editor.generator, [(foreign, replace(HAIR, levels=()))])
    assert export_edit(some, tmp_path / "m.pt").difference == 0.0
    with pytest.raises(ValueError, match="does not tell for how many layers of W"):
        export_edit(some, tmp_path / "m.pt2")
    with pytest.raises(FileExistsError, match=r"m\.pt would be replaced"):
        export_edit(some, tmp_path / "m.pt")
    assert write.IMAGE_TOLERANCE == 1e-3
