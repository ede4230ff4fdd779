"""What runs side by side gives what it gives alone, tells how far it is, and leaves nothing running."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from learning_lake import add_domain
from mlflow_runs import runs_below
from synthetic import PICTURE, TITLE, make_domain
from torch import Tensor

from data_contracts.configs import BenchmarkConfig, MetaTrainConfig, TrainConfig, TransferConfig
from data_contracts.errors import EpisodeTooSmall, ModelError
from data_contracts.settings import get_settings
from deployments.processes import _is_alive, descendants
from models.catalogue import build_learner
from models.evaluation import run_comparison, run_protocol
from models.rehearsal import learn_to_choose
from models.transfer import run_transfer
from tasks import progress, registry
from tasks.lake import open_lake
from tasks.side_by_side import side_by_side
from tasks.tracking import connect
from tasks.train import meta_train_prior

pytestmark = pytest.mark.slow


def double(values: Tensor) -> tuple[int, Tensor]:
    progress.report(1, 2, f"double {len(values)}")
    return os.getpid(), 2 * values


def meet(name: str, names: list[str], folder: Path) -> None:
    """Return once every one of the names has come."""
    (folder / name).touch()
    deadline = time.monotonic() + 60
    while not all((folder / other).exists() for other in names):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def refuse(seconds: float) -> None:
    time.sleep(seconds)
    raise EpisodeTooSmall("too few.", classes=3)


class Odd(Exception):
    """An error that pickle stores and cannot read."""

    def __init__(self, *, what: str) -> None:
        super().__init__(what)


def fail_oddly() -> None:
    raise Odd(what="odd")


def fail_plainly() -> None:
    raise EOFError("file cut off")


def sleep_under(parent: Path) -> None:
    parent.write_text(str(os.getpid()))
    time.sleep(100)


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_the_order_of_the_calls_from_other_processes():
    heard: list[tuple[int, int, str]] = []
    calls = [partial(double, torch.arange(size)) for size in (3, 1, 2)]
    with progress.listening(lambda *now: heard.append(now)):
        found = side_by_side(calls, at_once=2)
    assert [values.tolist() for _, values in found] == [[0, 2, 4], [0], [0, 2]]
    assert os.getpid() not in {process for process, _ in found}
    assert sorted(heard) == [(1, 2, f"double {size}") for size in (1, 2, 3)]


def test_as_many_run_at_once_as_may(tmp_path):
    names = ["a", "b"]
    assert side_by_side([partial(meet, name, names, tmp_path) for name in names], at_once=2) == [None, None]


@pytest.mark.parametrize(("calls", "at_once"), [(1, 4), (3, 1)])
def test_what_has_no_company_runs_here(calls, at_once):
    assert {process for process, _ in side_by_side([partial(double, torch.ones(1))] * calls, at_once)} == {os.getpid()}


def test_error_of_one_stops_the_others_and_keeps_its_facts():
    started, before = time.monotonic(), set(descendants(os.getpid()))
    with pytest.raises(EpisodeTooSmall, match="too few") as caught:
        side_by_side([partial(refuse, 0.0), partial(time.sleep, 100)], at_once=2)
    assert caught.value.classes == 3
    assert time.monotonic() - started < 60
    assert set(descendants(os.getpid())) <= before


@pytest.mark.parametrize(
    ("fail", "kind", "said"), [(fail_oddly, RuntimeError, "odd"), (fail_plainly, EOFError, "cut off")]
)
def test_errors_of_all_kinds_come_back_with_where_they_were_raised(fail, kind, said):
    with pytest.raises(kind, match=said) as caught:
        side_by_side([fail, partial(time.sleep, 100)], at_once=2)
    assert fail.__name__ in "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


def test_result_that_cannot_be_stored_is_an_error():
    with pytest.raises((TypeError, RuntimeError), match="pickle"):
        side_by_side([threading.Lock, partial(time.sleep, 100)], at_once=2)


def test_processes_end_with_the_one_that_started_them(tmp_path):
    code = (
        "import sys; from functools import partial; from pathlib import Path;"
        "from test_side_by_side import sleep_under; from tasks.side_by_side import side_by_side;"
        "side_by_side([partial(sleep_under, Path(sys.argv[1], name)) for name in 'ab'], at_once=2)"
    )
    path = os.pathsep.join(sys.path)
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": path})
    deadline = time.monotonic() + 60
    while len(texts := [file.read_text() for file in tmp_path.iterdir()]) < 2 or not all(texts):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    parent.terminate()
    parent.wait()
    while any(_is_alive(int(pid)) for pid in texts):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_process_that_is_killed_is_told_with_a_way_out():
    with pytest.raises(ModelError, match="METAFUSE_THREADS=1"):
        side_by_side([end, partial(time.sleep, 100)], at_once=2)


def test_prior_is_the_same_whether_its_learners_are_trained_at_once_or_one_by_one(tracked_home, monkeypatch):
    lake = open_lake()
    add_domain(lake, "one", seed=1)
    add_domain(lake, "two", seed=2)
    small = TrainConfig(steps=3, meta_batch=2, n_way=2, shots=(1, 2), n_query=3)
    found = []
    for threads in ("1", "2"):
        monkeypatch.setenv("METAFUSE_THREADS", threads)
        get_settings.cache_clear()
        config = MetaTrainConfig(learners=("metric", "ridge", "auto"), train=small)
        # the same question has one answer, so the second is another by name only
        monkeypatch.setattr("tasks.train.version", lambda package, threads=threads: threads)
        report = meta_train_prior(lake, config)
        prior, _ = registry.load_prior(report.version)
        found.append((prior.weights(), [row.model_dump(exclude={"seconds"}) for row in report.leaderboard]))
    (alone, board), (at_once, same_board) = found
    assert board == same_board
    assert alone.keys() == at_once.keys()
    assert all(torch.equal(value, at_once[name]) for name, value in alone.items())
    run = connect().get_run(connect().get_model_version(report.model, report.version).run_id)
    assert {"metric", "ridge", "similarity"} <= set(runs_below(run))
    lasted = {name: below.info.end_time - below.info.start_time for name, below in runs_below(run).items()}
    for kind in ("metric", "ridge"):
        assert lasted[kind] == pytest.approx(1000 * runs_below(run)[kind].data.metrics["seconds"], abs=2)


def test_choice_is_the_same_whether_rehearsed_at_once_or_one_by_one():
    own = [tuple(f"{name}-{number:02d}" for number in range(16)) for name in ("tools", "toys", "books")]
    shops = [make_domain(f"shop-{n}", classes=own[n % 3], views=(TITLE, PICTURE), seed=n) for n in range(4)]
    members = {kind: build_learner(kind) for kind in ("metric", "ridge")}
    config = TrainConfig(steps=8, meta_batch=4, n_way=4, n_query=5, shots=(1, 3))
    alone = learn_to_choose(members, shops, config).state_dict()
    at_once = learn_to_choose(members, shops, config, progress.report, partial(side_by_side, at_once=2)).state_dict()
    assert alone["slope"].any()
    assert all(torch.equal(value, at_once[name]) for name, value in alone.items())


def test_comparison_and_transfer_are_the_same_at_once_or_one_by_one():
    shops = {f"shop-{n}": make_domain(f"shop-{n}", classes=24, views=(TITLE, PICTURE), seed=n) for n in range(3)}
    training = TrainConfig(steps=2, meta_batch=2, n_way=2, shots=(1,), n_query=3)
    size = {"learners": ("ridge",), "n_way": 2, "shots": (1,), "episodes": 5, "training": training}
    compared = BenchmarkConfig(train=("shop-0", "shop-1"), test=("shop-2",), split_seeds=(0, 1), **size)
    transferred = TransferConfig(**size)
    at_once, heard = partial(side_by_side, at_once=2), set()
    with progress.listening(lambda done, total, what: heard.add(what)):
        rows = run_comparison(compared, shops, progress.report, at_once).rows
        assert run_transfer(transferred, shops, progress.report, at_once) == run_transfer(transferred, shops)
    timeless = [
        [row.model_dump(exclude={"cpu_s_per_1000"}) for row in found] for found in (rows, run_protocol(compared, shops))
    ]
    assert timeless[0] == timeless[1]
    assert {"split 0: meta-train ridge", "split 1: meta-train ridge", "without shop-2: meta-train ridge"} <= heard
