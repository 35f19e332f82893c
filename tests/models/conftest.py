"""Fixtures that run a test on each architecture."""

from collections.abc import Callable

import pytest
import torch

from tests.models.small_models import SMALL
from vitlab.models import Backbone


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=SMALL)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def small(family: str) -> Callable[..., Backbone]:
    """Build a small model of each family in turn."""
    return SMALL[family]
