import pytest
from ingest_again import measure_again

LIMIT = 0.1


@pytest.mark.slow
def test_an_unchanged_source_costs_a_tenth_of_its_first_ingest(home):
    assert measure_again()["ratio"] < LIMIT
