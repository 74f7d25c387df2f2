"""Finding faces: CenterFace ("Joint Face Detection and Alignment Using Face as Point", arXiv 1911.03599)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.model import Frame, Model, Tensor

STRIDE = 4
"""Pixels of the frame that one cell of the model's maps stands for."""


@dataclass(frozen=True)
class Face:
    """A face's box in pixels of the frame, with its probability."""

    left: float
    top: float
    right: float
    bottom: float
    score: float

    @property
    def area(self) -> float:
        """Square pixels."""
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def overlap(self, other: Face) -> float:
        """Intersection over union with another face, 0 to 1."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        shared = max(0.0, width) * max(0.0, height)
        union = self.area + other.area - shared
        return shared / union if union else 0.0


def find_faces(model: Model, frame: Frame, *, threshold: float, overlap: float) -> list[Face]:
    """Find the faces in a frame, likeliest first. CenterFace takes RGB as it is, 0 to 255."""
    heatmap, scale, offset, _landmarks = model(frame.astype(np.float32))
    return suppress(decode(heatmap[0, 0], scale[0], offset[0], threshold), overlap)


def decode(heatmap: Tensor, scale: Tensor, offset: Tensor, threshold: float) -> list[Face]:
    """Turn the model's maps into boxes.

    Args:
        heatmap: probability that a cell is the middle of a face, shape (rows, columns).
        scale: logarithm of height and width in cells, shape (2, rows, columns).
        offset: where in the cell the middle is, down and right, shape (2, rows, columns).
        threshold: least probability.
    """
    rows, columns = np.nonzero(heatmap > threshold)
    heights, widths = np.exp(scale[:, rows, columns]) * STRIDE
    down, right = (offset[:, rows, columns] + 0.5) * STRIDE
    middles_y, middles_x = rows * STRIDE + down, columns * STRIDE + right
    boxes = np.stack(
        (
            middles_x - widths / 2,
            middles_y - heights / 2,
            middles_x + widths / 2,
            middles_y + heights / 2,
            heatmap[rows, columns],
        ),
        axis=1,
    )
    limits = (heatmap.shape[1] * STRIDE, heatmap.shape[0] * STRIDE) * 2
    boxes[:, :4] = np.clip(boxes[:, :4], 0, limits)
    return [Face(*map(float, box)) for box in boxes]


def suppress(faces: list[Face], overlap: float) -> list[Face]:
    """Keep the likeliest of the faces that overlap (non-maximum suppression), likeliest first."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: face.score, reverse=True):
        if all(face.overlap(other) <= overlap for other in kept):
            kept.append(face)
    return kept
