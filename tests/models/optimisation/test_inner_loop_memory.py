"""Memory of the meta-gradient, measured in a process of its own that does nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

MIB_BY_CHUNK = """
import torch
from torch import nn
from models.optimisation.inner_loop import Layer, StoredEpisodes, meta_gradient

def peak_mib():
    with open("/proc/self/status") as status:  # getrusage begins with the peak of the parent
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

torch.manual_seed(0)
torch.set_num_threads(1)
sizes, rows = [512, 256, 64, 5], 4000
layers = [Layer(part.weight, part.bias) for part in map(nn.Linear, sizes[:-1], sizes[1:])]
support_labels, query_labels = (torch.arange(5).repeat_interleave(n).repeat(128, 1) for n in (5, 15))
support, query = (torch.randint(rows, labels.shape) for labels in (support_labels, query_labels))
episodes = StoredEpisodes(torch.randn(rows, sizes[0]), support, support_labels, query, query_labels)
rates = torch.full((5, len(layers)), 0.1, requires_grad=True)
meta_gradient(layers, episodes[:1], rates)
before = peak_mib()
for chunk in (32, 128):
    meta_gradient(layers, episodes, rates, chunk=chunk)
    print(peak_mib() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to tell its peak")
def test_peak_of_a_meta_batch_of_128_is_bounded_by_the_chunk():
    done = subprocess.run([sys.executable, "-c", MIB_BY_CHUNK], cwd=ROOT, capture_output=True, text=True, check=True)
    in_chunks, whole = map(float, done.stdout.split())
    assert in_chunks < 100
    assert in_chunks < 0.6 * whole
