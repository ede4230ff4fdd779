"""Say whether domains have drifted away from their models."""

from typing import Any

from prefect import flow

from data_contracts.configs import DriftConfig
from tasks.drift import watch
from tasks.events import deliver
from tasks.leaderboards import publish_drift

DEFAULT = DriftConfig()


@flow(name="watch-drift")
def watch_drift(domain: str | None = None, config: DriftConfig = DEFAULT) -> dict[str, Any]:
    """Compare recent items with those the champion was adapted among, and announce drift, which adapts again.

    `domain` None: every one that has a champion. Returns a `DriftReport`; the rows are in the table `drift`. Safe to
    run again: the same items are compared and announced once.
    """
    report = watch(domain, config)
    publish_drift(report)
    deliver()
    return report
