"""The faults of tests/mutants.py fit the code as it is now."""

from tests.mutants import MUTANTS, ROOT


def test_every_fault_has_its_place_once() -> None:
    counts = {mutant.name: (ROOT / mutant.file).read_text().count(mutant.old) for mutant in MUTANTS}
    assert len(counts) == len(MUTANTS) >= 30
    assert {name: count for name, count in counts.items() if count != 1} == {}
    assert [m.name for m in MUTANTS if not all((ROOT / test).exists() for test in m.tests.split())] == []
