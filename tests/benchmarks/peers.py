"""Other few-shot libraries, in an environment of their own that this process can import from.

They are learn2learn, easyfsl, higher and TorchOpt, installed once without what they depend on: torch is the one that
runs already. learn2learn has no wheels and its extension modules do not compile with this Python, so its source is
fetched and not built; its MAML is pure Python. Packages whose `__init__` imports vision and gym libraries are entered
past it, so every module that runs is the library's own, but for one line: torch no longer takes the `data_source` that
easyfsl's sampler hands to its base class.
"""

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

EASYFSL, HIGHER, TORCHOPT = ("easyfsl==1.5.0",), ("higher==0.2.1",), ("torchopt==0.7.3", "optree", "graphviz")
LEARN2LEARN = "learn2learn-0.2.0"
BUILD_TOOLS = ("wheel", "setuptools<81")
"""What pip needs to read the name and version of a source distribution."""


class PeerMissing(Exception):
    """A library that cannot be had here: the message says which and why."""


class Peers:
    """The libraries, each installed and imported when first asked for."""

    def __init__(self, cache: Path | None = None) -> None:
        home = os.environ.get("METAFUSE_BENCH_CACHE") or Path.home() / ".cache" / "metafuse-bench"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.folder = Path(cache or home) / version
        self.site = self.folder / "lib" / version / "site-packages"

    def learn2learn(self) -> ModuleType:
        """Return the module that holds `MAML`."""
        source = self.folder / "source"
        if not (source / LEARN2LEARN).is_dir():
            self._pip("install", *BUILD_TOOLS)
            name, _, version = LEARN2LEARN.rpartition("-")
            built = ("--no-deps", "--no-build-isolation", "--no-binary", name)
            self._pip("download", *built, "--dest", str(source), f"{name}=={version}")
            with tarfile.open(source / f"{LEARN2LEARN}.tar.gz") as archive:
                archive.extractall(source, filter="data")
        _enter(source / LEARN2LEARN, "learn2learn", "learn2learn.algorithms")
        return _imported("learn2learn.algorithms.maml")

    def easyfsl(self) -> SimpleNamespace:
        """Return its classes `Finetune`, `PTMAP`, `PrototypicalNetworks`, `FeaturesDataset` and `TaskSampler`."""
        self._install("easyfsl", *EASYFSL)
        sampler = self.site / "easyfsl" / "samplers" / "task_sampler.py"
        sampler.write_text(sampler.read_text().replace("__init__(data_source=None)", "__init__()"))
        _enter(self.site, "easyfsl", "easyfsl.methods", "easyfsl.datasets", "easyfsl.samplers")
        datasets = sys.modules["easyfsl.datasets"]
        datasets.FewShotDataset = _imported("easyfsl.datasets.few_shot_dataset").FewShotDataset
        where = {
            "Finetune": "methods.finetune",
            "PTMAP": "methods.pt_map",
            "PrototypicalNetworks": "methods.prototypical_networks",
            "FeaturesDataset": "datasets.features_dataset",
            "TaskSampler": "samplers.task_sampler",
        }
        return SimpleNamespace(
            **{name: getattr(_imported(f"easyfsl.{module}"), name) for name, module in where.items()}
        )

    def higher(self) -> ModuleType:
        """Return the package."""
        return self._package("higher", *HIGHER)

    def torchopt(self) -> ModuleType:
        """Return the package."""
        return self._package("torchopt", *TORCHOPT)

    def _package(self, name: str, *requirements: str) -> ModuleType:
        self._install(name, *requirements)
        if str(self.site) not in sys.path:
            sys.path.append(str(self.site))  # last: what this interpreter has comes first
        return _imported(name)

    def _install(self, package: str, *requirements: str) -> None:
        if not (self.site / package).is_dir():
            self._pip("install", "--no-deps", *requirements)

    def _pip(self, *arguments: str) -> None:
        pip = self.folder / "bin" / "pip"
        if not pip.exists():
            _run(sys.executable, "-m", "venv", str(self.folder))
        _run(str(pip), "--quiet", *arguments)


def optional(peer: Callable[[], object]) -> object | None:
    """Return a library, or None, with a line on stderr, if it cannot be had."""
    try:
        return peer()
    except PeerMissing as missing:
        print(missing, file=sys.stderr)
        return None


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PeerMissing(f"{' '.join(command)} failed: {done.stderr.strip()[-400:]}")


def _enter(root: Path, *packages: str) -> None:
    """Make packages importable without running their `__init__`."""
    for name in packages:
        if name not in sys.modules:
            module = ModuleType(name)
            module.__path__ = [str(root.joinpath(*name.split(".")))]
            sys.modules[name] = module


def _imported(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as exc:
        raise PeerMissing(f"{name} cannot be imported: {exc}") from exc
