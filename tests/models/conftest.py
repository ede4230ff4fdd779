"""One thread for every test of the maths: they are small, and the machine is shared."""

import pytest
import torch
from synthetic import make_domain

from models.catalogue import LEARNERS
from models.features import DomainData


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def toys() -> DomainData:
    """Eight classes of twelve items with three views, a tenth of them missing."""
    return make_domain("toys", missing=0.1)


@pytest.fixture(params=LEARNERS, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    """Every kind of learner there is, one after another: a module may make things once for each."""
    return str(request.param)
