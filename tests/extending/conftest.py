"""The README's toys as files of a user's own package."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def write_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return a function that makes `mine.<name>` importable as the README prints it, and returns its source."""

    def write(name: str) -> str:
        text = README.read_text(encoding="utf-8")
        source = re.search(rf"```python\n(# mine/{name}\.py\n.*?)```", text, re.DOTALL)
        assert source is not None
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / f"{name}.py").write_text(source[1], encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        for module in ("mine", f"mine.{name}"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        return source[1]

    return write
