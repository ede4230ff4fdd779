"""The model registry: versions, aliases and lineage in MLflow; only numbers and JSON are ever read back from it.

A version holds `weights.safetensors`, `config.json` and `MODEL_CARD.md`, each with its SHA-256 in a tag, and beside
them a pyfunc for those who choose to serve it with MLflow. Our own loader never touches the pyfunc: it checks the
digests, reads the two data files and lets `models.catalogue` build an architecture from its allow-list.
"""

import hashlib
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from data_contracts.errors import ContractInvalid, ModelRefused, UnknownModel
from data_contracts.names import check_domain
from data_contracts.reports import ModelRef
from data_contracts.tables import PROMOTIONS
from tasks.tracking import connect, find_experiment, translated_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature
    from torch import Tensor

    from models.learner import DomainModel, Prior

PRIOR = "metafuse.prior"
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
KEY_TAG = "metafuse.key"
"""Tag that holds the digest of everything a version was made from; the same key is never registered twice."""

DECISION_TAG = "metafuse.decision"
"""Tag that holds what the gate said of a version; without it, nothing was decided yet."""

MAX_BYTES = 256 * 1024**2
"""A weights file larger than this is refused unread."""

_WEIGHTS, _CONFIG, _CARD = "weights.safetensors", "config.json", "MODEL_CARD.md"
_PYFUNC = Path(__file__).with_name("serving_entry.py")


@dataclass(frozen=True)
class Package:
    """What one version consists of; `context` is what serving needs besides the model (encoder states, support)."""

    config: Mapping[str, Any]
    weights: Mapping[str, "Tensor"]
    card: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)


def model_name(domain: str) -> str:
    """Name under which the models of `domain` are registered.

    Raises:
        ContractInvalid: the domain's name is not allowed, or is taken by the prior.
    """
    name = f"metafuse.{check_domain(domain)}"
    if name == PRIOR:
        raise ContractInvalid(
            f"a domain cannot be called {domain!r}: {PRIOR!r} is the registered name of the prior over all domains. "
            "Rename the domain in its contract.",
            domain=domain,
        )
    return name


def save_prior(
    learner: "Prior", *, card: str, tags: Mapping[str, str], context: Mapping[str, Any] | None = None
) -> ModelRef:
    """Register a new version of the prior, inside the open `tracked_run` if there is one."""
    return _save(PRIOR, Package(learner.config(), learner.weights(), card, context or {}), tags)


def save_domain_model(
    domain: str, model: "DomainModel", *, card: str, tags: Mapping[str, str], context: Mapping[str, Any]
) -> ModelRef:
    """Register a new version of the model of `domain`, inside the open `tracked_run` if there is one."""
    name = model_name(domain)
    return _save(name, Package(model.config(), model.weights(), card, context), {"domain": domain, **tags})


def load_prior(ref: str = CHAMPION) -> tuple["Prior", ModelRef]:
    """Return the prior registered under an alias or version number.

    Raises:
        UnknownModel: there is no such version.
        ModelRefused: the version fails its integrity checks.
    """
    found = resolve(PRIOR, ref)
    return build_prior(read_package(found), found), found


def load_domain_model(domain: str, ref: str = CHAMPION) -> tuple["DomainModel", ModelRef]:
    """Return the model of `domain` registered under an alias or version number; raises like `load_prior`."""
    found = resolve(model_name(domain), ref)
    return build_domain_model(read_package(found), found), found


def build_prior(package: Package, ref: ModelRef) -> "Prior":
    """Build the learner a package describes; raises like `build_domain_model`."""
    from models.catalogue import load_prior as build

    with _refusing(ref):
        return build(package.config, package.weights)


def build_domain_model(package: Package, ref: ModelRef) -> "DomainModel":
    """Build the model a package describes.

    Raises:
        ModelRefused: its kind is unknown or its weights do not fit its config.
    """
    from models.catalogue import load_domain_model as build

    with _refusing(ref):
        return build(package.config, package.weights)


def resolve(name: str, ref: str = CHAMPION) -> ModelRef:
    """Return the version of `name` that `ref`, an alias or a number, stands for.

    Raises:
        UnknownModel: there is no such model, version or alias.
    """
    client = connect()
    with translated_errors(f"version {ref!r} of model {name!r}"):
        found = client.get_model_version(name, ref) if ref.isdigit() else client.get_model_version_by_alias(name, ref)
    return _as_ref(found)


