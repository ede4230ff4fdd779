"""Compare learners on unseen domains and unseen classes."""

from typing import Any

from prefect import flow

from data_contracts.configs import BenchmarkConfig
from tasks.benchmark import benchmark
from tasks.leaderboards import publish_benchmark


@flow(name="benchmark-learners")
def benchmark_learners(config: BenchmarkConfig) -> dict[str, Any]:
    """Train learners on some domains and test them on others, with classes never trained on.

    Returns a `BenchmarkReport`. Safe to run again: nothing is registered, and the same data and config give the same
    rows.
    """
    report = benchmark(config)
    publish_benchmark(report)
    return report
