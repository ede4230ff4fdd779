"""What the READMEs promise: two command lines, commands that exist, JSON fields that are printed, files, learners."""

import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_contracts.reports import (
    AdaptReport,
    BenchmarkReport,
    BenchmarkRow,
    ColumnLoss,
    DomainDrift,
    DriftReport,
    EpisodeScore,
    IngestReport,
    LeaderboardRow,
    ScoreReport,
    TrainReport,
    TransferReport,
    TransferRow,
    ViewDrift,
)
from deployments.cli.app import app
from models.catalogue import AUTO, LEARNERS

ROOT = Path(__file__).parents[1]
README, CHANGELOG, MODELS = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CHANGELOG.md", "models/README.md")
)


def test_two_command_lines_run_it_and_test_it():
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert [block.count("\n") for block in blocks] == [1, 1]
    run, test = blocks
    assert run.endswith("metafuse demo\n")
    assert test.endswith("pytest\n")
    assert all("-c requirements.lock" in block for block in blocks)


def test_ci_runs_the_line_that_the_readme_gives_for_testing():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    function = re.search(r"^readme_line\(\) \{\n.*?^\}\n", script, flags=re.MULTILINE | re.DOTALL)
    command = f'{function.group()}readme_line "## Test it"'
    found = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"```sh\n{found}```" in README


@pytest.mark.parametrize("line", re.findall(r"^\| `metafuse ([^`]*)`", README, flags=re.MULTILINE))
def test_command_and_its_options_exist(line):
    words = re.findall(r"[a-z-]+", line.split("--")[0].split("[")[0].replace("DOMAIN", ""))
    help_text = CliRunner().invoke(app, [*(word for word in words if word != "-"), "--help"]).stdout
    assert help_text
    assert all(option in help_text for option in re.findall(r"--[a-z]+", line))


@pytest.mark.parametrize(
    ("answer", "report"),
    [
        ("ingest", IngestReport),
        ("adapt", AdaptReport),
        ("adapt", ColumnLoss),
        ("score", ScoreReport),
        ("meta-train", TrainReport),
        ("benchmark", BenchmarkReport),
        ("benchmark", BenchmarkRow),
        ("leaderboard", LeaderboardRow),
        ("transfer", TransferReport),
        ("transfer", TransferRow),
        ("transfer", EpisodeScore),
        ("drift", DriftReport),
        ("drift", DomainDrift),
        ("drift", ViewDrift),
    ],
)
def test_every_field_of_a_json_answer_is_listed(answer, report):
    (block,) = re.findall(rf"^{answer} +[{{[].*(?:\n +.*)*", README, flags=re.MULTILINE)
    assert set(report.model_fields) <= set(re.findall(r'"(\w+)"', block))


def test_every_learner_is_in_the_table_of_learners_and_in_the_changelog():
    table = re.findall(r"^\| `(\w+)` \| .*http|^\| `(\w+)` \| the same", MODELS, flags=re.MULTILINE)
    assert ["".join(names) for names in table] == [*LEARNERS, AUTO]
    assert all(f"`{kind}`" in CHANGELOG for kind in (*LEARNERS, AUTO))


@pytest.mark.parametrize("folder", ["data_contracts", "models", "tasks", "flows", "tests/benchmarks"])
def test_every_file_of_a_folder_is_in_its_readme(folder):
    text = (ROOT / folder.split("/")[0] / "README.md").read_text(encoding="utf-8")
    files = [path for path in (ROOT / folder).glob("*.py") if path.name not in ("__init__.py", "conftest.py")]
    named = [f"`{path.stem}`" if folder == "flows" else f"`{path.name}" for path in files if "test_" not in path.name]
    folders = [f"`{path.parent.name}/`" for path in (ROOT / folder).glob("*/__init__.py")]
    assert [name for name in (*named, *folders) if name not in text] == []


def test_lock_file_names_no_host_and_pins_every_line():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
