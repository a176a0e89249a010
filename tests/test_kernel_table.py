"""What `make kernel-table` wrote is compiled again only where it may have changed."""

from __future__ import annotations

from pathlib import Path

import kernel_table
import pytest


def test_a_table_of_the_same_sources_is_not_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Compiled(Exception):
        pass

    def compiles(*_: object) -> None:
        raise Compiled

    table = tmp_path / "kernel-table.md"
    text = kernel_table.sealed(kernel_table.HEAD.format(nvcc="nvcc 13.0") + "| `a` | 40, 50% |\n")
    monkeypatch.setattr(kernel_table, "TABLE", table)
    monkeypatch.setattr(kernel_table, "kernels_of", compiles)
    monkeypatch.setattr(kernel_table, "version", lambda _: "nvcc 13.0")
    monkeypatch.setattr(kernel_table.shutil, "which", lambda _: "nvcc")
    monkeypatch.setattr("sys.argv", ["kernel_table.py", "--check"])

    table.write_text(text, encoding="utf-8")
    kernel_table.main()
    assert "from these sources by this nvcc" in capsys.readouterr().out
    for other in (text.replace("40,", "41,"), text.partition("<!--")[0]):
        table.write_text(other, encoding="utf-8")
        with pytest.raises(Compiled):
            kernel_table.main()
    table.write_text(text, encoding="utf-8")
    for name, value in (("version", "nvcc 13.1"), ("sources_digest", "other")):
        with monkeypatch.context() as patch, pytest.raises(Compiled):
            patch.setattr(kernel_table, name, lambda *_, value=value: value)
            kernel_table.main()
