"""`metafuse meta-train`, `adapt` and `score`: learn over all domains, then for one, then use it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from data_contracts.configs import AdaptConfig, ClusterMethod, MetaTrainConfig, ScoreConfig, TrainConfig
from data_contracts.names import check_domain
from data_contracts.reports import AdaptReport
from deployments.cli.answer import Answer, facts_table, first_few
from deployments.cli.command import command
from deployments.cli.leaderboard import shown_leaderboard
from deployments.cli.values import check_ingested, learner_names, names, read_classes
from deployments.prefect_server import prefect_server

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
    learners: Annotated[
        str, typer.Option(metavar="A,B", help="Learners to train, auto, or all. A wrong name lists the right ones.")
    ] = ",".join(MetaTrainConfig().learners),
    steps: Annotated[int, typer.Option(min=0, help="Training steps.")] = TrainConfig().steps,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from the checkpoints of a run that was stopped.")
    ] = True,
    seed: Seed = 0,
) -> Answer:
    """Train a prior over domains and register it as metafuse.prior.

    With auto, all learners that are trained are registered together: auto chooses among those that are not
    transductive for each domain, and each can be adapted by name. Without auto, the best of them is registered alone.

    Example: metafuse meta-train --domains openmoji-en,openmoji-de,twemoji-en

    Example: metafuse meta-train --learners metric,ridge,auto --no-resume

    Example: metafuse meta-train --learners all
    """
    config = MetaTrainConfig(
        domains=tuple(map(check_domain, names(domains))),
        exclude_classes=() if exclude_classes is None else read_classes(exclude_classes),
        learners=learner_names(learners),
        train=TrainConfig(steps=steps, seed=seed),
        resume=resume,
    )
    check_ingested(*config.domains)
    with prefect_server("flows.meta_train"):
        from flows.meta_train import meta_train as flow

        report = flow(config=config)
    facts = {name: value for name, value in report.items() if name != "leaderboard"}
    return Answer(report, Group(facts_table(facts), "", shown_leaderboard(report["leaderboard"])))


def adapt(
    domain: Domain,
    shots: Annotated[
        int | None, typer.Option(min=1, help="Labels a class to learn from. Default: all but 30 %.")
    ] = None,
    classes: Annotated[str, typer.Option(metavar="A,B", help="Default: every class with enough labels.")] = "",
    learner: Annotated[
        str, typer.Option(help="Which of the prior's learners to adapt; auto chooses one for this domain.")
    ] = AdaptConfig().learner,
    prior: Annotated[str, typer.Option(help="Alias or version of metafuse.prior.")] = "champion",
    seed: Seed = 0,
) -> Answer:
    """Adapt the prior to one domain and register the model as metafuse.DOMAIN.

    It becomes champion only if it beats the one that serves today on the same labelled items.

    Example: metafuse adapt noto-ru --shots 5

    Example: metafuse adapt noto-ru --learner ridge
    """
    from models.catalogue import check_learner

    config = AdaptConfig(shots=shots, classes=names(classes), learner=check_learner(learner), prior=prior, seed=seed)
    check_ingested(domain)
    with prefect_server("flows.adapt_domain"):
        from flows.adapt_domain import adapt_domain

        result = adapt_domain(domain=domain, config=config)
    facts = {name: result[name] for name in AdaptReport.model_fields}
    return Answer(facts, facts_table(shown_adaptation(facts)))


def shown_adaptation(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts as a person reads them: what the accuracy was measured on, and what columns lose in."""
    judged = f"{facts['accuracy']:.1%} ± {facts['ci95']:.1%} of {facts['tested']} labelled items that it has not seen"
    kept = {name: value for name, value in facts.items() if name not in ("ci95", "tested", "columns", "seconds")}
    lost = shown_columns(facts["columns"])
    return {**kept, "accuracy": judged, "nats lost without columns": lost, "seconds": facts["seconds"]}


def shown_columns(columns: Mapping[str, Mapping[str, float]]) -> str:
    """Return the columns that carried most, each with the log-probability that is lost without it."""
    return first_few([f"{name} {lost['loss']:.2f} ± {lost['ci95']:.2f}" for name, lost in columns.items()])


def score(
    domain: Domain,
    target_accuracy: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Accuracy aimed at among items that get an answer.")
    ] = ScoreConfig().target_accuracy,
    false_alarm_rate: Annotated[
        float, typer.Option(min=0.001, max=0.499, help="Share of normal items that may be called anomalies.")
    ] = ScoreConfig().false_alarm_rate,
    cluster_method: Annotated[
        ClusterMethod, typer.Option(help="hdbscan finds the number itself and leaves some items out.")
    ] = "k_means",
    clusters: Annotated[int | None, typer.Option(min=2, help="Of k_means. Default: chosen from the data.")] = None,
    ask: Annotated[int, typer.Option(min=0, help="How many items to ask labels for.")] = ScoreConfig().ask,
    seed: Seed = 0,
) -> Answer:
    """Label, cluster and check every item of a domain; the answers go to the table predictions.

    It ends with the unlabelled items whose labels would help most, best first.

    Example: metafuse score noto-ru --target-accuracy 0.95

    Example: metafuse score noto-ru --ask 20
    """
    config = ScoreConfig(
        target_accuracy=target_accuracy,
        false_alarm_rate=false_alarm_rate,
        cluster_method=cluster_method,
        clusters=clusters,
        ask=ask,
        seed=seed,
    )
    check_ingested(domain)
    with prefect_server("flows.score_domain"):
        from flows.score_domain import score_domain

        report = score_domain(domain=domain, config=config)
    from tasks.leaderboards import silent_rungs

    facts = {name: value for name, value in report.items() if name not in ("passed_over", "ask")}
    silent = [Text(line, style="yellow") for line in silent_rungs(report)]
    return Answer(report, Group(facts_table({**facts, "label these next": report["ask"]}), *silent))
