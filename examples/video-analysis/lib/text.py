"""Finding text: the detector of PP-OCRv4 (differentiable binarization, arXiv 1911.08947)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lib.model import Frame, Model


def count_text_regions(model: Model, frame: Frame, *, threshold: float, least_pixels: int) -> int:
    """Count the regions of a frame that the model takes for text. It wants BGR, -1 to 1."""
    (probability,) = model(frame[:, :, ::-1].astype(np.float32) / 127.5 - 1)
    return sum(size >= least_pixels for size in region_sizes(probability[0, 0] > threshold))


def region_sizes(mask: NDArray[np.bool_]) -> list[int]:
    """Give the pixel counts of the connected regions of a mask; diagonal neighbours do not connect."""
    todo = {(int(row), int(column)) for row, column in zip(*np.nonzero(mask), strict=True)}
    sizes = []
    while todo:
        edge = [todo.pop()]
        size = 0
        while edge:
            row, column = edge.pop()
            size += 1
            neighbours = {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)} & todo
            todo -= neighbours
            edge.extend(neighbours)
        sizes.append(size)
    return sizes
