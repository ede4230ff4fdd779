"""A home directory of its own for every test that asks for one; the environment is put back afterwards.

Shapes and types in `models` can be checked: the hook must be there before anything imports them.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

from data_contracts.settings import get_settings, use_home

os.environ["OMP_NUM_THREADS"] = "1"  # libraries read it when they load; each core has a worker of its own
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"  # an int is a float
jaxtyping.install_import_hook("models", CHECKER)


@pytest.fixture(autouse=True, scope="module")
def _check_shapes(request: pytest.FixtureRequest) -> None:
    """Check them where the maths is tested, unless it is called so often that this would double the time."""
    is_loop = request.node.get_closest_marker("loop") is not None
    jaxtyping.config.update("jaxtyping_disable", is_loop or "models" not in request.path.parts)


@pytest.fixture
def environment() -> Iterator[None]:
    """Whatever a test does to the environment ends with it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    get_settings.cache_clear()


@pytest.fixture
def home(tmp_path: Path, environment: None) -> Path:
    """A fresh home that is the home of this process."""
    os.environ["METAFUSE_THREADS"] = "1"
    return use_home(tmp_path / "home").home


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without content; making its tables takes seconds, copying it none."""
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    engine = create_sqlalchemy_engine(f"sqlite:///{path}")
    _initialize_tables(engine)
    engine.dispose()
    return path


@pytest.fixture
def tracked_home(home: Path, empty_mlflow: Path) -> Path:
    """A fresh home with an MLflow database in it."""
    shutil.copy(empty_mlflow, home / "mlflow.db")
    return home


@pytest.fixture(scope="module")
def short_fits() -> Iterator[None]:
    """Fits take few rounds, and learners are calibrated on few episodes, at few shots, with views hidden at one rate.

    Tests of what all of them are good for put them back: those here are imported before they change.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.metric.network.STEPS", 10)
        patch.setattr("models.metric.transductive.MOST_ITERATIONS", 30)
        patch.setattr("models.metric.fine_tuning.STEPS", 10)
        patch.setattr("models.training.CALIBRATION_EPISODES", 6)
        patch.setattr("models.training.CALIBRATION_SHOTS", (1,))  # beside those that are trained with
        patch.setattr("models.training.HIDDEN_RATES", (0.5,))
        yield
