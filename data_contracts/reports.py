"""What runs answer with; each is what `--json` prints."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_contracts.configs import BenchmarkConfig, TransferConfig
from data_contracts.names import DomainName


class Report(BaseModel):
    """Common rules of every report: immutable and JSON-friendly."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TableRef(Report):
    """One version of one lake table."""

    table: str
    version: int = Field(ge=0)


class ModelRef(Report):
    """One version of one registered model, with the lineage it is tagged with."""

    name: str
    version: str
    tags: dict[str, str] = {}


class IngestReport(Report):
    """The ledger line of one ingest; it always balances."""

    domain: DomainName
    batch_id: str
    received: int = Field(ge=0)
    accepted: int = Field(ge=0)
    quarantined: int = Field(ge=0)
    duplicates: int = Field(ge=0)
    reasons: dict[str, int] = Field(description="reason code to number of rows; a row may have several")
    unused_columns: tuple[str, ...] = Field(
        description="columns of the source that the contract does not name, 100 at most"
    )
    table_version: int | None = Field(description="version of items_<domain> after the ingest; None: no table yet")
    seconds: float = Field(ge=0)

    @model_validator(mode="after")
    def _balances(self) -> "IngestReport":
        if self.received != self.accepted + self.quarantined + self.duplicates:
            raise ValueError(
                f"ledger of {self.domain} batch {self.batch_id} does not balance: received {self.received}, "
                f"accepted {self.accepted} + quarantined {self.quarantined} + duplicates {self.duplicates}"
            )
        return self


class BatchVerdict(Report):
    """What Great Expectations found in one batch; a batch that breaks a batch rule raises instead."""

    domain: DomainName
    rows: int = Field(ge=0)
    expectations: int = Field(ge=0, description="row and batch expectations that were evaluated")
    reasons: dict[str, int] = Field(description="reason code to number of rows that break the rule")
    docs: str = Field(description="path of the Data Docs index of the domain")
    seconds: float = Field(ge=0)


class ViewReport(Report):
    """What embedding one view of a domain took; an item without the field is not counted."""

    encoder_id: str
    present: int = Field(default=0, ge=0, description="items whose vector was there already")
    reused: int = Field(default=0, ge=0, description="items whose content had been encoded before, here or elsewhere")
    encoded: int = Field(default=0, ge=0, description="items whose content was encoded now")
    refused: int = Field(default=0, ge=0, description="items whose media could not be decoded")


class EmbedReport(Report):
    """What embedding the current items of a domain took, by view."""

    domain: DomainName
    views: dict[str, ViewReport]
    seconds: float = Field(ge=0)


class ColumnLoss(Report):
    """How much a model leans on one column of its domain."""

    loss: float = Field(description="mean log-probability of the right class lost when items swap the column's values")
    ci95: float = Field(description="half-width of the 95 % interval over items")


class AdaptReport(Report):
    """What adapting to one domain gave."""

    domain: DomainName
    model: str
    version: str
    alias: str | None = Field(description="champion, challenger or previous, as of now; None if it was held back")
    accuracy: float
    ci95: float = Field(description="half-width of the 95 % interval")
    labels: int = Field(description="labelled items the model was adapted from")
    tested: int = Field(description="labelled items the model was judged on; it has not seen them")
    prior_version: str
    learner: str = Field(description="the one that was adapted")
    preference: dict[str, float] = Field(
        description="share of each learner that auto chose from; empty: the learner was asked for by name"
    )
    views: dict[str, float] = Field(description="share of the decision each view carried")
    columns: dict[str, ColumnLoss] = Field(
        description="what each column carried on the items judged, most first: `view/column` of a table, else `view`"
    )
    seconds: float


class Score(Report):
    """How good one classifier is on the labelled items kept for testing."""

    accuracy: float
    ci95: float = Field(description="half-width of the 95 % Wilson interval")
    nll: float = Field(description="mean negative log-likelihood, nats")
    ece: float = Field(description="expected calibration error")


class AdaptOutcome(AdaptReport):
    """Everything that adapting to one domain gave; the report is what a script is promised."""

    nll: float
    ece: float
    decision: str = Field(description="promote, hold or ask")
    why: str
    baselines: dict[str, Score] = Field(description="reference classifiers on the same support and test items")
    is_new: bool = Field(description="false: this version was registered before from the same labels and prior")


class LeaderboardRow(Report):
    """How one learner did at one shot, beside all others on the same episodes, over all class splits."""

    shot: int
    learner: str
    family: str = Field(
        description="of the learner, transductive if it looks at all queries at once; or baseline, untrained, choice"
    )
    accuracy: float
    ci95: float = Field(description="half-width of the 95 % interval over episodes")
    over_untrained: float = Field(description="accuracy minus nearest_centroid's, which every learner is at the start")
    over_untrained_ci95: float = Field(description="of the paired difference")
    over_tuned: float = Field(description="accuracy minus tuned_logreg's")
    over_tuned_ci95: float = Field(description="of the paired difference")
    nll: float | None = Field(default=None, description="None: of a prior registered before this was written down")
    ece: float
    seconds: float | None = Field(description="that training took, all members for auto; None: nothing is trained")


