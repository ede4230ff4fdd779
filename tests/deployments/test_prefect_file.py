"""What `prefect.yaml` names is there: flows, their parameters, and the events that start them."""

from importlib import import_module
from typing import Any

import pytest
import yaml

from deployments.up import PREFECT_FILE
from tasks.events import DRIFT_FOUND, LABELS_ARRIVED

DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load(PREFECT_FILE.read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda found: f"{found['entrypoint']}/{found['name']}")
def test_entry_point_is_a_flow_that_can_run_as_it_is_started(deployment):
    module, name = deployment["entrypoint"].rsplit(".", 1)
    parameters = getattr(import_module(module), name).parameters
    given = {name for trigger in deployment.get("triggers", ()) for name in trigger["parameters"]}
    assert given <= set(parameters.properties)
    if "schedules" in deployment or "triggers" in deployment:
        assert set(parameters.required) <= given


def test_every_event_that_is_announced_adapts():
    triggers = [
        (deployment["entrypoint"], event)
        for deployment in DEPLOYMENTS
        for trigger in deployment.get("triggers", ())
        for event in trigger["expect"]
    ]
    assert sorted(triggers) == [("flows.adapt_domain.adapt_domain", event) for event in (DRIFT_FOUND, LABELS_ARRIVED)]
