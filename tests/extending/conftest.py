"""The files of examples/ in a user's own package."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def write_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return a function that copies an example to `mine.<name>`, and returns its source."""

    def write(name: str) -> str:
        source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        for module in ("mine", f"mine.{name}"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        return source

    return write
