"""Looking at the runs that MLflow keeps."""

from mlflow.entities import Run

from tasks.tracking import connect


def runs_below(run: Run) -> dict[str, Run]:
    """The runs below a run, by name."""
    found = connect().search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    return {below.info.run_name: below for below in found}


def artifacts_of(run: Run, folder: str | None = None) -> set[str]:
    """Paths of all files of a run."""
    paths: set[str] = set()
    for entry in connect().list_artifacts(run.info.run_id, folder):
        paths |= artifacts_of(run, entry.path) if entry.is_dir else {entry.path}
    return paths