class TrainReport(Report):
    """What meta-training gave."""

    model: str
    version: str
    alias: str | None = Field(description="champion or previous, as of now; None if it was held back")
    learner: str
    domains: tuple[str, ...]
    classes: int = Field(description="classes trained or validated on")
    validation_accuracy: float = Field(description="on episodes of classes that were not trained on")
    untrained_accuracy: float = Field(description="of the same learner before training, on the same episodes")
    champion_accuracy: float | None = Field(description="of the prior that was champion; None: there was none")
    why: str
    resumed: dict[str, int] = Field(description="learners that went on from a checkpoint, and its step")
    leaderboard: tuple[LeaderboardRow, ...] = Field(description="on episodes of classes that were not trained on")
    is_new: bool = Field(description="false: this version was registered before from the same data and config")
    seconds: float


class ScoreReport(Report):
    """What scoring every item of a domain gave; the rows are in the table `predictions`."""

    domain: DomainName
    score_id: str
    model: str
    version: str
    rung: str = Field(description="step of the fallback ladder that answered")
    passed_over: dict[str, str] = Field(description="steps before it to why they could not")
    items: int
    abstained: int
    anomalies: int
    clusters: int
    cluster_stability: float = Field(description="mean adjusted Rand index with new groupings of random halves")
    labels: dict[str, int] = Field(description="predicted label to number of items, abstentions left out")
    ask: tuple[str, ...] = Field(description="ids of the unlabelled items whose labels would help most, best first")
    is_new: bool = Field(description="false: these items were scored by this version before")
    seconds: float


class ViewDrift(Report):
    """How recent items differ from the reference in one view; p-values are corrected for all tests of the domain."""

    statistic: float | None = Field(
        description="squared maximum mean discrepancy, unbiased; None: too few items have the view"
    )
    p_value: float | None = Field(description="chance of such a statistic if nothing has changed")
    share_before: float = Field(description="of the reference's items, those that have the view")
    share_after: float = Field(description="of the recent items")
    share_p_value: float = Field(description="chance of shares that differ as much if nothing has changed")


class DomainDrift(Report):
    """Whether a domain's recent items differ from those its champion was adapted among."""

    domain: DomainName
    drift_id: str = Field(description="digest of what was compared")
    model: str
    version: str
    reference_items: int = Field(description="items there were when the model was adapted")
    recent_items: int = Field(description="the newest of the items that are new or changed since")
    is_drifted: bool
    why: str
    views: dict[str, ViewDrift] = Field(description="empty: not enough items for a test")
    is_new: bool = Field(description="false: the same was compared before")


class DriftReport(Report):
    """Which domains have drifted away from their models; the rows are in the table `drift`."""

    rows: tuple[DomainDrift, ...]
    skipped: dict[str, str] = Field(description="domain to why it could not be looked at")
    seconds: float


class BenchmarkRow(Report):
    """One learner at one shot on one class split, over all test domains and episodes."""

    split_seed: int
    shot: int
    learner: str
    accuracy: float
    ci95: float
    nll: float
    ece: float
    diff: float = Field(description="accuracy minus tuned_logreg's on the same episodes")
    diff_ci95: float
    over_untrained_ci95: float = Field(
        default=0.0, description="of the paired difference to nearest_centroid; 0 if that takes no part"
    )
    cpu_s_per_1000: float = Field(description="CPU seconds per 1,000 episodes")


class BenchmarkReport(Report):
    """How learners compare on unseen domains and unseen classes."""

    protocol: BenchmarkConfig
    rows: tuple[BenchmarkRow, ...]
    leaderboard: tuple[LeaderboardRow, ...]
    seconds: float


class EpisodeScore(Report):
    """How good one learner is over episodes."""

    accuracy: float
    ci95: float = Field(description="half-width of the 95 % interval over episodes")
    nll: float = Field(description="mean negative log-likelihood of the queries, nats")
    ece: float = Field(description="expected calibration error")


class TransferRow(Report):
    """What the other domains were worth to one domain, for one learner at one shot."""

    domain: DomainName
    shot: int
    learner: str
    unseen: Literal["domain and classes", "domain"] = Field(description="what training has not seen")
    transferred: EpisodeScore = Field(description="trained on the other domains")
    from_scratch: dict[str, EpisodeScore] = Field(description="learners that know the support alone, by name")
    reference: str = Field(description="the one from scratch that is more accurate on these episodes")
    gain: float = Field(description="accuracy minus that of the reference on the same episodes")
    gain_ci95: float
    is_negative: bool = Field(description="negative transfer: even the upper end of the gain's interval is below 0")
    coverage: float = Field(description="share of queries whose set of classes holds theirs")
    set_size: float = Field(description="mean number of classes in a set")


class TransferReport(Report):
    """What the other domains were worth to each domain."""

    protocol: TransferConfig
    rows: tuple[TransferRow, ...]
    skipped: dict[str, str] = Field(description="domain to why it could not be tested")
    seconds: float
