"""Train one learner, with a checkpoint from which a run that was stopped goes on."""

import logging
import os
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_contracts.configs import TrainConfig
from data_contracts.errors import SettingInvalid
from data_contracts.settings import get_settings
from models.catalogue import build_learner
from models.features import DomainData
from models.fused import FusedLearner
from models.learning_curve import LearningCurve
from models.training import train
from tasks import progress

logger = logging.getLogger(__name__)

LOOP_STATE = frozenset({"step", "best_accuracy", "best", "fitted_with", "parameters", "optimiser", "generator"})
"""What the outer loop needs to go on."""


@dataclass(frozen=True)
class Trained:
    """One learner after training, and how it got there."""

    learner: FusedLearner
    curve: LearningCurve
    seconds: float
    """Spent on training, before and after any interruption."""
    seconds_now: float
    """Spent since the last interruption."""
    resumed_from: int
    """Step of the checkpoint from which this run went on; 0: from the start."""

    @property
    def untrained_accuracy(self) -> float:
        """Validation accuracy before the first step."""
        return self.curve.validation[0][1]


def train_learner(
    kind: str, domains: Sequence[DomainData], config: TrainConfig, checkpoint: Path | None = None
) -> Trained:
    """Train one learner; with a `checkpoint` file, go on from it if it is there and keep it up to date.

    It is trained on the device that settings name, and returned on the CPU.

    Raises:
        SettingInvalid: torch finds no such device.
    """
    device = training_device()
    learner, domains = build_learner(kind).to(device), [domain.to(device) for domain in domains]
    state = _read_checkpoint(checkpoint, learner)
    curve = LearningCurve(state.get("losses", []), state.get("validation", []))
    loop, before = state.get("loop"), state.get("seconds", 0.0)
    first = loop["step"] if loop else 0
    started = time.perf_counter()
    progress.report(first, config.steps, f"meta-train {kind}")
    if first == config.steps:
        progress.report(0, 0, f"settle and calibrate {kind}")
    with single_thread():
        for now in train(learner, domains, config, loop):
            curve.note(now)
            if now.validation_accuracy is not None:
                seconds = before + time.perf_counter() - started
                curves = {"losses": curve.losses, "validation": curve.validation}
                state = {"made_of": made_of(kind, learner), "loop": now.state(), "seconds": seconds, **curves}
                _write_checkpoint(checkpoint, state)
            progress.report(now.step, config.steps, f"meta-train {kind}")
            if now.step == config.steps:
                progress.report(0, 0, f"settle and calibrate {kind}")
    progress.report(1, 1, f"settle and calibrate {kind}")
    now_s = time.perf_counter() - started
    return Trained(learner.to("cpu"), curve, before + now_s, now_s, first)


def training_device() -> torch.device:
    """Return where learners are trained.

    Raises:
        SettingInvalid: torch finds no such device.
    """
    name = get_settings().device
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingInvalid(
            "METAFUSE_DEVICE is cuda, but torch finds no GPU. Unset it, or install a build of torch that knows yours.",
            name="METAFUSE_DEVICE",
        )
    return torch.device(name)


@contextmanager
def single_thread() -> Iterator[None]:
    """Let torch use one thread: the matrices are small, and on a busy machine a second one cost 14 times the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read_checkpoint(path: Path | None, learner: FusedLearner) -> dict[str, Any]:
    """Return a checkpoint's content: tensors, numbers and lists only, nothing that runs.

    Return nothing if there is none, and say so if it was cut off or is of another learner or version.
    """
    if path is None or not path.exists():
        return {}
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError):
        state = {}
    if state.get("made_of") != made_of(learner.kind, learner) or not state.get("loop", {}).keys() >= LOOP_STATE:
        logger.warning(
            "%s is trained from the start: %s is cut off or of another learner or version", learner.kind, path
        )
        return {}
    return state


def made_of(kind: str, module: nn.Module) -> list[Any]:
    """Return the kind, and names and shapes of the module's numbers: what stored ones have to fit."""
    return [kind, *([name, list(value.shape)] for name, value in module.state_dict().items())]


def _write_checkpoint(path: Path | None, state: Mapping[str, Any]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    torch.save(dict(state), partial)
    partial.replace(path)
