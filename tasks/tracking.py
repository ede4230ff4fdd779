"""MLflow runs: one per training, adaptation or benchmark, with its whole config, its numbers and its figures.

The only module, with `tasks.registry`, that speaks to MLflow. Its errors are translated here, at the edge.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from data_contracts.errors import ServiceUnavailable, UnknownModel
from data_contracts.settings import get_settings
from tasks.moved_home import follow_home

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

BATCH = 1000
"""Most metrics MLflow takes in one call."""

_MISSING = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


def connect() -> "MlflowClient":
    """Point MLflow at the configured store and return a client of it."""
    import mlflow

    settings = get_settings()
    if settings.mlflow.startswith("sqlite"):
        settings.home.mkdir(parents=True, exist_ok=True)
    if settings.mlflow_uri is None:
        follow_home(settings.mlflow_database, settings.mlflow_artifacts)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    with translated_errors("the MLflow store"):
        mlflow.set_tracking_uri(settings.mlflow)
        mlflow.set_registry_uri(settings.mlflow)
        return mlflow.MlflowClient()


@contextmanager
def translated_errors(subject: str) -> Iterator[None]:
    """Turn MLflow's errors into ours; `subject` is what was asked for.

    Raises:
        UnknownModel: MLflow has no such thing.
        ServiceUnavailable: MLflow did not answer, or its store failed.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as exc:
        uri = get_settings().mlflow
        if exc.error_code in _MISSING:
            raise UnknownModel(
                f"MLflow at {uri} has no {subject}: {_first_line(exc)}. "
                "Train or adapt first, or ask for another version or alias.",
                subject=subject,
            ) from exc
        raise ServiceUnavailable(
            f"MLflow at {uri} could not answer for {subject}: {_first_line(exc)}. "
            "Check that the server runs (`metafuse doctor`) and try again.",
            subject=subject,
            uri=uri,
        ) from exc


class RunLog:
    """What may be written to one open MLflow run; numbers are buffered and sent when the run ends."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self.client = client
        self.run_id = run_id
        self._metrics: list[tuple[str, float, int]] = []

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Note numbers at a step."""
        self._metrics.extend((name, float(value), step) for name, value in values.items())

    def figure(self, name: str, figure: "Figure") -> None:
        """Store a plot under `figures/`."""
        self.client.log_figure(self.run_id, figure, f"figures/{name}.png")

    def text(self, name: str, content: str) -> None:
        """Store a text file."""
        self.client.log_text(self.run_id, content, name)

    def document(self, name: str, content: Mapping[str, Any]) -> None:
        """Store a JSON document."""
        self.client.log_dict(self.run_id, dict(content), name)

    def flush(self) -> None:
        """Send the numbers noted so far."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        sent = [Metric(name, value, now, step) for name, value, step in self._metrics]
        for start in range(0, len(sent), BATCH):
            self.client.log_batch(self.run_id, metrics=sent[start : start + BATCH])
        self._metrics.clear()


@contextmanager
def tracked_run(kind: str, name: str, config: Mapping[str, Any], tags: Mapping[str, str]) -> Iterator[RunLog]:
    """Open a run `name` in the experiment `metafuse/<kind>`; it is marked failed if the body raises.

    Within the body of another it is a run below that one.
    """
    import mlflow

    client = connect()
    with translated_errors(f"experiment metafuse/{kind}"):
        experiment = find_experiment(client, f"metafuse/{kind}")
        run = mlflow.start_run(experiment_id=experiment, run_name=name, tags=dict(tags), nested=True)
    with run:
        log = RunLog(client, run.info.run_id)
        with translated_errors(f"run {name}"):
            mlflow.log_params(dict(_flat(config)))
        yield log
        with translated_errors(f"run {name}"):
            log.flush()


def past_run(kind: str, name: str, config: Mapping[str, Any], tags: Mapping[str, str], *, lasted_s: float) -> RunLog:
    """Return a run of something that took so long and is over now, below the open run; numbers are sent by `flush`."""
    import mlflow
    from mlflow.entities import Param
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    client, above = connect(), mlflow.active_run()
    parent = {} if above is None else {MLFLOW_PARENT_RUN_ID: above.info.run_id}
    ended = int(1000 * time.time())
    with translated_errors(f"run {name}"):
        experiment = find_experiment(client, f"metafuse/{kind}")
        run = client.create_run(experiment, ended - int(1000 * lasted_s), {**tags, **parent}, name)
        client.log_batch(run.info.run_id, params=[Param(*entry) for entry in _flat(config)])
        client.set_terminated(run.info.run_id, end_time=ended)
    return RunLog(client, run.info.run_id)


def find_experiment(client: "MlflowClient", name: str) -> str:
    """Return the id of an experiment, making it if need be; its files lie in the home unless a server holds them."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    settings = get_settings()
    own = None if settings.mlflow.startswith("http") else settings.mlflow_artifacts
    try:
        return str(client.create_experiment(name, artifact_location=own))
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return str(client.get_experiment_by_name(name).experiment_id)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested config as `train.steps = 400`; MLflow cuts a value at 6,000 characters."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            listed = isinstance(value, Sequence) and not isinstance(value, str)
            yield f"{prefix}{name}", (",".join(map(str, value)) if listed else str(value))[:6000]


def _first_line(exc: Exception) -> str:
    return str(exc).strip().splitlines()[0].rstrip(".")
