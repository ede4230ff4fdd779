"""Where things are: the one place that reads, or sets, the environment.

A setting says *where*; a config (`data_contracts.configs`) says *what*.
"""

import os
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from data_contracts.errors import HomeUnusable, SettingInvalid


class Settings(BaseSettings):
    """Locations and machine limits, from `METAFUSE_*` variables."""

    model_config = SettingsConfigDict(env_prefix="METAFUSE_", frozen=True, extra="ignore")

    home: Path = Field(default=Path(".metafuse"), description="everything metafuse writes lies below it")
    lake_uri: str | None = Field(default=None, description="Delta tables; default HOME/lake")
    media_uri: str | None = Field(default=None, description="content-addressed media; default HOME/media")
    mlflow_uri: str | None = Field(default=None, description="MLflow server or database; default SQLite in HOME")
    threads: int = Field(default=2, ge=1, description="CPU threads of one encoder, and trainings at once")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="where learners are meta-trained")
    decode_workers: int = Field(default=2, ge=1, description="processes that decode media")
    decode_timeout_s: float = Field(default=30.0, gt=0, description="longest time one media file may take")
    decode_memory_bytes: int = Field(default=2 * 1024**3, gt=0, description="address space of one decoder")

    @property
    def lake(self) -> str:
        """URI of the folder that holds the Delta tables."""
        return self.lake_uri or str(self.home.absolute() / "lake")

    @property
    def media(self) -> str:
        """URI of the folder that holds media by their SHA-256."""
        return self.media_uri or str(self.home.absolute() / "media")

    @property
    def mlflow(self) -> str:
        """MLflow tracking and registry URI."""
        return self.mlflow_uri or f"sqlite:///{self.mlflow_database}"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's SQLite file in the home, where it is unless `mlflow_uri` names another place."""
        return self.home.absolute() / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> str:
        """Folder for MLflow's artifacts when no MLflow server holds them."""
        return (self.home.absolute() / "mlartifacts").as_uri()

    @property
    def docs(self) -> Path:
        """Folder of Data Docs, contract pages and reports."""
        return self.home.absolute() / "docs"

    @property
    def cache(self) -> Path:
        """Folder of what can be rebuilt: exported encoders, checkpoints."""
        return self.home.absolute() / "cache"


@cache
def get_settings() -> Settings:
    """Read the environment once; `use_home` makes it be read again."""
    return Settings()


def use_home(home: Path | None = None, *, prefect_log_level: str = "WARNING") -> Settings:
    """Make `home` (default: what the environment says) the home of this process and of those it starts.

    Also silences every third party that would report usage, and keeps Prefect's own files in the home.
    Prefect logs from `prefect_log_level` upwards unless the environment says otherwise.

    Call it before Prefect or MLflow is imported: both read their settings at import.

    Raises:
        HomeUnusable: the folder is not there and cannot be made.
        SettingInvalid: a `METAFUSE_*` variable has a value that cannot be used.
    """
    if home is not None:
        os.environ["METAFUSE_HOME"] = str(home.absolute())
    get_settings.cache_clear()
    settings = _checked_settings()
    absolute = settings.home.absolute()
    _make_folder(absolute)
    os.environ["METAFUSE_HOME"] = str(absolute)
    for name, value in _THIRD_PARTIES.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(absolute / "prefect"))
    for name in ("PREFECT_LOGGING_LEVEL", "PREFECT_SERVER_LOGGING_LEVEL"):
        os.environ.setdefault(name, prefect_log_level)
    get_settings.cache_clear()
    return get_settings()


def _checked_settings() -> Settings:
    try:
        return get_settings()
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        name = "METAFUSE_" + "_".join(str(part) for part in first["loc"]).upper()
        raise SettingInvalid(
            f"The environment variable {name} is {first['input']!r:.80}: {first['msg']}. Correct it or unset it.",
            name=name,
        ) from exc


def _make_folder(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise HomeUnusable(
            f"{home} cannot be the home directory: {exc.strerror}. Give one that can be written with --home DIR or "
            "METAFUSE_HOME.",
            home=str(home),
        ) from exc


_THIRD_PARTIES = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    "PREFECT_SERVER_TASKS_TAG_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GX_ANALYTICS_ENABLED": "false",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
