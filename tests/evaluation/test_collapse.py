"""How far features spread, where it is known."""

import pytest
import torch

from vitlab.evaluation.features import rank_me, relative_std


def test_rank_is_the_number_of_dimensions_in_equal_use() -> None:
    assert rank_me(torch.eye(5)[torch.arange(40) % 5]) == pytest.approx(5)
    assert rank_me(torch.ones(40, 8)) == pytest.approx(1, abs=1e-5)
    assert rank_me(torch.zeros(40, 8)) == 1
    # Singular values 3 and 1: exp(−(3/4 ln 3/4 + 1/4 ln 1/4))
    assert rank_me(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(1.7547, abs=1e-4)


def test_std_is_zero_for_one_feature_and_one_for_all_directions() -> None:
    features = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    assert relative_std(features) == pytest.approx(1, abs=0.02)
    assert relative_std(7 * features) == pytest.approx(relative_std(features))  # of length 1, whatever they are
    assert relative_std(torch.ones(40, 8)) == pytest.approx(0, abs=1e-9)
