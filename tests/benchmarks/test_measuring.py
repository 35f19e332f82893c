"""Steps that take turns: their order, their clock, and the ratios of neighbors."""

from pathlib import Path

import pytest
import torch

import benchmarks
from benchmarks.measuring import alternate, one_thread, quartiles, ratios

CPU = torch.device("cpu")


def test_the_two_take_turns_and_swap_who_is_first() -> None:
    order: list[str] = []
    times = alternate({"vitlab": lambda: order.append("v"), "timm": lambda: order.append("t")}, 4, CPU)
    assert order in (list("tvvttvvttvvt"), list("vttvvttvvttv"))
    assert {whose: len(values) for whose, values in times.items()} == {"vitlab": 4, "timm": 4}


def test_ratios_are_of_neighbors() -> None:
    # Twice as fast throughout, while the machine slows down tenfold: a ratio of two medians would not know.
    assert ratios([1.0, 1.0, 10.0, 10.0], [2.0, 2.0, 20.0, 20.0]) == (0.5, 0.5, 0.5)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_one_thread_ends_with_as_many_as_before() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_the_readme_has_every_script() -> None:
    folder = Path(benchmarks.__file__).parent
    readme = (folder / "README.md").read_text()
    scripts = [path.stem for path in folder.glob("*.py") if '__name__ == "__main__"' in path.read_text()]
    assert len(scripts) > 10
    assert [name for name in scripts if f"python -m benchmarks.{name}" not in readme] == []
