"""Networks start from the same weights in every test, whichever ran before."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)
