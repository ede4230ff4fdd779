import io

from rich.console import Console
from rich.progress import Progress

from deployments.cli.progress import Bars, shown_progress
from tasks import progress


def test_each_thing_that_reports_itself_has_one_bar():
    display = Progress(console=Console(file=io.StringIO()), disable=True)
    bars = Bars(display)
    for done in (0, 3, 7):
        bars(done, 10, "read")
    bars(1, 0, "think")
    assert [(task.description, task.completed, task.total) for task in display.tasks] == [
        ("read", 7, 10),
        ("think", 1, None),
    ]


def test_what_is_done_once_more_gets_a_bar_that_moves():
    display = Progress(console=Console(file=io.StringIO()), disable=True)
    bars = Bars(display)
    for now in ((0, 0), (1, 1), (0, 0)):
        bars(*now, "tune")
    assert [(task.completed, task.total, task.finished) for task in display.tasks] == [(0, None, False)]
    bars(1, 1, "tune")
    assert [(task.completed, task.total, task.finished) for task in display.tasks] == [(1, 1, True)]


def test_ended_bars_give_way_where_there_are_many():
    display = Progress(console=Console(file=io.StringIO()), disable=True)
    bars = Bars(display)
    bars(0, 2, "goes on")
    for number in range(20):
        bars(1, 1, f"done {number}")
    assert [task.description for task in display.tasks] == ["goes on", *(f"done {number}" for number in range(13, 20))]
    for number in range(20):
        bars(0, 1, f"goes on {number}")
    assert [task.description for task in display.tasks] == ["goes on", *(f"goes on {number}" for number in range(20))]


def test_nothing_is_shown_when_nobody_is_watching(capsys):
    with shown_progress():
        progress.report(1, 2, "read")
    assert capsys.readouterr() == ("", "")
