"""`metafuse benchmark`: the honest comparison on unseen domains and unseen classes."""

from pathlib import Path
from typing import Annotated

import typer

from data_contracts.configs import BenchmarkConfig, TrainConfig
from data_contracts.names import check_domain
from deployments.cli.answer import Answer
from deployments.cli.command import command
from deployments.cli.leaderboard import shown_leaderboard
from deployments.cli.values import check_ingested, learner_names, names, numbers, read_classes
from deployments.prefect_server import prefect_server

DEFAULT = BenchmarkConfig(train=("a",), test=("b",))


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "benchmark")(benchmark)


def benchmark(
    train: Annotated[str, typer.Option(metavar="A,B", help="Domains to meta-train on.")],
    test: Annotated[str, typer.Option(metavar="C,D", help="Domains to draw test episodes from.")],
    holdout_classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Classes to test on, one a line; else a share is drawn.")
    ] = None,
    holdout_fraction: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of the common classes kept out of training.")
    ] = DEFAULT.holdout_fraction,
    split_seed: Annotated[
        list[str] | None, typer.Option(metavar="N", help="Draws that share; give several, or N,M. Default: 0.")
    ] = None,
    way: Annotated[int, typer.Option(min=2, help="Classes an episode.")] = DEFAULT.n_way,
    shots: Annotated[str, typer.Option(metavar="1,5", help="Labels a class, each measured on its own.")] = "1,5",
    query: Annotated[int, typer.Option(min=1, help="Test items a class and episode.")] = DEFAULT.n_query,
    episodes: Annotated[int, typer.Option(min=2, help="Episodes a shot and test domain.")] = DEFAULT.episodes,
    missing: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of the views of test items to hide; an item keeps one.")
    ] = DEFAULT.missing,
    learners: Annotated[
        str,
        typer.Option(
            metavar="A,B", help="Learners beside the baselines, or all; auto chooses among those not transductive."
        ),
    ] = ",".join(DEFAULT.learners),
    steps: Annotated[int, typer.Option(min=0, help="Training steps.")] = TrainConfig().steps,
    seed: Annotated[int, typer.Option(min=0, help="Seed of training and episodes.")] = 0,
) -> Answer:
    """Meta-train on some domains, test on others with classes never trained on, every learner on the same episodes.

    Figures and numbers go to the MLflow experiment metafuse/benchmark, with a run below for each learner.

    Example: metafuse benchmark --train openmoji-en,twemoji-en --test noto-ru --split-seed 0,1,2

    Example: metafuse benchmark --train openmoji-en,twemoji-en --test noto-ru --learners all --shots 1,5,10

    Example: metafuse benchmark --train openmoji-en,twemoji-en --test noto-ru --missing 0.5
    """
    config = BenchmarkConfig(
        train=_domains(train, "--train"),
        test=_domains(test, "--test"),
        learners=learner_names(learners),
        holdout_classes=() if holdout_classes is None else read_classes(holdout_classes),
        holdout_fraction=holdout_fraction,
        split_seeds=numbers(",".join(split_seed or ["0"])),
        n_way=way,
        shots=numbers(shots, least=1),
        n_query=query,
        episodes=episodes,
        missing=missing,
        training=TrainConfig(steps=steps, n_way=way, shots=numbers(shots, least=1), seed=seed),
    )
    check_ingested(*config.train, *config.test)
    with prefect_server("flows.benchmark_learners"):
        from flows.benchmark_learners import benchmark_learners

        report = benchmark_learners(config=config)
    return Answer(report, shown_leaderboard(report["leaderboard"]))


def _domains(text: str, option: str) -> tuple[str, ...]:
    chosen = tuple(map(check_domain, names(text)))
    if not chosen:
        raise typer.BadParameter(f"{option} names no domain; give a comma list such as noto-ru,noto-zh")
    return chosen
