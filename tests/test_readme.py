"""What the README promises: two command lines, commands that exist, and JSON fields that are printed."""

import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_contracts.reports import AdaptReport, BenchmarkRow, IngestReport
from deployments.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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


@pytest.mark.parametrize("report", [IngestReport, AdaptReport, BenchmarkRow])
def test_every_field_of_a_json_answer_is_listed(report):
    listed = ",".join(re.findall(r'"(\w+)"', README))
    assert all(name in listed.split(",") for name in report.model_fields)


def test_lock_file_names_no_host_and_pins_every_line():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
