"""Tags by which runs are found in Prefect's pages."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import tags
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run


@contextmanager
def tagged(name: str) -> Iterator[None]:
    """Tag the flow run that calls this, and every task run of the body; outside a flow run, only those."""
    if flow_run.id is not None:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, tags={*flow_run.tags, name})
    with tags(name):
        yield
