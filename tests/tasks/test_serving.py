"""A registered model answers raw values as the lake's own features would be answered."""

import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from data_contracts.configs import AdaptConfig, MetaTrainConfig, TrainConfig
from data_contracts.errors import ContractError, MediaRefused, ModelRefused
from data_contracts.settings import get_settings, use_home
from tasks import registry
from tasks.adapt import adapt_to_domain
from tasks.contracts import contract_in_force
from tasks.embed import embed_domain
from tasks.features import load_domain
from tasks.ingest import ingest
from tasks.lake import Lake, open_lake
from tasks.media import open_media
from tasks.serving import Scorer
from tasks.train import meta_train_prior

pytestmark = pytest.mark.slow

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: urn:test:shapes
name: shapes
version: 1.0.0
status: active
servers:
  - {server: local, type: local, path: items.csv, format: csv}
schema:
  - name: items
    logicalType: object
    properties:
      - {name: item_id, logicalType: string, primaryKey: true}
      - {name: title, logicalType: string, customProperties: [{property: modality, value: text}]}
      - {name: picture, logicalType: string, customProperties: [{property: modality, value: image}]}
      - {name: weight, logicalType: number, required: true, customProperties: [{property: modality, value: tabular}]}
      - {name: made, logicalType: date, customProperties: [{property: modality, value: tabular}]}
      - {name: is_sold, logicalType: boolean, customProperties: [{property: modality, value: tabular}]}
      - {name: note, logicalType: string, customProperties: [{property: modality, value: tabular}]}
      - {name: label, logicalType: string, customProperties: [{property: modality, value: label}]}
