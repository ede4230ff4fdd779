"""Homes with a prior or a champion, which take seconds to make and are made once a process: tests get copies."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from learning_lake import UNTRAINED, add_domain, copied

from data_contracts.configs import AdaptConfig
from data_contracts.settings import get_settings, use_home
from tasks.adapt import adapt_to_domain
from tasks.lake import Lake, open_lake
from tasks.train import meta_train_prior

Fill = Callable[[Lake], None]


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Callable[[Fill], Path]:
    """A function that makes a home and fills its lake."""

    def make(fill: Fill) -> Path:
        with patch.dict(os.environ):
            os.environ["METAFUSE_THREADS"] = "1"
            home = use_home(tmp_path_factory.mktemp("made") / "home").home
            shutil.copy(empty_mlflow, home / "mlflow.db")
            fill(open_lake())
        get_settings.cache_clear()
        return home

    return make


@pytest.fixture(scope="session")
def home_with_prior(made_home: Callable[[Fill], Path]) -> Path:
    """A home with the domains one and two, the classes of two being close together, and a prior of one."""

    def fill(lake: Lake) -> None:
        add_domain(lake, "one", seed=1)
        add_domain(lake, "two", per_class=12, spread=1.0, seed=2)
        meta_train_prior(lake, UNTRAINED)

    return made_home(fill)


@pytest.fixture(scope="session")
def home_with_champion(made_home: Callable[[Fill], Path]) -> Path:
    """A home with the domains one and two, a prior of the first, and a model of the second, adapted among 96 items."""

    def fill(lake: Lake) -> None:
        add_domain(lake, "one", seed=1)
        add_domain(lake, "two", per_class=12, seed=2)
        meta_train_prior(lake, UNTRAINED)
        adapt_to_domain(lake, "two", AdaptConfig(shots=3))

    return made_home(fill)


@pytest.fixture
def primed(home_with_prior: Path, home: Path) -> Lake:
    """The lake of a copy of the home with a prior."""
    return copied(home_with_prior, home)


@pytest.fixture
def adapted(home_with_champion: Path, home: Path) -> Lake:
    """The lake of a copy of the home with a champion."""
    return copied(home_with_champion, home)
