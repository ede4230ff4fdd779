from datetime import UTC, datetime

import pyarrow as pa
import pytest

from data_contracts.errors import QueryRefused
from data_contracts.tables import PREDICTIONS
from tasks.lake import Lake


def test_latest_predictions_are_those_of_the_last_scoring_of_each_domain(tmp_path):
    lake = Lake(str(tmp_path))
    for domain, label, day in (("a", "old", 1), ("a", "new", 2), ("b", "only", 1)):
        lake.append("predictions", pa.Table.from_pylist([_prediction(domain, label, day)], schema=PREDICTIONS))
    found = lake.query("SELECT domain, label FROM latest_predictions ORDER BY domain").to_pylist()
    assert found == [{"domain": "a", "label": "new"}, {"domain": "b", "label": "only"}]


@pytest.mark.parametrize(
    ("sql", "is_hinted"),
    [
        ("SELECT max(at) FROM labels", True),
        ("SELECT At FROM labels", True),
        ('SELECT "at", FROM FROM labels', False),
        ("SELECT what FROM WHERE", False),
    ],
)
def test_column_that_is_a_word_of_sql_is_told_how_to_be_written(tmp_path, sql, is_hinted):
    with pytest.raises(QueryRefused, match="cannot be read") as caught:
        Lake(str(tmp_path)).query(sql, 1)
    assert ('write "at", in double quotes' in str(caught.value)) == is_hinted


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
