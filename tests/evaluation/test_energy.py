from pathlib import Path

import pytest
import torch

from vitlab.evaluation.cost import Rapl, meter_for


def package(root: Path, index: int, microjoules: int, kind: str = "package") -> Path:
    """Write what Linux shows of a processor package's counter, and of a part of it that must not count twice."""
    for name in (f"intel-rapl:{index}", f"intel-rapl:{index}:0"):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "max_energy_range_uj").write_text("1000000\n")
        (root / name / "energy_uj").write_text(f"{microjoules}\n")
        (root / name / "name").write_text(f"{kind}-{index}\n")
    return root / f"intel-rapl:{index}" / "energy_uj"


def test_packages_add_up_and_an_overflow_is_no_step_back(tmp_path: Path) -> None:
    first, second = package(tmp_path, 0, 100_000), package(tmp_path, 1, 900_000)
    package(tmp_path, 2, 0, "psys")  # the platform, whose energy includes the packages'
    meter = Rapl(tmp_path)
    assert meter.joules() == 0
    first.write_text("300000\n")
    second.write_text("200000\n")  # past its range of 1 J
    assert meter.joules() == pytest.approx(0.2 + 0.3)


def test_a_machine_without_counters_has_no_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="no energy counter"):
        Rapl(tmp_path)
    monkeypatch.setattr("vitlab.evaluation.cost.Rapl.__init__.__defaults__", (tmp_path,))
    assert meter_for(torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_uses_energy() -> None:
    meter = meter_for(torch.device("cuda"))
    if meter is None:
        pytest.skip("this GPU has no energy counter")
    before = meter.joules()
    x = torch.randn(8192, 8192, device="cuda")
    for _ in range(50):
        x @ x
    torch.cuda.synchronize()
    assert meter.joules() > before
