"""Adapt the champion prior to one domain."""

from typing import Any

from prefect import flow

from data_contracts.configs import AdaptConfig
from tasks.adapt import adapt
from tasks.leaderboards import publish_adaptation
from tasks.run_tags import tagged

DEFAULT = AdaptConfig()


@flow(name="adapt-domain", flow_run_name="adapt-{domain}")
def adapt_domain(domain: str, config: AdaptConfig = DEFAULT) -> dict[str, Any]:
    """Adapt to `domain` and promote the model only if it beats the one that serves today.

    Returns an `AdaptOutcome`. Safe to run again, also many times at once: the same labels and prior yield one version.
    """
    with tagged(f"domain:{domain}"):
        outcome = adapt(domain, config)
        publish_adaptation(outcome)
    return outcome
