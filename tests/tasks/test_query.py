from datetime import UTC, datetime

import pyarrow as pa

from data_contracts.tables import PREDICTIONS
from tasks.lake import Lake


def test_latest_predictions_are_those_of_the_last_scoring_of_each_domain(tmp_path):
    lake = Lake(str(tmp_path))
    for domain, label, day in (("a", "old", 1), ("a", "new", 2), ("b", "only", 1)):
        lake.append("predictions", pa.Table.from_pylist([_prediction(domain, label, day)], schema=PREDICTIONS))
    found = lake.query("SELECT domain, label FROM latest_predictions ORDER BY domain").to_pylist()
    assert found == [{"domain": "a", "label": "new"}, {"domain": "b", "label": "only"}]


def _prediction(domain: str, label: str, day: int) -> dict:
    return {
        "domain": domain,
        "score_id": f"{domain}-{day}",
        "item_id": "1",
        "model": f"metafuse.{domain}",
        "model_version": "1",
        "rung": "champion",
        "label": label,
        "probability": 0.9,
        "is_abstained": False,
        "probabilities_json": "{}",
        "cluster": 0,
        "anomaly_score": 0.1,
        "is_anomaly": False,
        "at": datetime(2026, 1, day, tzinfo=UTC),
    }
