"""A home with a champion, which takes seconds to make and is made once a process: tests get copies."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest
from learning_lake import add_domain

from data_contracts.configs import AdaptConfig, MetaTrainConfig, TrainConfig
from data_contracts.settings import get_settings, use_home
from tasks.adapt import adapt_to_domain
from tasks.lake import Lake, open_lake
from tasks.train import meta_train_prior

UNTRAINED = MetaTrainConfig(
    domains=("one",), learners=("metric",), train=TrainConfig(steps=0, n_way=2, shots=(1,), n_query=3)
)


@pytest.fixture(scope="session")
def home_with_champion(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """A home with the domains one and two, a prior of the first, and a model of the second, adapted among 96 items."""
    with patch.dict(os.environ):
        os.environ["METAFUSE_THREADS"] = "1"
        home = use_home(tmp_path_factory.mktemp("champion") / "home").home
        shutil.copy(empty_mlflow, home / "mlflow.db")
        lake = open_lake()
        add_domain(lake, "one", seed=1)
        add_domain(lake, "two", per_class=12, seed=2)
        meta_train_prior(lake, UNTRAINED)
        adapt_to_domain(lake, "two", AdaptConfig(shots=3))
    get_settings.cache_clear()
    return home


@pytest.fixture
def adapted(home_with_champion: Path, home: Path) -> Lake:
    """The lake of a copy of that home."""
    shutil.copytree(home_with_champion, home, dirs_exist_ok=True)
    tell_mlflow(home / "mlflow.db", str(home_with_champion), str(home))
    return open_lake()


def tell_mlflow(database: Path, before: str, now: str) -> None:
    """Replace one folder by another wherever MLflow has written down where artifacts are."""
    with closing(sqlite3.connect(database)) as connection, connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for _, column, kind, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
                if "CHAR" in kind or kind == "TEXT":
                    connection.execute(f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?)', (before, now))
