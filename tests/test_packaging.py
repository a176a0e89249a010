"""What others package by: it parses, agrees with pyproject.toml, and names files that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import sdd_fast

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib")

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_citation_has_what_the_format_asks_for() -> None:
    citation = read_yaml("CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert {"message", "title", "authors", "version", "license"} <= set(citation)
    assert citation["version"] == sdd_fast.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    paper = citation["preferred-citation"]
    assert paper["type"] == "conference-paper" and paper["year"] == 2023
    assert {"title", "authors", "conference", "collection-title"} <= set(paper)
    assert [author["family-names"] for author in paper["authors"]] == [
        "Wang", "Yang", "Liu", "Chen",
    ]  # fmt: skip


def test_readme_cites_the_paper_of_the_citation_file() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    paper = read_yaml("CITATION.cff")["preferred-citation"]
    assert paper["title"].strip() in readme
    for author in paper["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in readme


def test_conda_recipe_has_version_and_dependencies_of_the_project() -> None:
    recipe = read_yaml("recipe/recipe.yaml")
    assert recipe["context"]["version"] == sdd_fast.__version__
    assert (ROOT / "recipe" / recipe["source"]["path"]).resolve() == ROOT
    assert (ROOT / recipe["about"]["license_file"]).is_file()
    wanted = {f"python {PROJECT['project']['requires-python']}"}
    for dependency in PROJECT["project"]["dependencies"]:
        name, bound = re.split(r"(?=>=)", dependency)
        wanted.add(f"{CONDA_NAMES.get(name, name)} {bound}")
    assert set(recipe["requirements"]["run"]) == wanted


def test_dockerfile_copies_what_exists_and_what_the_builder_is_sent() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.M)
    assert {"cpu", "gpu"} <= {name for _, name in stages}
    named = {name for _, name in stages}
    for line in re.findall(r"^COPY (.+)$", text, re.M):
        *sources, target = line.split()
        assert target.startswith("/")
        if sources[0].startswith("--from="):
            assert sources.pop(0).removeprefix("--from=") in named
            continue
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, f"{source} is not sent to the builder"
    assert all(":" in image or image in named for image, _ in stages), "an image without a version"
    version = re.search(r"^CPU_TORCH := torch==(.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert version and f"ARG TORCH={version[1]}\n" in text


def test_cibuildwheel_builds_one_stable_wheel_against_the_oldest_torch() -> None:
    wheels = PROJECT["tool"]["cibuildwheel"]
    assert wheels["build"] == "cp310-*" and "*-win*" in wheels["skip"]
    (oldest,) = (d for d in PROJECT["project"]["dependencies"] if d.startswith("torch"))
    assert f"torch=={oldest.removeprefix('torch>=')}.0" in wheels["before-build"]
    for requirement in PROJECT["build-system"]["requires"]:
        assert requirement in wheels["before-build"]
    for path in re.findall(r"\{project\}/(\S+)", " ".join(wheels["test-command"])):
        assert (ROOT / path).exists(), path


def test_workflow_builds_every_platform_and_publishes_tags_alone() -> None:
    workflow = read_yaml(".github/workflows/wheels.yml")
    jobs = workflow["jobs"]
    archs = {row["archs"] for row in jobs["native"]["strategy"]["matrix"]["include"]}
    assert archs == {"x86_64", "aarch64", "arm64"} and "windows" in jobs
    assert set(jobs["publish"]["needs"]) == set(jobs) - {"publish"}
    assert "refs/tags/v" in jobs["publish"]["if"]
    assert workflow["permissions"] == {"contents": "read"}
    text = (ROOT / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8")
    for path in re.findall(r"python (tools/\S+)", text):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_issue_templates_are_forms(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert form["blank_issues_enabled"] is True
        return
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids)) and any(f["validations"]["required"] for f in fields[:1])
    assert all(field["attributes"]["label"] for field in fields)


def test_release_checklist_says_what_has_not_run() -> None:
    text = (ROOT / "docs" / "releasing.md").read_text(encoding="utf-8")
    for name in (".github/workflows/wheels.yml", "docker build", "rattler-build"):
        assert name in text
    assert "*not run*" in text


def test_source_archive_has_what_a_build_needs_and_no_leftovers(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    environment = {**os.environ, "SDD_FAST_NATIVE": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (listed,) = tmp_path.glob("*.egg-info/SOURCES.txt")
    names = set(listed.read_text(encoding="utf-8").splitlines())
    needed = {"setup.py", "pyproject.toml", "CMakeLists.txt", "LICENSE", "CITATION.cff"}
    assert needed <= names and {"csrc/library.cpp", "sdd_fast/py.typed"} <= names
    assert "sdd_fast/domains/faces64/weights/generator.safetensors" in names
    leftovers = [n for n in names if re.search(r"\.(so|pyc)$|_native_build|^(build|docs/gen)", n)]
    assert leftovers == []


def test_the_page_of_installation_lists_every_extra() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(listed) == sorted(PROJECT["project"]["optional-dependencies"])
