"""What takes most of an image, and the words of a budget that is broken: with the sizes of real distributions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from splitbake.artifact import Weight
from splitbake.bake import weights
from splitbake.errors import BuildError

MB = 1000**2
#: As installed: torch 2.4.0 with CUDA 12.1, on python:3.11-slim.
TORCH = {
    "torch 2.4.0": 1669,
    "nvidia-cudnn-cu12 9.1.0.70": 742,
    "nvidia-cublas-cu12 12.1.3.1": 610,
    "nvidia-cusparse-cu12 12.1.0.106": 279,
    "triton 3.0.0": 420,
    "nvidia-nccl-cu12 2.20.5": 256,
    "opencv-python-headless 4.10.0": 180,
    "numpy 1.26.4": 66,
    "requests 2.32.3": 1,
}
LAYERS = {
    "COPY /opt/python /opt/python # buildkit": 4231,
    "/bin/sh -c #(nop) ADD file:" + "a" * 64 + " in / ": 75,
    "|2 REGISTRY=x TOKEN=y /bin/sh -c apt-get install ffmpeg": 51,
    "WORKDIR /app": 0,
}
FILES = {"assets/demo.mp4": 312, "run.py": 0.004}


def weigh(kind: weights.Kind, sizes: dict[str, float]) -> tuple[Weight, ...]:
    return weights.heaviest(kind, ((round(size * MB), name) for name, size in sizes.items()))


ALL = [*weigh("layer", LAYERS), *weigh("distribution", TORCH), *weigh("file", FILES)]


def refused(size: float, budget: float, found: list[Weight]) -> BuildError:
    with pytest.raises(BuildError) as caught:
        weights.require_within(round(size * MB), round(budget * MB), found)
    return caught.value


def test_what_takes_most_is_named_by_size_and_what_would_do():
    problem = refused(4357, 1500, ALL)
    assert problem.message == (
        "the image has 4.4 GB uncompressed, 2.9 GB over image.budget (1.5 GB); nothing was pushed. What takes most:\n"
        "  layers:\n"
        "      4.2 GB  COPY /opt/python /opt/python\n"
        "     75.0 MB  ADD file in /\n"
        "     51.0 MB  apt-get install ffmpeg\n"
        "  distributions:\n"
        "      1.7 GB  torch 2.4.0\n"
        "    742.0 MB  nvidia-cudnn-cu12 9.1.0.70\n"
        "    610.0 MB  nvidia-cublas-cu12 12.1.3.1\n"
        "    420.0 MB  triton 3.0.0\n"
        "    279.0 MB  nvidia-cusparse-cu12 12.1.0.106\n"
        "  files:\n"
        "    312.0 MB  assets/demo.mp4\n"
        "      4.0 kB  run.py"
    )
    assert problem.hint == (
        "move torch 2.4.0, nvidia-cudnn-cu12 9.1.0.70 and nvidia-cublas-cu12 12.1.3.1 to runtime.requirements (3.0 GB "
        "less; the host has it then), or raise image.budget"
    )


def test_a_file_that_would_do_is_named():
    assert refused(1100, 900, weigh("file", FILES)).hint == (
        "leave assets/demo.mp4 out with image.exclude (312.0 MB less), or raise image.budget"
    )


def test_distributions_and_files_together():
    found = [*weigh("distribution", {"numpy 1.26.4": 66}), *weigh("file", FILES)]
    assert refused(1250, 900, found).hint == (
        "move numpy 1.26.4 to runtime.requirements (66.0 MB less; the host has it then) and leave assets/demo.mp4 out "
        "with image.exclude (312.0 MB less), or raise image.budget"
    )


def test_where_nothing_that_can_move_would_do_the_base_is_named():
    found = [*weigh("layer", {"ADD cuda in /": 3600}), *weigh("distribution", {"numpy 1.26.4": 366, "idna 3": 1})]
    assert refused(4000, 900, found).hint == (
        "move numpy 1.26.4 to runtime.requirements (366.0 MB less; the host has it then); 3.6 GB would be left, so "
        "take a slimmer image.base, or raise image.budget"
    )
    assert refused(4000, 900, []).hint == "take a slimmer image.base, or raise image.budget"


def test_a_long_list_is_cut():
    found = [*weigh("distribution", {f"part{number} 1": 10 for number in range(8)})]
    assert "part3 1 and 3 more to runtime.requirements (80.0 MB less" in refused(178, 100, found).hint


def test_within_the_budget_nothing_is_said():
    weights.require_within(900, 900, ALL)
    weights.require_compressed_within(900, 900, ALL)
    weights.require_compressed_within(900, None, ALL)


def test_the_compressed_budget_shows_layers_as_the_registry_has_them():
    with pytest.raises(BuildError) as caught:
        weights.require_compressed_within(2300 * MB, 2000 * MB, ALL)
    assert "2.3 GB in the registry, 300.0 MB over image.compressed_budget (2.0 GB)" in caught.value.message
    assert "  distributions, as installed:\n      1.7 GB  torch 2.4.0" in caught.value.message
    assert "  layers:\n" in caught.value.message
    assert caught.value.hint.startswith("begin with torch 2.4.0: in runtime.requirements it lives on the host")


def test_only_the_largest_are_kept():
    found = weights.heaviest("file", ((number, str(number)) for number in range(100)))
    assert [each.size for each in found] == [*range(99, 99 - weights.KEPT, -1)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 a\n10 b c\n", [(10, "b c"), (3, "a")]),
        ("0 nothing\nwarning: x\n\n7\n5 \n", []),
        (f"5 {'x' * 200}\n", [(5, "x" * 89 + "…")]),
        ("5 RUN a\tb\x1b[0m\n", [(5, "RUN a b [0m")]),
        ("5 /bin/sh -c #(nop) \n", [(5, "?")]),
    ],
)
def test_lines_of_sizes(text, expected):
    assert [(each.size, each.name) for each in weights.read("layer", text)] == expected


def test_distributions_are_weighed_with_what_was_compiled_at_their_installation(tmp_path: Path):
    info = tmp_path / "Heavy_Thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Heavy-Thing\nVersion: 1.0\n")
    (info / "RECORD").write_text("heavy.py,,\nheavy.so,,\ngone.py,,\n")
    (tmp_path / "heavy.py").write_bytes(b"x" * 10)
    (tmp_path / "heavy.so").write_bytes(b"x" * 1000)
    compiled = tmp_path / "__pycache__" / f"heavy.{sys.implementation.cache_tag}.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"x" * 100)
    argv = [sys.executable, "-I", "-c", weights.DISTRIBUTIONS, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "1110 Heavy-Thing 1.0\n"
