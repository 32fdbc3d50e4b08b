"""The README's own code runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_python_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 6
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # Embeddings of dictionaries are cached there.
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)  # noqa: S102 - our own README
    assert (tmp_path / "residual-colour" / "model.safetensors").is_file()
    assert (tmp_path / "digits.bases.h5").is_file()


def test_figure_and_table_are_filled_in() -> None:
    text = README.read_text(encoding="utf-8")
    assert re.search(r"<!-- demo table: begin -->\n.*residual.*\n<!-- demo table: end -->", text, flags=re.DOTALL)
    assert (README.parent / "docs" / "demo.png").is_file()
