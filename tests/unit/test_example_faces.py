"""The reference project's decoding of model outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lib.faces import Face, decode, suppress
from lib.text import region_sizes


def maps(rows=8, columns=12):
    return (
        np.zeros((rows, columns), np.float32),
        np.zeros((2, rows, columns), np.float32),
        np.zeros((2, rows, columns), np.float32),
    )


def test_a_cell_becomes_a_box_around_its_middle():
    heatmap, scale, offset = maps()
    heatmap[3, 5] = 0.9
    scale[:, 3, 5] = math.log(2), math.log(1)  # 2 cells high, 1 wide
    offset[:, 3, 5] = 0.25, -0.25  # down, left
    (face,) = decode(heatmap, scale, offset, threshold=0.5)
    assert (face.left, face.right) == pytest.approx((19, 23))  # (5 - 0.25 + 0.5) * 4 = 21, 4 wide
    assert (face.top, face.bottom) == pytest.approx((11, 19))  # (3 + 0.25 + 0.5) * 4 = 15, 8 high
    assert face.score == pytest.approx(0.9)


def test_cells_at_or_below_the_threshold_are_no_faces():
    heatmap, scale, offset = maps()
    heatmap[0, 0] = 0.5
    assert decode(heatmap, scale, offset, threshold=0.5) == []


def test_boxes_end_at_the_frame():
    heatmap, scale, offset = maps(rows=8, columns=12)
    heatmap[0, 11] = 0.8
    scale[:, 0, 11] = math.log(40)
    (face,) = decode(heatmap, scale, offset, threshold=0.5)
    assert (face.left, face.top, face.right, face.bottom) == (0, 0, 48, 32)


def test_of_overlapping_faces_the_likeliest_stays():
    weak, strong, apart = Face(0, 0, 10, 10, 0.6), Face(1, 0, 11, 10, 0.9), Face(20, 0, 30, 10, 0.7)
    assert suppress([weak, strong, apart], overlap=0.3) == [strong, apart]


@pytest.mark.parametrize(
    ("other", "overlap"),
    [
        (Face(0, 0, 10, 10, 1), 1.0),
        (Face(5, 0, 15, 10, 1), 1 / 3),
        (Face(10, 0, 20, 10, 1), 0.0),
        (Face(30, 30, 40, 40, 1), 0.0),
    ],
)
def test_overlap_is_intersection_over_union(other, overlap):
    assert Face(0, 0, 10, 10, 1).overlap(other) == pytest.approx(overlap)


def test_empty_boxes_overlap_nothing():
    assert Face(5, 5, 5, 5, 1).overlap(Face(5, 5, 5, 5, 1)) == 0


sides = st.integers(0, 20)
faces = st.builds(
    lambda x, y, w, h, score: Face(x, y, x + w, y + h, score), sides, sides, sides, sides, st.floats(0, 1)
)


@given(st.lists(faces, max_size=12), st.floats(0.05, 0.95))
def test_suppression_leaves_no_overlap_and_loses_no_lone_face(found, overlap):
    kept = suppress(found, overlap)
    assert all(a.overlap(b) <= overlap for i, a in enumerate(kept) for b in kept[:i])
    assert all(any(face is k or face.overlap(k) > overlap for k in kept) for face in found)
    assert [face.score for face in kept] == sorted((face.score for face in kept), reverse=True)


def test_regions_connect_by_sides_not_by_corners():
    mask = np.array([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]], dtype=bool)
    assert sorted(region_sizes(mask)) == [1, 1, 3]


def test_an_empty_mask_has_no_regions():
    assert region_sizes(np.zeros((4, 4), dtype=bool)) == []
