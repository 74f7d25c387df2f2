"""The reference project frees a real ONNX model of its fixed input size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lib.config import ConfigError
from lib.model import Model, with_free_dimensions

EXAMPLE = Path(__file__).parents[2] / "examples" / "video-analysis"


def field(number: int, content: bytes | str | int) -> bytes:
    """Encode one protobuf field."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes((low | 0x80,)) + varint(rest) if rest else bytes((low,))


def value_info(name: str, *sizes: int) -> bytes:
    shape = b"".join(field(1, field(1, size)) for size in sizes)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))  # element type 1: float


def doubling_model(*sizes: int) -> bytes:
    """An ONNX model y = x * w with w = [2]; as old exporters did, the weight is listed among the inputs."""
    weight = field(1, 1) + field(2, 1) + field(8, "w") + field(9, np.float32(2).tobytes())
    node = field(1, "x") + field(1, "w") + field(2, "y") + field(4, "Mul")
    graph = (
        field(1, node)
        + field(2, "doubling")
        + field(5, weight)
        + field(11, value_info("x", *sizes))
        + field(11, value_info("w", 1))
        + field(12, value_info("y", *sizes))
    )
    return field(1, 4) + field(7, graph) + field(8, field(2, 9))


@pytest.mark.parametrize("size", [32, 640])  # encoded in one byte and in two
def test_a_model_of_fixed_size_takes_frames_of_any_size(tmp_path, size):
    path = tmp_path / "model.onnx"
    path.write_bytes(doubling_model(10, 3, size, size))
    model = Model.load(path)
    (doubled,) = model(np.full((64, 96, 3), 4, np.float32))
    assert doubled.shape == (1, 3, 64, 96)
    assert np.all(doubled == 8)


def test_nothing_moves_and_weights_keep_their_size():
    model = doubling_model(10, 3, 640, 640)
    free = with_free_dimensions(model)
    assert len(free) == len(model)
    assert value_info("w", 1) in free
    assert value_info("x", 10, 3, 640, 640) not in free


@pytest.mark.parametrize("content", [b"", b"junk", b"\x00" * 64, doubling_model(1, 3, 32, 32)[:-20]])
def test_what_is_no_model_is_refused_with_its_path(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.onnx is not a loadable ONNX model"):
        Model.load(path)


def test_the_runtime_sends_no_usage_data():
    program = "import os, lib.model; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=EXAMPLE, env=environment, stdout=subprocess.PIPE
    )
    assert done.stdout.strip() == b"1"
