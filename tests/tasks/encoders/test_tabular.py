import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from data_contracts.errors import ModelRefused
from tasks.encoders.tabular import BUCKETS, TabularEncoder


def fit(**columns) -> TabularEncoder:
    return TabularEncoder.fit(pa.table(columns), list(columns))


def test_number_becomes_z_score_rank_and_flag():
    encoder = fit(year=[2010, 2014, 2018])
    expected = [[-np.sqrt(1.5), -1, 0], [0, 0, 0], [np.sqrt(1.5), 1, 0]]
    np.testing.assert_allclose(encoder.encode([{"year": 2010}, {"year": 2014}, {"year": 2018}]), expected, atol=1e-6)


def test_missing_value_is_zero_but_for_its_flag():
    encoder = fit(year=[2010, None, 2018], colour=["red", "blue", None], is_new=[True, None, False])
    vector = encoder.encode([{}])[0]
    flags = np.cumsum([3, 2 + BUCKETS + 1, 2]) - 1
    assert np.flatnonzero(vector).tolist() == flags.tolist()
    assert vector[flags].tolist() == [1, 1, 1]


def test_tied_values_share_the_middle_of_their_ranks():
    encoder = fit(paths=[0, 0, 0, 1])
    ranks = encoder.encode([{"paths": 0}, {"paths": 1}])[:, 1]
    assert -0.4 < ranks[0] < -0.2
    assert ranks[1] == 1


def test_outliers_and_infinities_stay_finite():
    encoder = fit(size=[1.0, 2.0, 3.0])
    vectors = encoder.encode([{"size": 1e300}, {"size": float("inf")}, {"size": float("nan")}])
    assert np.abs(vectors).max() <= 4
    assert vectors[:, 2].tolist() == [0, 1, 1]


def test_constant_and_empty_columns_give_zeros():
    encoder = fit(constant=[7, 7], empty=pa.array([None, None], pa.float64()))
    assert encoder.encode([{"constant": 7}]).tolist() == [[0, 0, 0, 0, 0, 1]]


def test_frequent_categories_get_their_own_number_and_others_share_buckets():
    encoder = fit(colour=["red", "red", "blue"])
    vectors = encoder.encode([{"colour": "red"}, {"colour": "blue"}, {"colour": "never seen"}])
    assert vectors.sum(axis=1).tolist() == [1, 1, 1]
    assert vectors[0, 0] == 1
    assert vectors[1, 1] == 1
    assert vectors[2, 2 : 2 + BUCKETS].sum() == 1


def test_booleans_are_plus_and_minus_one():
    assert fit(is_new=[True, False]).encode([{"is_new": True}, {"is_new": False}]).tolist() == [[1, 0], [-1, 0]]


@pytest.mark.parametrize(
    "kind", [pa.date32(), pa.timestamp("s"), pa.timestamp("us", tz="UTC")], ids=["date", "naive", "utc"]
)
def test_instants_a_year_apart_share_their_place_in_the_year(kind):
    days = pa.array([dt.datetime(2020, 6, 1), dt.datetime(2021, 6, 1), dt.datetime(2021, 12, 1)], pa.timestamp("us"))
    table = pa.table(
        {"added": days.cast(kind) if kind != pa.timestamp("us", tz="UTC") else days.cast(pa.int64()).cast(kind)}
    )
    vectors = TabularEncoder.fit(table, ["added"]).encode_table(table)
    np.testing.assert_allclose(vectors[0, :2], vectors[1, :2], atol=0.02)
    assert np.linalg.norm(vectors[1, :2] - vectors[2, :2]) > 1.9
    assert vectors[:, 5].tolist() == [-1, 0, 1]


def test_stored_state_gives_the_same_encoder():
    table = pa.table(
        {
            "year": [2010, None, 2018],
            "added": pa.array([dt.date(2020, 1, 1), None, dt.date(2021, 5, 9)]),
            "colour": ["red", "blue", None],
            "is_new": [True, None, False],
        }
    )
    encoder = TabularEncoder.fit(table, table.column_names)
    again = TabularEncoder.from_state(encoder.state())
    assert again.encoder_id == encoder.encoder_id
    assert again.columns == tuple(table.column_names)
    np.testing.assert_array_equal(again.encode_table(table), encoder.encode_table(table))
    np.testing.assert_array_equal(again.encode(table.to_pylist()), encoder.encode_table(table))
    assert encoder.encode_table(table).shape == (3, encoder.dim)


def test_each_column_names_the_numbers_it_became():
    rows = [{"year": 2010, "colour": "red", "is_new": True}, {"year": 2018, "colour": "blue", "is_new": False}]
    encoder = TabularEncoder.fit(pa.Table.from_pylist(rows), list(rows[0]))
    first = encoder.encode(rows)[0]
    assert encoder.numbers["is_new"] == slice(encoder.dim - 2, encoder.dim)
    for column, numbers in encoder.numbers.items():
        changed = np.flatnonzero(encoder.encode([{**rows[0], column: rows[1][column]}])[0] != first)
        assert len(changed)
        assert numbers.start <= changed.min() <= changed.max() < numbers.stop


def test_other_data_give_another_name():
    assert fit(year=[1, 2]).encoder_id != fit(year=[1, 3]).encoder_id


@pytest.mark.parametrize(
    "state",
    [
        "{}",
        "not json",
        '{"version":1,"rows":1,"columns":[{"kind":"number","name":"a"}]}',
        '{"version":1,"rows":1,"columns":[]}',
    ],
    ids=["empty", "not json", "incomplete", "no columns"],
)
def test_damaged_state_is_refused(state):
    with pytest.raises(ModelRefused, match="state of a table encoder cannot be used"):
        TabularEncoder.from_state(state)
