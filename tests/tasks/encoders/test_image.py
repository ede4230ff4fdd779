import numpy as np
import pytest
import torch

from tasks.encoders import default_encoders
from tasks.encoders.image import ImageEncoder, export_network, load_network, squeeze
from tasks.encoders.onnx_session import open_session


@pytest.fixture(scope="module")
def encoder(encoder_cache):
    return default_encoders("image")[0]


def pictures(count: int, height: int = 224, width: int = 224) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def test_exported_network_agrees_with_torch(encoder):
    items = pictures(3)
    with torch.inference_mode():
        expected = load_network()(torch.from_numpy(np.stack(items))).numpy()
    np.testing.assert_allclose(encoder.encode(items), expected, atol=1e-4)


def test_each_picture_is_encoded_alone_and_in_order(encoder):
    items = [*pictures(5), *pictures(1, 60, 90)]
    together = encoder.encode(items)
    np.testing.assert_array_equal(together, np.concatenate([encoder.encode([item]) for item in items]))


def test_size_of_a_picture_matters_little(encoder):
    across = np.linspace(0, 255, 448, dtype=np.uint8)
    large = np.stack(np.broadcast_arrays(across[:, None], across[None, :], np.uint8(128)), axis=-1)
    a, b = encoder.encode([large, large[::2, ::2]])
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.95


def test_picture_of_the_right_size_is_not_touched():
    picture = pictures(1)[0]
    assert squeeze(picture) is picture


@pytest.mark.parametrize("shape", [(1, 1), (2000, 3), (50, 700)])
def test_any_shape_is_squeezed_to_the_square(shape):
    assert squeeze(pictures(1, *shape)[0]).shape == (224, 224, 3)


def test_no_pictures_give_no_vectors():
    assert ImageEncoder().encode([]).shape == (0, 1280)


def test_export_leaves_one_whole_file(tmp_path):
    path = tmp_path / "encoders" / "network.onnx"
    export_network(path)
    assert [file.name for file in path.parent.iterdir()] == ["network.onnx"]
    assert open_session(path).run(None, {"pixels": np.stack(pictures(2))})[0].shape == (2, 1280)
