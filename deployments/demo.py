"""`metafuse demo`: the whole product on real data, through the same flows that a server would run.

Sources are built from installed artwork, ingested, learned from and scored. Every step finds what an earlier run has
done already, so a second run does no work twice.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from data_contracts.configs import AdaptConfig, BenchmarkConfig, MetaTrainConfig
from data_contracts.settings import get_settings
from deployments.demo_episodes import compare_on_episodes
from deployments.demo_page import BASELINES, OURS, write_demo_page

if TYPE_CHECKING:
    from deployments.samples.emoji import SampleDomain

TRAINING = tuple(
    f"{vendor}-{language}" for vendor in ("openmoji", "twemoji") for language in ("en", "de", "fr", "es", "ja")
)
HELD_OUT = ("noto-ru", "noto-zh")
SHOTS = (1, 5)
HOLDOUT_FRACTION = 0.35
EPISODES = 200
SPLIT_SEED = 0
RESULT = "demo.json"

Facts = dict[str, Any]


class Steps:
    """The steps of the demo as progress bars on standard error, with the seconds each took."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator["Bar"]:
        """Show a bar for the body; a total that is not known yet may be given later."""
        from tasks.progress import listening

        started = time.perf_counter()
        bar = Bar(self.progress, self.progress.add_task(name, total=total, detail=""))
        with listening(bar.detail):
            yield bar
        bar.finish()
        self.seconds[name] = round(time.perf_counter() - started, 1)


class Bar:
    """One step's progress bar."""

    def __init__(self, progress: Progress, number: Any) -> None:
        self.progress = progress
        self.number = number

    def advance(self, what: str) -> None:
        """Say that one more part is done."""
        self.progress.update(self.number, advance=1, detail=what)

    def show(self, done: int, total: int, what: str = "") -> None:
        """Say how far the step as a whole is."""
        self.progress.update(self.number, completed=done, total=total, detail=what)

    def detail(self, done: int, total: int, what: str) -> None:
        """Say how far a part of the step is."""
        self.progress.update(self.number, detail=f"{what} {done}/{total}")

    def finish(self) -> None:
        """Fill the bar."""
        found = next(task for task in self.progress.tasks if task.id == self.number)
        total = found.total or 1
        self.progress.update(self.number, total=total, completed=total, detail="")


def run_demo(*, items: int | None = None) -> Facts:
    """Do everything once and return what was found; `items` emoji instead of all make it quicker."""
    console = Console(stderr=True)
    started = time.perf_counter()
    columns = (TextColumn("{task.description:<34}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[detail]}", style="dim"), console=console) as progress:
        steps = Steps(progress)
        sources = build_sources(steps, items)
        ledger = ingest_all(steps, sources)
        hidden, unseen = choose_classes()
        prior = train_prior(steps, hidden)
        adapted = adapt_all(steps, unseen)
        scored = score_all(steps)
        episodes = compare_all(steps, hidden)
        with steps.step("Write the report"):
            page = write_demo_page(ledger, prior, adapted, unseen)
    return _written(
        {
            "is_new": any(batch["accepted"] for batch in ledger)
            or any(run["is_new"] for run in (prior, *adapted, *scored)),
            "unseen_classes": list(unseen),
            "ledger": ledger,
            "prior": prior,
            "adapted": adapted,
            "scored": scored,
            "episodes": episodes,
            "report": str(page),
            "seconds": {**steps.seconds, "all": round(time.perf_counter() - started, 1)},
        }
    )


def build_sources(steps: Steps, items: int | None) -> Sequence["SampleDomain"]:
    """Write the sources below HOME/sources as a user would have them: a contract, a table and pictures a domain."""
    from deployments.samples.emoji import build_emoji

    folder = "sources" if items is None else f"sources-{items}"
    with steps.step("Build sources from emoji artwork") as bar:
        return build_emoji(get_settings().home.absolute() / folder, items=items, progress=bar.show)


def ingest_all(steps: Steps, sources: Sequence["SampleDomain"]) -> list[Facts]:
    """Bring every domain into the lake, with embeddings."""
    from flows.ingest_source import ingest_source

    with steps.step("Ingest and embed domains", len(sources)) as bar:
        ledger = []
        for source in sources:
            ledger.append(ingest_source(domain=source.domain, contract=str(source.contract)))
            bar.advance(source.domain)
        return ledger


