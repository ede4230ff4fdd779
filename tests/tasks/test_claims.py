import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.claims import claim, once
from tasks.lake import Lake


class Work:
    """Something to be done once; counts how often it was."""

    def __init__(self) -> None:
        self.done: str | None = None
        self.times = 0
        self.lock = threading.Lock()

    def find(self) -> str | None:
        return self.done

    def do(self) -> str:
        time.sleep(0.3)
        with self.lock:
            self.times += 1
        self.done = "result"
        return "result"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def test_work_that_is_done_is_not_done_again(lake: Lake):
    work = Work()
    assert once(lake, "k", find=work.find, work=work.do) == ("result", True)
    assert once(lake, "k", find=work.find, work=work.do) == ("result", False)
    assert work.times == 1


def test_of_64_that_try_at_once_one_works_and_all_get_the_result(lake: Lake):
    work = Work()
    with ThreadPoolExecutor(64) as pool:
        results = list(pool.map(lambda _: once(lake, "k", find=work.find, work=work.do), range(64)))
    assert work.times == 1
    assert sum(worked for _, worked in results) == 1
    assert {result for result, _ in results} == {"result"}


def test_failed_work_gives_its_claim_up(lake: Lake):
    work = Work()

    def fail() -> str:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        once(lake, "k", find=work.find, work=fail)
    assert once(lake, "k", find=work.find, work=work.do) == ("result", True)


def test_claim_of_a_dead_worker_is_taken_over_when_its_lease_ends(lake: Lake):
    work = Work()
    assert claim(lake, "k", lease_s=60)  # by a worker that is never seen again
    assert not claim(lake, "k", lease_s=60)
    started = time.monotonic()
    assert once(lake, "k", find=work.find, work=work.do, lease_s=1.0) == ("result", True)
    assert time.monotonic() - started > 0.5


def test_work_longer_than_its_lease_is_not_taken_over(lake: Lake):
    work, other = Work(), Work()

    def do_slowly() -> str:
        time.sleep(3)
        return work.do()

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(once, lake, "k", find=work.find, work=do_slowly, lease_s=1.5)
        time.sleep(0.5)
        late = pool.submit(once, lake, "k", find=work.find, work=other.do, lease_s=1.5)
        assert (slow.result(), late.result()) == (("result", True), ("result", False))
    assert (work.times, other.times) == (1, 0)


def test_claims_of_different_work_do_not_meet(lake: Lake):
    assert claim(lake, "it's one", lease_s=60)
    assert claim(lake, "another", lease_s=60)
