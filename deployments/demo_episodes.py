"""The demo's comparison on many small problems: 5-way episodes of the held-out domains and unseen classes."""

import json
from collections.abc import Sequence
from typing import Any

from data_contracts.configs import BenchmarkConfig
from data_contracts.settings import get_settings


def compare_on_episodes(config: BenchmarkConfig) -> list[dict[str, Any]]:
    """Let the baselines and the champion prior answer the same episodes: one row per domain, shot and learner.

    The prior's is the last of a domain and shot.
    The rows are kept in the home's cache under a key made from the prior, the data and `config`.
    """
    from models.baselines import TunedLogreg, reference_learners
    from tasks import registry
    from tasks.features import load_domain
    from tasks.lake import open_lake
    from tasks.lineage import fingerprint

    lake = open_lake()
    domains = [load_domain(lake, name) for name in config.test]
    ref = registry.resolve(registry.PRIOR)
    path = get_settings().cache / f"demo-episodes-{fingerprint(domains, ref.version, config.model_dump())}.json"
    if path.exists():
        kept: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    package = registry.read_package(ref)
    tuned = TunedLogreg.load(package.context["tuned_logreg"])
    prior = registry.build_prior(package, ref)
    rows = _rows(config, domains, {**reference_learners(tuned), prior.kind: prior})
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(rows), encoding="utf-8")
    partial.replace(path)
    return rows


def _rows(config: BenchmarkConfig, domains: Sequence[Any], learners: dict[str, Any]) -> list[dict[str, Any]]:
    from models.evaluation import compare, draw_episodes, summarise
    from tasks import progress

    rows: list[dict[str, Any]] = []
    asked = [(domain, shot) for domain in domains for shot in config.shots]
    for number, (domain, shot) in enumerate(asked):
        progress.report(number, len(asked), domain.domain)
        seed = config.split_seeds[0]
        answers = compare(learners, draw_episodes(domain, config.holdout_classes, shot, config, seed))
        for row in summarise([answers], split_seed=seed, shot=shot):
            rows.append({"domain": domain.domain, **row.model_dump()})
    return rows
