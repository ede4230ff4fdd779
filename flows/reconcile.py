"""Finish what a crash left undone."""

from prefect import flow

from tasks.dead_runs import revive
from tasks.events import deliver


@flow(name="reconcile")
def reconcile() -> dict[str, int]:
    """Send the events that nobody has seen delivered, and start runs again that something else ended.

    Returns how many events were delivered, runs found dead and runs restarted. Safe to run at any time.
    """
    return {"delivered": deliver(), **revive()}