def choose_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Draw the classes that training must not see, as the benchmark does; returns them and those with enough labels."""
    from models.evaluation import MIN_QUERY, held_out_classes
    from models.training import large_classes
    from tasks.features import load_domain
    from tasks.lake import open_lake

    lake = open_lake()
    training, test = ([load_domain(lake, name) for name in names] for names in (TRAINING, HELD_OUT))
    hidden = held_out_classes(training, test, fraction=HOLDOUT_FRACTION, seed=SPLIT_SEED)
    large = [set(large_classes(domain, max(SHOTS) + MIN_QUERY)) for domain in test]
    return hidden, tuple(name for name in hidden if all(name in classes for classes in large))


def train_prior(steps: Steps, hidden: Sequence[str]) -> Facts:
    """Meta-train a prior on ten domains, without the hidden classes."""
    from flows.meta_train import meta_train

    config = MetaTrainConfig(domains=TRAINING, exclude_classes=tuple(hidden))
    with steps.step("Meta-train a prior", 1):
        report: Facts = meta_train(config=config)
        return report


def adapt_all(steps: Steps, unseen: Sequence[str]) -> list[Facts]:
    """Adapt to each held-out domain from few labels of the unseen classes."""
    from flows.adapt_domain import adapt_domain

    with steps.step("Adapt to unseen domains", len(HELD_OUT) * len(SHOTS)) as bar:
        adapted = []
        for domain in HELD_OUT:
            for shots in SHOTS:
                config = AdaptConfig(shots=shots, classes=tuple(unseen))
                adapted.append({"shots": shots, **adapt_domain(domain=domain, config=config)})
                bar.advance(f"{domain}, {shots} labels a class")
        return adapted


def score_all(steps: Steps) -> list[Facts]:
    """Label, cluster and check every item of the held-out domains."""
    from flows.score_domain import score_domain

    with steps.step("Score unseen domains", len(HELD_OUT)) as bar:
        scored = []
        for domain in HELD_OUT:
            scored.append(score_domain(domain=domain))
            bar.advance(domain)
        return scored


def compare_all(steps: Steps, hidden: Sequence[str]) -> list[Facts]:
    """Compare our prior with the baselines on 5-way episodes of the held-out domains and hidden classes."""
    config = BenchmarkConfig(
        train=TRAINING,
        test=HELD_OUT,
        holdout_classes=tuple(hidden),
        split_seeds=(SPLIT_SEED,),
        shots=SHOTS,
        episodes=EPISODES,
    )
    with steps.step("Compare on 5-way episodes"):
        return compare_on_episodes(config)


def shown(result: Facts) -> RenderableType:
    """Lay out what a person wants to know at the end."""
    home = get_settings().home.absolute()
    return Group(
        "",
        _what_was_done(result),
        "",
        adapted_table(result["adapted"]),
        "",
        episodes_table(result["episodes"]),
        "",
        f"Report   {result['report']}",
        f"Facts    {home / RESULT}",
        "",
        "Try next:",
        "  metafuse up",
        '  metafuse sql "SELECT label, count(*) AS n FROM latest_predictions GROUP BY 1"',
        f"  mlflow ui --backend-store-uri {get_settings().mlflow}",
    )


def adapted_table(adapted: Sequence[Facts]) -> Table:
    """Compare the registered models with the baselines: the same labels, the same unseen items."""
    table = _table(f"Registered models: all {adapted[0]['labels'] // adapted[0]['shots']} unseen classes at once")
    table.add_column("learner\nchosen", overflow="fold")
    for run in adapted:
        scores = [run["baselines"][name] for name in BASELINES]
        accuracies = [_accuracy(score) for score in (*scores, run)]
        table.add_row(run["domain"], str(run["shots"]), *accuracies, run["learner"])
    return table


def episodes_table(episodes: Sequence[Facts]) -> Table:
    """Compare the prior with the baselines over the same episodes; the gain is paired with the tuned baseline."""
    table = _table("Episodes: five of the unseen classes at a time")
    table.add_column("gain on\ntuned", no_wrap=True)
    for domain, shot in dict.fromkeys((row["domain"], row["shot"]) for row in episodes):
        rows = [row for row in episodes if (row["domain"], row["shot"]) == (domain, shot)]
        gain = f"{100 * rows[-1]['diff']:+.1f} ± {100 * rows[-1]['diff_ci95']:.1f}"
        table.add_row(domain, str(shot), *(_accuracy(row) for row in rows), gain)
    return table


def _table(title: str) -> Table:
    table = Table(title=f"{title} (accuracy, % ± 95 %)", title_justify="left", pad_edge=False, collapse_padding=True)
    for name in ("domain", "shot", *BASELINES.values(), OURS):
        table.add_column(name.replace(" ", "\n"), no_wrap=True)
    return table


def _accuracy(score: Mapping[str, Any]) -> str:
    return f"{100 * score['accuracy']:.1f} ± {100 * score['ci95']:.1f}"


def _what_was_done(result: Facts) -> str:
    received = sum(batch["received"] for batch in result["ledger"])
    accepted = sum(batch["accepted"] for batch in result["ledger"])
    seconds = result["seconds"]["all"]
    if not result["is_new"]:
        return f"Nothing was done twice: all {received} items and every model were there already ({seconds:.0f} s)."
    quarantined = sum(batch["quarantined"] for batch in result["ledger"])
    return f"{accepted} of {received} items ingested, {quarantined} quarantined; everything took {seconds:.0f} s."


def _written(result: Facts) -> Facts:
    path = get_settings().home.absolute() / RESULT
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
    return result
