"""Memory of the outer loop, measured in a process of its own that does nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MIB_BY_STEP = """
import sys
sys.path[:0] = [".", "tests/models"]

import torch
from synthetic import FACTS, TITLE, make_domain

from data_contracts.configs import TrainConfig
from models.catalogue import build_learner
from models.training import train

def resident_mib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

torch.set_num_threads(1)
domain = make_domain(classes=6, per_class=4, views=(TITLE, FACTS), missing=0.1)
config = TrainConfig(steps=10_000, meta_batch=2, n_way=2, shots=(1,), n_query=1, validate_every=500)
for progress in train(build_learner("maml"), [domain], config):
    if progress.validation_accuracy is not None:
        progress.state()  # as whoever keeps checkpoints
    if progress.step % 100 == 0:
        print(resident_mib())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to tell its memory")
def test_ten_thousand_steps_of_training_hold_no_more_memory_than_the_first_thousand():
    done = subprocess.run([sys.executable, "-c", MIB_BY_STEP], cwd=ROOT, capture_output=True, text=True, check=True)
    resident = [float(line) for line in done.stdout.split()]
    assert len(resident) == 101
    early, late = min(resident[10:20]), min(resident[70:])  # a moment's garbage comes and goes, what is kept stays
    print(f"MiB held from 1,000 steps on, and from 7,000 on: {early}, {late}")
    assert late - early < 4
