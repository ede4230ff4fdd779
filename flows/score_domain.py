"""Label, cluster and check every item of one domain."""

from typing import Any

from prefect import flow

from data_contracts.configs import ScoreConfig
from tasks.leaderboards import publish_scores
from tasks.run_tags import tagged
from tasks.score import score

DEFAULT = ScoreConfig()


@flow(name="score-domain", flow_run_name="score-{domain}")
def score_domain(domain: str, config: ScoreConfig = DEFAULT) -> dict[str, Any]:
    """Score all items of `domain` with its champion, or the next rung of the ladder that can answer.

    Returns a `ScoreReport`; the rows are in the table `predictions`. Safe to run again: nothing is written twice.
    """
    with tagged(f"domain:{domain}"):
        report = score(domain, config)
        publish_scores(report)
    return report
