"""Say what the other domains are worth to each domain."""

from typing import Any

from prefect import flow

from data_contracts.configs import TransferConfig
from tasks.leaderboards import publish_transfer
from tasks.transfer import report_transfer

DEFAULT = TransferConfig()


@flow(name="transfer-report")
def transfer_report(config: TransferConfig = DEFAULT) -> dict[str, Any]:
    """Leave one domain after the other out of training and raise an alarm where the rest harm it.

    Returns a `TransferReport`. Safe to run again: it registers nothing, and the rows follow from data and config alone.
    """
    report = report_transfer(config)
    publish_transfer(report)
    return report
