"""What a builder says that it builds for."""

from __future__ import annotations

import pytest

from splitbake.bake.docker import platforms

NODE = "Name:      {name}\nEndpoint:  default\nStatus:    running\n{platforms}"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Platforms: linux/amd64, linux/386\n", {"linux/amd64", "linux/386"}),
        ("Platforms:        linux/arm64*, linux/amd64/v2\nGC Policy:\n", {"linux/arm64", "linux/amd64/v2"}),
        ("Status:    inactive\n", set()),
        ("", set()),
    ],
)
def test_platforms_of_a_builder(said, expected):
    assert platforms(NODE.format(name="default", platforms=said)) == expected


def test_platforms_of_all_nodes_count():
    nodes = [NODE.format(name=name, platforms=f"Platforms: {name}\n") for name in ("linux/amd64", "linux/arm64")]
    assert platforms("\n".join(nodes)) == {"linux/amd64", "linux/arm64"}
