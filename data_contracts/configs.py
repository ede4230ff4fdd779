"""What a run is asked to do. Frozen, JSON-friendly, every default runs; a run logs its config whole."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from data_contracts.names import DomainName

ClusterMethod = Literal["k_means", "hdbscan"]

LARGEST_WINDOW = 5000
"""Each pair of a drift check's items is compared: twice as many on either side cost four times as much."""


class Config(BaseModel):
    """Common rules of every config: immutable, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainConfig(Config):
    """How the one training loop runs, whichever learner it trains."""

    steps: int = Field(default=200, ge=0, description="outer-loop steps")
    meta_batch: int = Field(default=16, ge=1, description="episodes per step")
    n_way: int = Field(default=5, ge=2)
    shots: tuple[PositiveInt, ...] = Field(default=(1, 5), min_length=1, description="drawn anew for every step")
    n_query: int = Field(default=10, ge=1, description="query items per class")
    learning_rate: float = Field(default=0.05, gt=0, description="of strengths, which are few")
    network_learning_rate: float = Field(default=0.001, gt=0, description="of the weights of networks")
    view_dropout: float = Field(default=0.1, ge=0, lt=1, description="chance that an item loses a view")
    validate_every: int = Field(default=25, ge=1, description="steps between looks at held-out classes")
    validation_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of classes held out to validate on")
    seed: int = Field(default=0, ge=0)


class MetaTrainConfig(Config):
    """Which domains and classes a prior is trained on, and which learners compete."""

    domains: tuple[DomainName, ...] = Field(default=(), description="empty: every domain that has labels")
    exclude_classes: tuple[str, ...] = Field(default=(), description="classes kept out of training, for honest tests")
    learners: tuple[str, ...] = Field(
        default=("auto",),
        min_length=1,
        description="all: every one and auto; with auto, all are registered with a choice per domain, else the best is",
    )
    train: TrainConfig = TrainConfig()
    resume: bool = Field(default=True, description="go on from the checkpoints of a run that was stopped")
    tolerance: float = Field(default=0.01, ge=0, description="accuracy a new prior may lose against the champion")


class AdaptConfig(Config):
    """How one domain is adapted to, and from which labels."""

    shots: int | None = Field(default=None, ge=1, description="labels per class to use; None: all but the test share")
    classes: tuple[str, ...] = Field(default=(), description="empty: every class with enough labels")
    learner: str = Field(default="auto", description="auto: the one that is expected to do best on this domain")
    prior: str = Field(default="champion", description="alias or version of metafuse.prior")
    test_fraction: float = Field(default=0.3, gt=0, lt=1, description="labels kept for evaluation if shots is None")
    min_gain: float = Field(default=0.0, ge=0, description="accuracy the challenger must add to be promoted")
    seed: int = Field(default=0, ge=0)


class ScoreConfig(Config):
    """How every item of a domain is scored."""

    target_accuracy: float = Field(default=0.9, gt=0, lt=1, description="aimed at among answered items")
    false_alarm_rate: float = Field(
        default=0.05, gt=0, lt=0.5, description="share of normal items flagged as anomalies"
    )
    cluster_method: ClusterMethod = Field(
        default="k_means", description="hdbscan finds the number itself and leaves items out that are in no dense place"
    )
    clusters: int | None = Field(default=None, ge=2, description="of k_means; None: chosen by silhouette")
    ask: int = Field(default=10, ge=0, description="unlabelled items to ask labels for")
    seed: int = Field(default=0, ge=0)


class DriftConfig(Config):
    """When the recent items of a domain count as different from those its model was adapted among."""

    false_alarm_rate: float = Field(
        default=0.01, ge=0.001, lt=0.5, description="chance of an alarm at one look if nothing has changed"
    )
    at_least: int = Field(default=30, ge=2, description="recent items, and items of the reference, that a test needs")
    window: int = Field(
        default=500,
        ge=2,
        le=LARGEST_WINDOW,
        description="newest items that are looked at; of the reference, as many; cost grows with its square",
    )
    seed: int = Field(default=0, ge=0, description="of permutations and draws")


class EpisodesConfig(Config):
    """Which episodes learners are tested on, and how they are trained for that."""

    holdout_fraction: float = Field(default=0.35, gt=0, lt=1, description="share of the common classes not trained on")
    n_way: int = Field(default=5, ge=2)
    shots: tuple[PositiveInt, ...] = Field(default=(1, 5), min_length=1)
    n_query: int = Field(default=10, ge=1)
    episodes: int = Field(default=600, ge=2, description="of every shot and test domain")
    training: TrainConfig = Field(
        default=TrainConfig(), description="ways and shots are lowered if the training classes are too few for them"
    )


class BenchmarkConfig(EpisodesConfig):
    """The evaluation protocol: unseen domains and unseen classes, the same episodes for every learner."""

    train: tuple[DomainName, ...] = Field(min_length=1)
    test: tuple[DomainName, ...] = Field(min_length=1)
    learners: tuple[str, ...] = Field(default=("metric", "auto"), min_length=1, description="beside the baselines")
    holdout_classes: tuple[str, ...] = Field(
        default=(), description="classes in common to test on, instead of a drawn share"
    )
    split_seeds: tuple[int, ...] = (0,)
    missing: float = Field(
        default=0.0, ge=0, lt=1, description="share of the views of test items that are hidden; an item keeps one"
    )


class TransferConfig(EpisodesConfig):
    """What the other domains are worth to each domain, which is left out of training for that."""

    domains: tuple[DomainName, ...] = Field(
        default=(), description="left out one at a time, the rest of all labelled domains training; empty: each of them"
    )
    learners: tuple[str, ...] = Field(default=("auto",), min_length=1)
    episodes: int = Field(default=200, ge=2, description="of every shot and domain")
    coverage: float = Field(default=0.9, gt=0, lt=1, description="share of sets that shall hold the right class")
    split_seed: int = Field(default=0, ge=0, description="of the draw of classes that are not trained on")
