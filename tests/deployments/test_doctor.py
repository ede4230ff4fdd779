"""Findings of `metafuse doctor`, each with its remedy."""

import pytest
from packaging.requirements import Requirement

from data_contracts.settings import Settings
from deployments.doctor import REINSTALL, check_disk, check_home, check_mlflow, check_threads, problem_with


def test_version_outside_the_tested_range_is_named():
    assert problem_with(Requirement("pyyaml>=99")).startswith("pyyaml is 6.")
    assert problem_with(Requirement("pyyaml>=6")) is None


def test_missing_package_is_a_problem_unless_it_belongs_to_an_extra():
    assert problem_with(Requirement("no-such-package>=1")) == "no-such-package is not installed, >=1 is needed"
    assert problem_with(Requirement("no-such-package>=1; extra == 'demo'")) is None


def test_home_that_is_a_file_fails_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    finding = check_home(Settings(home=tmp_path / "file"))
    assert (finding.status, "--home DIR" in finding.remedy) == ("fail", True)


def test_disk_of_a_home_that_does_not_exist_yet_is_checked(tmp_path):
    assert check_disk(Settings(home=tmp_path / "a" / "b")).status in {"ok", "warn"}


def test_more_threads_than_cores_is_a_warning():
    assert check_threads(Settings(threads=4096)).status == "warn"


def test_unreachable_registry_fails_with_a_remedy(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database, and too long to be taken for an empty one" * 10)
    finding = check_mlflow(Settings(home=tmp_path, mlflow_uri=None))
    assert (finding.status, "METAFUSE_MLFLOW_URI" in finding.remedy) == ("fail", True)


@pytest.mark.slow
def test_a_good_installation_passes(metafuse):
    facts = metafuse.run("doctor", "--json").facts
    assert facts["ok"], facts
    assert {check["check"] for check in facts["checks"]} >= {"python", "packages", "home", "mlflow", "encoders"}


def test_remedy_names_the_lock_file():
    assert "requirements.lock" in REINSTALL
