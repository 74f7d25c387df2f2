"""Opening an ONNX model for frames of any size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from numpy.typing import NDArray

from lib.config import ConfigError

Frame = NDArray[np.uint8]
"""One picture, shape (height, width, 3), RGB."""

Tensor = NDArray[np.float32]

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


@dataclass(frozen=True)
class Model:
    """A loaded model with one input.

    Attributes:
        session: the running model.
        sha256: digest of its file as it lies on the host.
    """

    session: ort.InferenceSession
    sha256: str

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load a model on the GPU where there is one, else on the CPU.

        Raises:
            ConfigError: the file is not a model that the runtime can load.
        """
        content = path.read_bytes()
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors; CenterFace's exporter earns a warning for each of its 194 weights
        available = ort.get_available_providers()
        try:
            session = ort.InferenceSession(
                with_free_dimensions(content), options, providers=[p for p in PROVIDERS if p in available]
            )
        except (*_LOAD_ERRORS, ValueError, IndexError) as error:
            raise ConfigError(f"{path} is not a loadable ONNX model: {error}") from error
        return cls(session, hashlib.sha256(content).hexdigest())

    @property
    def provider(self) -> str:
        """What runs the model, for example ``CPUExecutionProvider``."""
        return str(self.session.get_providers()[0])

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """Run the model on one picture of shape (height, width, 3); sides must be multiples of 32."""
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[np.newaxis], dtype=np.float32)
        maps: list[Tensor] = self.session.run(None, {self.session.get_inputs()[0].name: batch})
        return maps


# onnxruntime's exceptions have no common base class.
_LOAD_ERRORS = (
    ort.capi.onnxruntime_pybind11_state.Fail,
    ort.capi.onnxruntime_pybind11_state.InvalidArgument,
    ort.capi.onnxruntime_pybind11_state.InvalidGraph,
    ort.capi.onnxruntime_pybind11_state.InvalidProtobuf,
    ort.capi.onnxruntime_pybind11_state.NotImplemented,
)

# Field numbers of onnx.proto3.
_GRAPH = 7
_INITIALIZER, _INPUT, _OUTPUT = 5, 11, 12
_TENSOR_NAME, _VALUE_NAME, _VALUE_TYPE = 8, 1, 2
_TENSOR_TYPE, _SHAPE, _DIMENSION = 1, 2, 1
_DIMENSION_VALUE, _DIMENSION_DENOTATION = 1, 3

_VARINT, _I64, _BYTES, _I32 = 0, 1, 2, 5


def with_free_dimensions(model: bytes) -> bytes:
    """Free a model of the input size that it was exported with.

    The published CenterFace says that its input is 10x3x32x32, and the runtime insists on it, though the network
    is fully convolutional. Each fixed size of an input or output becomes a comment of the same length (the
    dimension's "denotation"), so nothing else in the file moves, and the `onnx` package is not needed.
    """
    patched = bytearray(model)
    for graph in _find(model, _Span(0, len(model)), _GRAPH):
        weights = {
            _text(model, name) for w in _find(model, graph, _INITIALIZER) for name in _find(model, w, _TENSOR_NAME)
        }
        values = (*_find(model, graph, _INPUT), *_find(model, graph, _OUTPUT))
        for value in values:
            if weights.isdisjoint(_text(model, name) for name in _find(model, value, _VALUE_NAME)):
                for size in _find(model, value, _VALUE_TYPE, _TENSOR_TYPE, _SHAPE, _DIMENSION, _DIMENSION_VALUE):
                    length = size.end - size.start
                    patched[size.start - 1 : size.end] = bytes((_DIMENSION_DENOTATION << 3 | _BYTES, length - 1)).ljust(
                        length + 1, b"-"
                    )
    return bytes(patched)


@dataclass(frozen=True)
class _Span:
    """Where a field's content lies in the file."""

    start: int
    end: int


def _find(data: bytes, message: _Span, *path: int) -> Iterator[_Span]:
    """Yield the contents of all fields at a path of field numbers below a protobuf message."""
    wanted, *rest = path
    for number, content in _fields(data, message):
        if number == wanted:
            yield from _find(data, content, *rest) if rest else (content,)


def _fields(data: bytes, message: _Span) -> Iterator[tuple[int, _Span]]:
    position = message.start
    while position < message.end:
        key, start = _varint(data, position)
        match key & 7:
            case 0:
                _, position = _varint(data, start)
            case 1:
                position = start + 8
            case 2:
                length, start = _varint(data, start)
                position = start + length
            case 5:
                position = start + 4
            case kind:
                raise ValueError(f"unknown protobuf wire type {kind} at byte {start}")
        if position > message.end:
            raise ValueError(f"the file ends inside the field at byte {start}")
        yield key >> 3, _Span(start, position)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004 (the continuation bit)
            return value, position


def _text(data: bytes, span: _Span) -> bytes:
    return data[span.start : span.end]
