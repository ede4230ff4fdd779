"""Checks of the machine and the installation, each with the remedy if it does not pass.

The pins guard against versions that import well and fail later: see the comments in pyproject.toml.
"""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from data_contracts.settings import Settings, get_settings

Status = Literal["ok", "warn", "fail"]
OLDEST_PYTHON = (3, 11)
NEEDED_BYTES = 2 * 1024**3
REINSTALL = "Run: pip install -c requirements.lock -e '.[demo]'"


@dataclass(frozen=True)
class Finding:
    """What one check found; `remedy` is empty if nothing needs doing."""

    check: str
    status: Status
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the finding for JSON."""
        return asdict(self)


def run_checks() -> Iterator[Finding]:
    """Yield the findings one by one, as they are made."""
    settings = get_settings()
    yield check_python()
    yield from check_packages()
    yield check_home(settings)
    yield check_disk(settings)
    yield check_threads(settings)
    yield check_prefect()
    yield check_mlflow(settings)
    yield check_encoders()


def check_python() -> Finding:
    """Find whether Python is new enough."""
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("python", "fail", found, "Make the virtual environment with Python 3.11 or newer.")
    return Finding("python", "ok", found)


def check_packages() -> Iterator[Finding]:
    """Find installed packages that are missing or outside the ranges metafuse was tested with."""
    wrong = [problem for text in _requirements() if (problem := problem_with(Requirement(text)))]
    if wrong:
        yield from (Finding("packages", "fail", problem, REINSTALL) for problem in wrong)
        return
    yield Finding("packages", "ok", f"{len(_requirements())} requirements met")


def _requirements() -> list[str]:
    return importlib.metadata.requires("metafuse") or []


def problem_with(requirement: Requirement) -> str | None:
    """Say how the installed version misses `requirement`, or return None; what only an extra needs may be missing."""
    is_optional = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return None if is_optional else f"{requirement.name} is not installed, {requirement.specifier} is needed"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} is {version}, {requirement.specifier} is needed"


def check_home(settings: Settings) -> Finding:
    """Find whether files can be written in the home directory."""
    home = settings.home.absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"metafuse")
    except OSError as exc:
        return Finding(
            "home", "fail", f"{home} cannot be written: {exc.strerror}", "Choose another one with --home DIR."
        )
    return Finding("home", "ok", f"{home} can be written")


def check_disk(settings: Settings) -> Finding:
    """Find whether the home directory's disk has room for the demo."""
    free = shutil.disk_usage(_existing(settings.home.absolute())).free
    found = f"{free / 1024**3:.1f} GiB free"
    if free < NEEDED_BYTES:
        return Finding("disk", "warn", found, f"Free some space: {NEEDED_BYTES / 1024**3:.0f} GiB are comfortable.")
    return Finding("disk", "ok", found)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_threads(settings: Settings) -> Finding:
    """Find whether the threads that settings ask for exist: too many cost 5 to 25 times the speed."""
    import torch

    cores = _cores()
    found = f"{settings.threads} threads on {cores} cores, torch uses {torch.get_num_threads()}"
    if settings.threads > cores:
        return Finding("threads", "warn", found, f"Set METAFUSE_THREADS={cores}.")
    return Finding("threads", "ok", found)


def _cores() -> int:
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def check_prefect() -> Finding:
    """Find whether Prefect's server can be imported; wrong fastapi versions break only that."""
    try:
        prefect = importlib.import_module("prefect")
        importlib.import_module("prefect.server.api.server")
    except (ImportError, AttributeError, TypeError, ValueError) as exc:
        return Finding("prefect", "fail", f"its server does not import: {exc}", REINSTALL)
    return Finding("prefect", "ok", f"Prefect {prefect.__version__}, flows run without a server")


def check_mlflow(settings: Settings) -> Finding:
    """Find whether the tracking database or server answers."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = mlflow.MlflowClient(settings.mlflow, settings.mlflow)
        models = len(client.search_registered_models(max_results=1000))
    except (MlflowException, SQLAlchemyError, OSError) as exc:
        reason = str(exc).splitlines()[0]
        return Finding("mlflow", "fail", f"{settings.mlflow}: {reason}", "Check METAFUSE_MLFLOW_URI, or unset it.")
    return Finding("mlflow", "ok", f"MLflow {mlflow.__version__} at {settings.mlflow}, {models} registered models")


def check_encoders() -> Finding:
    """Find whether the encoders load offline and encode something."""
    import numpy as np

    from data_contracts.names import Modality
    from tasks.encoders import default_encoders

    samples: dict[Modality, object] = {
        "text": "metafuse",
        "image": np.zeros((32, 32, 3), np.uint8),
        "audio": np.zeros(16_000, np.float32),
    }
    started = time.perf_counter()
    try:
        sizes = [
            f"{modality} {encoder.encode([sample]).shape[1]}"
            for modality, sample in samples.items()
            for encoder in default_encoders(modality)
        ]
    except (ImportError, OSError, RuntimeError) as exc:
        return Finding("encoders", "fail", f"an encoder does not load: {exc}", REINSTALL)
    return Finding("encoders", "ok", f"{', '.join(sizes)} numbers an item, in {time.perf_counter() - started:.1f} s")
