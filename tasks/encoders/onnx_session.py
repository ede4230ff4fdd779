"""How every ONNX model runs here: on the CPU, one thread per run; callers run several batches side by side.

Threads inside one run wait for each other at every layer, busily: on a machine with other work they made a network two
times slower than one thread alone.
"""

from pathlib import Path
from typing import Any


def session_options() -> Any:
    """Return options for an onnxruntime session that computes each run in the thread that asks for it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return options


def open_session(path: Path) -> Any:
    """Open the ONNX model at `path` for inference; its `run` may be called from several threads at once."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])
