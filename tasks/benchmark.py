"""Compare learners on unseen domains and unseen classes, and keep the numbers in MLflow."""

import time
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from data_contracts.configs import BenchmarkConfig
from data_contracts.reports import BenchmarkReport
from models.catalogue import named_learners
from models.evaluation import run_comparison
from tasks import progress
from tasks.comparisons import log_comparison
from tasks.features import load_domain
from tasks.lake import Lake, open_lake
from tasks.lineage import lineage_tags
from tasks.retries import is_transient
from tasks.side_by_side import learn_side_by_side
from tasks.tracking import tracked_run
from tasks.train_learner import single_thread


@task(name="benchmark", retries=1, retry_delay_seconds=10, retry_condition_fn=is_transient, cache_policy=NO_CACHE)
def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Compare learners on domains in the lake of this home."""
    return run_benchmark(open_lake(), config).model_dump(mode="json")


def run_benchmark(lake: Lake, config: BenchmarkConfig) -> BenchmarkReport:
    """Train and test learners as `config` says, and log how they compare to MLflow.

    Raises:
        UnknownDomain: a domain in `config` is not in the lake.
        EpisodeTooSmall: too few classes are left to train or test on.
        ModelError: there is no such learner.
    """
    started = time.perf_counter()
    config = config.model_copy(update={"learners": named_learners(config.learners)})
    domains = {name: load_domain(lake, name) for name in dict.fromkeys((*config.train, *config.test))}
    name = f"{len(config.learners)} learners on {', '.join(config.test)}"
    with tracked_run("benchmark", name, config.model_dump(mode="json"), lineage_tags(domains.values())) as run:
        with single_thread():
            comparison = run_comparison(config, domains, progress.report, learn_side_by_side)
        board = log_comparison(run, "benchmark", comparison, config.learners)
    return BenchmarkReport(
        protocol=config, rows=comparison.rows, leaderboard=board, seconds=time.perf_counter() - started
    )