"""
COLOURS = {"apple": (200, 30, 30), "leaf": (30, 160, 40), "sea": (20, 60, 200), "sun": (250, 220, 40)}
N_WAY, PER_CLASS = 4, 5
NOTES = ("true", "3")


def picture_of(colour: tuple[int, int, int], number: int, path: Path) -> None:
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[8 + number : 56 - number, 8:56] = colour
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[Path]:
    """The folder of a source that was ingested, embedded and adapted to, in a home of its own."""
    before = dict(os.environ)
    os.environ["METAFUSE_THREADS"] = "1"
    home = use_home(tmp_path_factory.mktemp("shapes") / "home").home
    (home / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
    folder = home.parent / "source"
    folder.mkdir()
    lines = ["item_id,title,picture,weight,made,is_sold,note,label"]
    for place, (label, colour) in enumerate(COLOURS.items()):
        for number in range(PER_CLASS):
            picture_of(colour, number, folder / f"{label}{number}.png")
            cells = f"{10 * place + number},2026-0{place + 1}-0{number + 1},{number % 2},{NOTES[number % 2]}"
            lines.append(f"{label}{number},a picture of the {label},{label}{number}.png,{cells},{label}")
    (folder / "items.csv").write_text("\n".join(lines) + "\n")
    (folder / "contract.yaml").write_text(CONTRACT)
    lake = open_lake()
    ingest(folder / "contract.yaml", folder, lake, open_media(), get_settings().docs)
    embed_domain(lake, open_media(), contract_in_force(lake, "shapes"))
    train_and_adapt(lake)
    yield folder
    os.environ.clear()
    os.environ.update(before)
    get_settings.cache_clear()


def train_and_adapt(lake: Lake) -> None:
    """Register a prior from another, made-up domain, because four classes are too few for one; then adapt."""
    from learning_lake import add_domain

    add_domain(lake, "made-up")
    train = TrainConfig(steps=0, n_way=2, shots=(1,), n_query=2)
    meta_train_prior(lake, MetaTrainConfig(domains=("made-up",), train=train))
    adapt_to_domain(lake, "shapes", AdaptConfig(shots=2))


@pytest.fixture(scope="module")
def files(shapes: Path) -> tuple[Path, Path]:
    """`config.json` and `weights.safetensors` of the registered model."""
    import mlflow

    ref = registry.resolve("metafuse.shapes")
    folder = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{ref.name}/{ref.version}/artifacts")
    return Path(folder, "config.json"), Path(folder, "weights.safetensors")


@pytest.fixture(scope="module")
def scorer(files: tuple[Path, Path]) -> Scorer:
    return Scorer.read(*files)


def row_of(folder: Path, label: str, number: int) -> dict[str, Any]:
    picture = base64.b64encode((folder / f"{label}{number}.png").read_bytes()).decode()
    place = list(COLOURS).index(label)
    return {
        "item_id": f"{label}{number}",
        "title": f"a picture of the {label}",
        "picture": picture,
        "weight": 10 * place + number,
        "made": f"2026-0{place + 1}-0{number + 1}",
        "is_sold": number % 2 == 1,
        "note": NOTES[number % 2],
    }


def test_raw_values_are_answered_as_stored_features_are(shapes: Path, scorer: Scorer):
    data = load_domain(open_lake(), "shapes")
    model, _ = registry.load_domain_model("shapes")
    wanted = model.predict(data)
    rows = [row_of(shapes, item[:-1], int(item[-1])) for item in data.item_ids]
    answers = scorer.answer(rows)
    given = torch.tensor([[answer["probabilities"][name] for name in model.classes] for answer in answers])
    torch.testing.assert_close(given, wanted, atol=1e-4, rtol=1e-3)


def test_missing_fields_are_left_out_of_the_decision(shapes: Path, scorer: Scorer):
    full = row_of(shapes, "sea", 4)
    answers = scorer.answer([{"title": full["title"]}, {"picture": full["picture"]}, {"title": float("nan")}, {}])
    assert [answer["label"] for answer in answers[:2]] == ["sea", "sea"]
    assert answers[3]["probability"] == pytest.approx(1 / N_WAY, abs=0.01)
    assert answers[2]["probabilities"] == answers[3]["probabilities"]


def test_picture_that_is_not_base64_is_refused(scorer: Scorer):
    with pytest.raises(ContractError, match="column 'picture' of the request must hold the bytes of a file as base64"):
        scorer.answer([{"picture": "not base64!"}])


WRONG = {
    "weight": ("a finite number", ["heavy", "inf", "1_000", 10**400, True]),
    "made": ("a date", ["2026-02-30", "yesterday", 3]),
    "is_sold": ("true or false", ["maybe", 2]),
}


@pytest.mark.parametrize(
    ("column", "value"), [(name, value) for name, (_, values) in WRONG.items() for value in values]
)
def test_cell_that_is_not_of_its_type_is_refused_with_its_row(scorer: Scorer, column: str, value: Any):
    said = f"column '{column}' of row 1 of the request must be {WRONG[column][0]}"
    with pytest.raises(ContractError, match=said):
        scorer.answer([{"weight": 12}, {column: value}])


@pytest.mark.parametrize("column", ["title", "picture", "weight", "note"])
@pytest.mark.parametrize("value", [[1], {"a": 1}, {1}, "\ud800"])
def test_cell_that_is_not_one_value_in_unicode_is_refused_with_its_row(scorer: Scorer, column: str, value: Any):
    with pytest.raises(ContractError, match=f"column '{column}' of row 1 of the request must be (one value|text in)"):
        scorer.answer([{}, {column: value}])


@pytest.mark.parametrize("missing", [None, "", float("nan"), np.float32("nan"), pd.NaT, pd.NA])
def test_every_way_to_say_that_a_value_is_missing_is_understood(scorer: Scorer, missing: Any):
    columns = ("title", "picture", "weight", "made", "is_sold", "note")
    nothing, said = scorer.answer([{}, dict.fromkeys(columns, missing)])
    assert nothing == said


def test_row_without_any_table_cell_has_no_table_whatever_its_id_is_called(scorer: Scorer):
    columns = [
        column.model_copy(update={"name": "sku"}) if column.role == "id" else column
        for column in scorer.contract.columns
    ]
    renamed = replace(scorer, contract=scorer.contract.model_copy(update={"columns": tuple(columns)}))
    presence = renamed.features([{"sku": "a"}, {"sku": "b", "note": "3"}]).presence
    names = [view.name for view in scorer.model.views]
    assert presence[:, names.index("tabular")].tolist() == [False, True]


def test_whole_numbers_that_a_data_frame_made_floats_are_whole_numbers(scorer: Scorer):
    frame = pd.DataFrame([{"is_sold": 1, "note": 3, "weight": 2}, {"title": "a sea"}])
    assert frame["is_sold"].dtype == frame["note"].dtype == float
    from_frame, _ = scorer.answer(frame.to_dict("records"))
    (as_given,) = scorer.answer([{"is_sold": "1", "note": "3", "weight": "2"}])
    assert from_frame["probabilities"] == pytest.approx(as_given["probabilities"])


def test_cells_are_read_as_ingest_reads_them(scorer: Scorer):
    as_text, as_value, in_frame = scorer.answer(
        [
            {"weight": "12", "made": "2026-02-03", "is_sold": "TRUE", "note": "true", "title": ""},
            {"weight": 12, "made": date(2026, 2, 3), "is_sold": True, "note": True},
            {"weight": 12.0, "made": pd.Timestamp("2026-02-03"), "is_sold": np.bool_(True), "note": np.bool_(True)},
        ]
    )
    assert as_text == as_value == in_frame


def test_request_without_any_column_of_the_model_is_refused_with_those_it_has(scorer: Scorer):
    scorer.check_columns(["weight", "price"])
    with pytest.raises(
        ContractError,
        match="no column that the model of 'shapes' looks at: title, picture, weight, made, is_sold, note",
    ):
        scorer.check_columns([])


def test_picture_that_cannot_be_decoded_is_refused(scorer: Scorer):
    with pytest.raises(MediaRefused):
        scorer.answer([{"picture": base64.b64encode(b"MZ not a picture").decode()}])


def test_model_of_other_encoders_is_refused(files: tuple[Path, Path], tmp_path: Path):
    config, weights = files
    text = config.read_text()
    encoder_id = next(view.encoder_id for view in Scorer.read(*files).model.views if view.name == "title")
    other = tmp_path / "config.json"
    other.write_text(text.replace(encoder_id, "another-encoder"))
    with pytest.raises(ModelRefused, match="encoded by 'another-encoder'"):
        Scorer.read(other, weights).answer([{"title": "a picture of the sea"}])


@pytest.mark.orchestrated
def test_mlflow_serves_a_request_with_text_and_a_picture(shapes: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = "models:/metafuse.shapes@champion"
    serve = ["models", "serve", "-m", uri, "--env-manager", "local", "--port", str(port), "--workers", "1"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # MLflow starts `uvicorn` by name
    environment = {**os.environ, "MLFLOW_TRACKING_URI": get_settings().mlflow, "PATH": path}
    server = subprocess.Popen([sys.executable, "-m", "mlflow", *serve], env=environment, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server)
        rows = [row_of(shapes, "sun", 4), {"title": "a picture of the leaf"}]
        request = {"dataframe_records": rows}
        answered = httpx.post(f"http://127.0.0.1:{port}/invocations", json=request, timeout=120)
        assert answered.status_code == 200, answered.text
        answers = answered.json()["predictions"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert [answer["label"] for answer in answers] == ["sun", "leaf"]
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"{url} did not answer")
