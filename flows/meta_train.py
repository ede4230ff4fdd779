"""Train a prior over all domains."""

from datetime import UTC, datetime
from typing import Any

from prefect import flow

from data_contracts.configs import MetaTrainConfig
from tasks.leaderboards import publish_prior
from tasks.train import train_prior

DEFAULT = MetaTrainConfig()


def run_name() -> str:
    """Return the name of a run that starts now."""
    return f"meta-train-{datetime.now(UTC):%Y-%m-%d-%H%M}"


@flow(name="meta-train", flow_run_name=run_name)
def meta_train(config: MetaTrainConfig = DEFAULT) -> dict[str, Any]:
    """Train a prior and make it champion unless it is clearly worse than the one that is.

    Returns a `TrainReport`. Safe to run again: the same data and config yield the version registered already.
    """
    report = train_prior(config)
    publish_prior(report)
    return report
