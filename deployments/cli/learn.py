"""`metafuse meta-train`, `adapt` and `score`: learn over all domains, then for one, then use it."""

from pathlib import Path
from typing import Annotated

import typer

from data_contracts.configs import AdaptConfig, ClusterMethod, MetaTrainConfig, ScoreConfig, TrainConfig
from data_contracts.names import check_domain
from data_contracts.reports import AdaptReport
from deployments.cli.answer import Answer, facts_table
from deployments.cli.command import command
from deployments.cli.values import names, read_classes

Domain = Annotated[str, typer.Argument(help="A domain that was ingested.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    command(app, "meta-train")(meta_train)
    command(app, "adapt")(adapt)
    command(app, "score")(score)


def meta_train(
    domains: Annotated[str, typer.Option(metavar="A,B", help="Default: every domain that has labels.")] = "",
    exclude_classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Classes to keep out of training, one a line.")
    ] = None,
    steps: Annotated[int, typer.Option(min=0, help="Training steps.")] = TrainConfig().steps,
    seed: Seed = 0,
) -> Answer:
    """Train a prior over domains and register it as metafuse.prior.

    Example: metafuse meta-train --domains openmoji-en,openmoji-de,twemoji-en
    """
    from flows.meta_train import meta_train as flow

    config = MetaTrainConfig(
        domains=tuple(check_domain(name) for name in names(domains)),
        exclude_classes=() if exclude_classes is None else read_classes(exclude_classes),
        train=TrainConfig(steps=steps, seed=seed),
    )
    report = flow(config=config)
    return Answer(report, facts_table(report))


def adapt(
    domain: Domain,
    shots: Annotated[
        int | None, typer.Option(min=1, help="Labels a class to learn from. Default: all but 30 %.")
    ] = None,
    classes: Annotated[str, typer.Option(metavar="A,B", help="Default: every class with enough labels.")] = "",
    learner: Annotated[str, typer.Option(help="Which learner's prior to adapt.")] = "metric",
    prior: Annotated[str, typer.Option(help="Alias or version of metafuse.prior.")] = "champion",
    seed: Seed = 0,
) -> Answer:
    """Adapt the prior to one domain and register the model as metafuse.DOMAIN.

    It becomes champion only if it beats the one that serves today on the same labelled items.

    Example: metafuse adapt noto-ru --shots 5
    """
    from flows.adapt_domain import adapt_domain

    config = AdaptConfig(shots=shots, classes=names(classes), learner=learner, prior=prior, seed=seed)
    result = adapt_domain(domain=check_domain(domain), config=config)
    facts = {name: result[name] for name in AdaptReport.model_fields}
    return Answer(facts, facts_table(facts))


def score(
    domain: Domain,
    coverage: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Accuracy aimed at among items that get an answer.")
    ] = ScoreConfig().coverage,
    false_alarm_rate: Annotated[
        float, typer.Option(min=0.001, max=0.499, help="Share of normal items that may be called anomalies.")
    ] = ScoreConfig().false_alarm_rate,
    cluster_method: Annotated[
        ClusterMethod, typer.Option(help="hdbscan finds the number itself and leaves some items out.")
    ] = "k_means",
    clusters: Annotated[int | None, typer.Option(min=2, help="Of k_means. Default: chosen from the data.")] = None,
    seed: Seed = 0,
) -> Answer:
    """Label, cluster and check every item of a domain; the answers go to the table predictions.

    Example: metafuse score noto-ru
    """
    from flows.score_domain import score_domain

    config = ScoreConfig(
        coverage=coverage,
        false_alarm_rate=false_alarm_rate,
        cluster_method=cluster_method,
        clusters=clusters,
        seed=seed,
    )
    report = score_domain(domain=check_domain(domain), config=config)
    return Answer(report, facts_table(report))
