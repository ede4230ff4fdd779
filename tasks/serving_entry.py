"""What MLflow runs to serve a domain model: a file of its own, because MLflow copies it into every registered version.

It imports the installed package, so a server needs metafuse and nothing from the registry but numbers and JSON.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from tasks.serving import Scorer


class DomainScorer(PythonModel):  # type: ignore[misc]
    """Answers data frames of raw values."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the model once per server process."""
        artifacts = context.artifacts
        self.scorer = Scorer.read(Path(artifacts["config.json"]), Path(artifacts["weights.safetensors"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Return label, probability and all probabilities of each row.

        Raises:
            ContractError: no column is one that the model looks at, or a cell cannot be read.
            MediaRefused: media cannot be decoded.
        """
        self.scorer.check_columns(model_input.columns)
        return self.scorer.answer(model_input.to_dict("records"))


set_model(DomainScorer())