def resolve_or_none(name: str, ref: str = CHAMPION) -> ModelRef | None:
    """Return what `resolve` would, or None if there is no such version."""
    try:
        return resolve(name, ref)
    except UnknownModel:
        return None


def find_by_key(name: str, key: str) -> ModelRef | None:
    """Return the version of `name` made from exactly what `key` digests, if it was ever registered."""
    client = connect()
    with translated_errors(f"versions of model {name!r}"):
        found = client.search_model_versions(f"name = '{name}' and tags.`{KEY_TAG}` = '{key}'")
    return min(map(_as_ref, found), key=lambda ref: int(ref.version)) if found else None


def find_judged(name: str, key: str) -> ModelRef | None:
    """Return the version of `name` made from what `key` digests if the gate has judged it."""
    found = find_by_key(name, key)
    return found if found is not None and DECISION_TAG in found.tags else None


def alias_of(ref: ModelRef) -> str | None:
    """Return the alias a version has now, the foremost if it has several, None if it has none."""
    client = connect()
    with translated_errors(f"version {ref.version} of model {ref.name!r}"):
        held = client.get_model_version(ref.name, ref.version).aliases
    return next((alias for alias in (CHAMPION, CHALLENGER, PREVIOUS) if alias in held), None)


def tag(ref: ModelRef, tags: Mapping[str, str]) -> ModelRef:
    """Add tags to a version and return it with them."""
    client = connect()
    with translated_errors(f"version {ref.version} of model {ref.name!r}"):
        for name, value in tags.items():
            client.set_model_version_tag(ref.name, ref.version, name, value)
    return ref.model_copy(update={"tags": {**ref.tags, **tags}})


def set_alias(
    name: str, alias: str, version: str, *, who: str, why: str, numbers: Mapping[str, float] | None = None
) -> None:
    """Point an alias at a version and write down who did it and why; a deposed champion becomes `previous`.

    Setting an alias to where it points already changes nothing and writes nothing.
    """
    client = connect()
    before = resolve_or_none(name, alias)
    if before is not None and before.version == version:
        return
    with translated_errors(f"version {version!r} of model {name!r}"):
        client.set_registered_model_alias(name, alias, version)
        if alias == CHAMPION and before is not None:
            client.set_registered_model_alias(name, PREVIOUS, before.version)
        if alias == CHAMPION and (waiting := resolve_or_none(name, CHALLENGER)) and waiting.version == version:
            client.delete_registered_model_alias(name, CHALLENGER)
    _record_promotion(name, alias, before.version if before else None, version, who, why, numbers or {})


def read_package(ref: ModelRef) -> Package:
    """Download a version's data files, check them against their digests and read them; nothing is executed.

    Raises:
        ModelRefused: a digest differs or is missing, a file is too large or malformed, a weight is not finite.
    """
    with tempfile.TemporaryDirectory(prefix="metafuse-model-") as folder, _refusing(ref):
        document = json.loads(_checked_bytes(ref, _CONFIG, Path(folder)))
        weights = _parse_weights(ref, _checked_bytes(ref, _WEIGHTS, Path(folder)))
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise _refused(ref, f"{_CONFIG} has no object 'model'")
    return Package(document["model"], weights, context=document.get("context", {}))


def _save(name: str, package: Package, tags: Mapping[str, str]) -> ModelRef:
    client = connect()
    with tempfile.TemporaryDirectory(prefix="metafuse-model-") as folder, translated_errors(f"model {name!r}"):
        files = _write_files(package, Path(folder, "artifacts"))
        all_tags = {**tags, **{_digest_tag(part): _sha256(path.read_bytes()) for part, path in files.items()}}
        logged = _log_files(client, Path(folder)) if name == PRIOR else _log_pyfunc(files)
        _ensure_registered(client, name)
        version = client.create_model_version(
            name, f"models:/{logged}", _active_run_id(), tags=all_tags, model_id=logged, description=package.card
        )
    return ModelRef(name=name, version=str(version.version), tags=all_tags)


