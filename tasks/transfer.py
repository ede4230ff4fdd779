"""Measure what the other domains are worth to each domain, and keep the numbers in MLflow."""

import time
from collections.abc import Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from data_contracts.configs import MetaTrainConfig, TransferConfig
from data_contracts.reports import TransferReport, TransferRow
from models.catalogue import named_learners
from models.transfer import run_transfer
from tasks import progress
from tasks.contracts import contract_in_force
from tasks.lake import Lake, open_lake
from tasks.lineage import lineage_tags
from tasks.retries import is_transient
from tasks.side_by_side import learn_side_by_side
from tasks.tracking import tracked_run
from tasks.train import load_training_domains
from tasks.train_learner import single_thread


@task(name="report-transfer", retries=1, retry_delay_seconds=10, retry_condition_fn=is_transient, cache_policy=NO_CACHE)
def report_transfer(config: TransferConfig) -> dict[str, Any]:
    """Measure transfer between the domains in the lake of this home."""
    return measure_transfer(open_lake(), config).model_dump(mode="json")


def measure_transfer(lake: Lake, config: TransferConfig) -> TransferReport:
    """Leave one domain after the other out of training, test on it, and log the gains to MLflow.

    Raises:
        UnknownDomain: a domain in `config` is not in the lake, or has no labels.
        EpisodeTooSmall: fewer than two domains have labels, or there are too few classes.
        ModelError: there is no such learner.
    """
    started = time.perf_counter()
    config = config.model_copy(update={"learners": named_learners(config.learners)})
    for name in config.domains:
        contract_in_force(lake, name)
    domains = {data.domain: data for data in load_training_domains(lake, MetaTrainConfig())}
    tags = lineage_tags(domains.values())
    with tracked_run("transfer", f"transfer over {len(domains)} domains", config.model_dump(mode="json"), tags) as run:
        with single_thread():
            rows, skipped = run_transfer(config, domains, progress.report, learn_side_by_side)
        seconds = time.perf_counter() - started
        report = TransferReport(protocol=config, rows=tuple(rows), skipped=skipped, seconds=seconds)
        for row in rows:
            run.metrics(_numbers(row), step=row.shot)
        run.figure("gains", gain_figure(rows))
        run.document("transfer.json", report.model_dump(mode="json"))
    return report


def _numbers(row: TransferRow) -> dict[str, float]:
    """The metrics of a row, by name; their step is the shot."""
    scratch = {
        f"{name}.{metric}": value
        for name, score in row.from_scratch.items()
        for metric, value in score.model_dump().items()
    }
    own = row.model_dump(include={"gain", "gain_ci95", "is_negative", "coverage", "set_size"})
    return {
        f"{row.domain}.{row.learner}.{name}": value for name, value in (row.transferred.model_dump() | own).items()
    } | {f"{row.domain}.{name}": value for name, value in scratch.items()}


def gain_figure(rows: Sequence[TransferRow]) -> Any:
    """Plot the gain of every domain with its 95 % interval, one series for each learner and shot."""
    from matplotlib.figure import Figure

    domains = list(dict.fromkeys(row.domain for row in rows))
    series = list(dict.fromkeys((row.learner, row.shot) for row in rows))
    figure = Figure(figsize=(7, 1.5 + 0.25 * len(domains) * len(series)), layout="constrained")
    axes = figure.subplots()
    for number, (learner, shot) in enumerate(series):
        chosen = [row for row in rows if (row.learner, row.shot) == (learner, shot)]
        places = [domains.index(row.domain) + 0.7 * (number + 0.5) / len(series) - 0.35 for row in chosen]
        gains, halves = [100 * row.gain for row in chosen], [100 * row.gain_ci95 for row in chosen]
        axes.errorbar(gains, places, xerr=halves, fmt="o", capsize=3, label=f"{learner}, {shot} shot")
    axes.axvline(0, color="grey", linewidth=1)
    axes.set(
        yticks=range(len(domains)), yticklabels=domains, xlabel="gain over starting from scratch, points of accuracy"
    )
    axes.invert_yaxis()
    axes.legend()
    return figure
