"""The command line without flows: help, JSON, and refusals."""

import json
import math
import resource
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from data_contracts.settings import get_settings
from deployments.cli.answer import plain
from deployments.cli.leaderboard import shown_leaderboard
from deployments.cli.learn import shown_adaptation, shown_columns

COMMANDS = (
    "demo", "up", "doctor", "ingest", "meta-train", "adapt", "score", "drift", "benchmark", "transfer", "sql",
    "quarantine list", "contract check",
)  # fmt: skip

DOMAIN_FIRST = (
    ("adapt",), ("score",), ("drift",), ("meta-train", "--domains"), ("transfer", "--domains"),
    ("benchmark", "--test", "juguetes", "--train"),
)  # fmt: skip
"""Commands that a domain follows."""


def test_help_answers_in_under_a_second(metafuse):
    assert min(_cpu_s(metafuse) for _ in range(3)) < 1.0


def _cpu_s(metafuse) -> float:
    """Seconds of CPU, which other work on the machine hardly changes; the command waits for nothing else."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert metafuse.run("--help").code == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_imports_nothing_heavy():
    heavy = "{'torch', 'prefect', 'mlflow', 'duckdb', 'pyarrow', 'pandas', 'numpy', 'great_expectations'}"
    code = f"import sys, deployments.cli.app; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_writes_nothing(metafuse, home):
    assert metafuse.run("adapt", "--help").code == 0
    assert not home.exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_home_json_and_an_example(metafuse, name):
    result = metafuse.here(*name.split(), "--help")
    assert result.code == 0
    for words in ("--home", "--json", f"Example: metafuse {name}"):
        assert words in " ".join(result.out.split())


def test_home_may_stand_before_or_after_the_command(metafuse, home, toys):
    metafuse.here("contract", "check", toys)
    assert get_settings().home == home
    other = home.parent / "other"
    metafuse.here("contract", "check", toys, "--home", other)
    assert get_settings().home == other


def test_home_that_cannot_be_made_is_refused(metafuse, toys):
    assert "cannot be the home directory" in metafuse.here("contract", "check", toys, "--home", toys).refusal


def test_contract_check_prints_columns_views_and_rules(metafuse, toys):
    result = metafuse.here("contract", "check", toys, "--json")
    facts = json.loads(result.out)
    assert facts["domain"] == "toys"
    assert facts["views"] == [
        {"name": "title", "modality": "text", "columns": ["title"]},
        {"name": "tabular", "modality": "tabular", "columns": ["weight"]},
    ]
    assert facts["columns"][1]["rules"] == {"max_length": 40}
    assert "The contract is valid." in metafuse.here("contract", "check", toys).out


def test_missing_contract_is_refused(metafuse, tmp_path):
    refusal = metafuse.here("contract", "check", tmp_path / "none.yaml").refusal
    assert "none.yaml cannot be read: No such file" in refusal


def test_unreadable_contract_is_refused(metafuse, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(b"\xff\xfe\x00name: [")
    assert (
        "broken.yaml cannot be read as a contract: it is not UTF-8"
        in metafuse.here("contract", "check", broken).refusal
    )


def test_unknown_modality_is_refused_by_name(metafuse, toys):
    toys.write_text(toys.read_text().replace("value: text", "value: smell"))
    refusal = metafuse.here("contract", "check", toys).refusal
    assert "column 'title': modality 'smell' is unknown" in refusal


def test_refusal_with_json_is_json_too(metafuse, tmp_path):
    result = metafuse.here("contract", "check", tmp_path / "none.yaml", "--json")
    error = json.loads(result.out)["error"]
    assert result.code == 2
    assert error["type"] == "ContractInvalid"
    assert "none.yaml" in error["message"]


def test_class_list_that_is_not_there_is_refused(metafuse, tmp_path):
    ran = metafuse.here("benchmark", "--train", "a", "--test", "b", "--holdout-classes", tmp_path / "none.txt")
    assert "none.txt: No such file" in ran.refusal


@pytest.mark.parametrize(
    "arguments", [("--shots", "one"), ("--shots", "0"), ("--way", "1"), ("--split-seed", "x"), ("--test", ",")]
)
def test_wrong_option_is_named(metafuse, arguments):
    result = metafuse.here("benchmark", "--train", "a", "--test", "b", *arguments)
    assert result.code == 2
    assert arguments[0] in result.err or arguments[1] in result.err


@pytest.mark.parametrize("window", ["1", "5001"])
def test_window_of_drift_has_bounds(metafuse, window):
    result = metafuse.here("drift", "--window", window)
    assert result.code == 2
    assert "--window" in result.err


@pytest.mark.parametrize("arguments", DOMAIN_FIRST, ids=lambda arguments: arguments[0])
def test_name_that_cannot_be_a_domain_is_refused(metafuse, arguments):
    assert "'Noto_RU' cannot name a domain" in metafuse.here(*arguments, "Noto_RU").refusal


@pytest.mark.parametrize("arguments", DOMAIN_FIRST, ids=lambda arguments: arguments[0])
def test_domain_that_was_never_ingested_is_refused_before_prefect_starts(metafuse, monkeypatch, arguments):
    monkeypatch.setitem(sys.modules, "prefect", None)  # importing it fails
    refusal = metafuse.here(*arguments, "nowhere").refusal
    assert "no domain 'nowhere'" in refusal
    assert "metafuse ingest nowhere --contract FILE" in refusal


@pytest.mark.parametrize(
    ("domain", "contract", "source", "said"),
    [
        ("toys", "none.yaml", ".", "none.yaml cannot be read"),
        ("games", "contract.yaml", ".", "the contract of 'toys', not of 'games'"),
        ("toys", "contract.yaml", "elsewhere", "items.csv"),
    ],
)
def test_ingest_of_what_is_not_there_is_refused_before_prefect_starts(
    metafuse, toys, monkeypatch, domain, contract, source, said
):
    monkeypatch.setitem(sys.modules, "prefect", None)
    folder = toys.parent
    asked = ("ingest", domain, "--contract", folder / contract, "--source", folder / source)
    assert said in metafuse.here(*asked).refusal


@pytest.mark.parametrize(
    "arguments",
    [
        ("meta-train", "--learners", "metric,oracle"),
        ("adapt", "noto-ru", "--learner", "oracle"),
        ("benchmark", "--train", "a", "--test", "b", "--learners", "auto,oracle"),
        ("transfer", "--learners", "oracle"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_unknown_learner_is_refused_with_those_there_are(metafuse, arguments):
    refusal = metafuse.here(*arguments).refusal
    assert "no learner 'oracle'; choose from metric, " in refusal
    assert refusal.strip().endswith(", auto.")


def test_values_json_cannot_hold_are_translated():
    value = {
        "at": datetime(2026, 1, 2, tzinfo=UTC),
        "price": Decimal("1.5"),
        "missing": math.nan,
        "digest": b"\x00\xff",
        "path": Path("a/b"),
        "several": (1, True, None),
    }
    assert plain(value) == {
        "at": "2026-01-02T00:00:00+00:00",
        "price": 1.5,
        "missing": None,
        "digest": "00ff",
        "path": "a/b",
        "several": [1, True, None],
    }


def test_a_setting_that_cannot_be_used_is_refused_by_name(metafuse, toys, monkeypatch):
    monkeypatch.setenv("METAFUSE_THREADS", "many")
    assert "METAFUSE_THREADS is 'many'" in metafuse.here("contract", "check", toys).refusal


def test_columns_that_carried_most_are_shown_and_the_rest_counted():
    columns = {f"facts/{name}": {"loss": 0.5, "ci95": 0.125} for name in "abcdefg"}
    assert shown_columns(columns).startswith("facts/a 0.50 ± 0.12, facts/b")
    assert shown_columns(columns).endswith("facts/e 0.50 ± 0.12, and 2 more")
    assert shown_columns({}) == "none"


def test_accuracy_of_an_adaptation_is_shown_with_what_it_was_measured_on():
    facts = {
        "domain": "toys",
        "accuracy": 0.9,
        "ci95": 0.0314,
        "labels": 27,
        "tested": 45,
        "columns": {},
        "seconds": 1.0,
    }
    assert shown_adaptation(facts) == {
        "domain": "toys",
        "accuracy": "90.0% ± 3.1% of 45 labelled items that it has not seen",
        "labels": 27,
        "nats lost without columns": "none",
        "seconds": 1.0,
    }


@pytest.mark.parametrize(("width", "is_whole"), [("80", False), ("130", True)])
def test_leaderboard_of_a_narrow_terminal_leaves_out_what_has_no_room(monkeypatch, capsys, width, is_whole):
    monkeypatch.setenv("COLUMNS", width)
    row = {"shot": 5, "learner": "learned_optimizer", "family": "optimisation", "accuracy": 0.685, "ci95": 0.046}
    gains = {f"over_{what}{part}": 0.02 for what in ("tuned", "untrained") for part in ("", "_ci95")}
    Console().print(shown_leaderboard([{**row, **gains, "nll": 1.0, "ece": 0.05, "seconds": 18.9}]))
    line = next(line for line in capsys.readouterr().out.splitlines() if "learned_optimizer" in line)
    assert "68.5 ± 4.6" in line
    assert "+2.0 ± 2.0" in line
    assert ("optimisation" in line) is is_whole