def _ensure_registered(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _active_run_id() -> str | None:
    import mlflow

    run = mlflow.active_run()
    return run.info.run_id if run else None


def _write_files(package: Package, folder: Path) -> dict[str, Path]:
    from safetensors.torch import save_file

    folder.mkdir()
    files = {part: folder / part for part in (_WEIGHTS, _CONFIG, _CARD)}
    save_file({key: value.detach().contiguous().cpu() for key, value in package.weights.items()}, files[_WEIGHTS])
    document = {"model": package.config, "context": package.context}
    files[_CONFIG].write_text(json.dumps(document, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    files[_CARD].write_text(package.card, encoding="utf-8")
    return files


def _log_files(client: "MlflowClient", folder: Path) -> str:
    """Log a folder as a model of no flavour: a prior answers nothing by itself, so there is nothing to serve."""
    import mlflow

    run = mlflow.active_run()
    experiment = run.info.experiment_id if run else find_experiment(client, "metafuse/models")
    model = client.create_logged_model(experiment, name="model", source_run_id=_active_run_id())
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _log_pyfunc(files: Mapping[str, Path]) -> str:
    """Log the files with the pyfunc that serves them: raw values of any type in, a list of answers out."""
    with warnings.catch_warnings():
        # about type hints of MLflow's own classes, and about an input example, which would be run here
        warnings.simplefilter("ignore", UserWarning)
        import mlflow.pyfunc

        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(_PYFUNC),
            artifacts={part: str(path) for part, path in files.items()},
            pip_requirements=["metafuse"],
            signature=_signature(files[_CONFIG]),
        )
    return str(logged.model_id)


def _signature(config: Path) -> "ModelSignature":
    """Return what a request may hold: any column of the contract, none of them required."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema

    context = json.loads(config.read_text(encoding="utf-8"))["context"]
    names = [column["name"] for column in context["contract"]["columns"]]
    return ModelSignature(inputs=Schema([ColSpec(AnyType(), name, required=False) for name in names]))


def _checked_bytes(ref: ModelRef, part: str, folder: Path) -> bytes:
    import mlflow

    with translated_errors(f"{part} of version {ref.version} of model {ref.name!r}"):
        uri = f"models:/{ref.name}/{ref.version}/artifacts/{part}"
        path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    if (size := path.stat().st_size) > MAX_BYTES:
        raise _refused(ref, f"{part} has {size} bytes, more than the {MAX_BYTES} allowed")
    content = path.read_bytes()
    wanted, found = ref.tags.get(_digest_tag(part)), _sha256(content)
    if wanted != found:
        raise _refused(ref, f"{part} has SHA-256 {found}, but the registry recorded {wanted}")
    return content


def _parse_weights(ref: ModelRef, content: bytes) -> dict[str, "Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights: dict[str, Tensor] = load(content)
    except SafetensorError as exc:
        raise _refused(ref, f"{_WEIGHTS} is not a safetensors file ({exc})") from exc
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise _refused(ref, f"weights {broken} hold values that are not finite")
    return weights


@contextmanager
def _refusing(ref: ModelRef) -> Iterator[None]:
    """Turn what a builder raises on a config or weights that do not fit into ModelRefused."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as exc:
        raise _refused(ref, f"its config and weights do not fit ({exc})") from exc


def _refused(ref: ModelRef, why: str) -> ModelRefused:
    return ModelRefused(
        f"version {ref.version} of model {ref.name!r} is refused: {why}. "
        f"Point the alias at an intact version, or train it anew.",
        model=ref.name,
        version=ref.version,
    )


def _record_promotion(
    name: str, alias: str, before: str | None, version: str, who: str, why: str, numbers: Mapping[str, float]
) -> None:
    from tasks.lake import open_lake

    row = {
        "model": name,
        "alias": alias,
        "from_version": before,
        "to_version": version,
        "who": who,
        "why": why,
        "numbers_json": json.dumps(dict(numbers), sort_keys=True),
        "at": datetime.now(UTC),
    }
    open_lake().append("promotions", pa.Table.from_pylist([row], schema=PROMOTIONS))


def _as_ref(found: "ModelVersion") -> ModelRef:
    return ModelRef(name=found.name, version=str(found.version), tags=dict(found.tags))


def _digest_tag(part: str) -> str:
    return f"sha256.{part}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
