"""Test a registered prior beside the baselines on few-way episodes of one domain."""

from data_contracts.configs import BenchmarkConfig
from data_contracts.reports import BenchmarkRow
from models.baselines import BestSingle, ConcatLogreg, TunedLogreg
from models.evaluation import EpisodeLearner, compare, draw_episodes, summarise
from tasks import registry
from tasks.features import load_domain
from tasks.lake import Lake


def compare_prior(
    lake: Lake, domain: str, classes: tuple[str, ...], config: BenchmarkConfig, *, prior: str = registry.CHAMPION
) -> list[BenchmarkRow]:
    """Return how the prior and the baselines answer the same episodes of `classes`, for every shot of `config`.

    The first of `config.split_seeds` draws the episodes; nothing is trained.

    Raises:
        EpisodeTooSmall: the domain has too few classes with enough items.
        UnknownModel: there is no such prior.
    """
    ref = registry.resolve(registry.PRIOR, prior)
    package = registry.read_package(ref)
    tuned = TunedLogreg.load(package.context.get("tuned_logreg", {}))
    learner = registry.build_prior(package, ref)
    learners: dict[str, EpisodeLearner] = {one.kind: one for one in (BestSingle(), ConcatLogreg(), tuned)}
    learners[learner.kind] = learner
    data, seed = load_domain(lake, domain), config.split_seeds[0]
    rows = []
    for shot in config.shots:
        answers = compare(learners, draw_episodes(data, classes, shot, config, seed))
        rows += summarise([answers], split_seed=seed, shot=shot)
    return rows
