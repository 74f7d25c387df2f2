"""Where the sources of an image are: the address of a remote, in one form, and nothing of a machine or a password."""

from __future__ import annotations

import pytest

from splitbake.bake import origin


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/o/r",
        "https://github.com/o/r.git",
        "https://github.com/o/r.git/",
        "https://github.com//o/r/",
        "https://github.com:443/o/r",
        "https://GitHub.com/o/r",
        "http://github.com/o/r",
        "https://user:p@ss@github.com/o/r.git",
        "https://ghp_token@github.com/o/r.git",
        "https://my.name:12?hush@github.com/o/r",
        "https://github.com/o/r.git?private_token=hush",
        "https://github.com/o/r#hush",
        "git@github.com:o/r.git",
        "git@github.com:/o/r.git",
        "github.com:o/r",
        "ssh://git@github.com/o/r.git",
        "ssh://git@github.com:22/o/r",
        "git+ssh://git@github.com/o/r",
        "git://github.com/o/r.git",
    ],
)
def test_a_remote_has_one_address(remote):
    assert origin.address(remote) == "https://github.com/o/r"


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("https://git.example.com:8443/o/r.git", "https://git.example.com:8443/o/r"),
        ("ssh://git@git.example.com:2222/o/r.git", "https://git.example.com/o/r"),
        ("https://10.0.0.7/group/sub/r.git", "https://10.0.0.7/group/sub/r"),
        ("https://git-codecommit.eu-west-1.amazonaws.com/v1/repos/r", None),
        ("https://dev.azure.com/org/project/_git/r", None),
        ("git@gitlab.example.com:group/sub/r.git", "https://gitlab.example.com/group/sub/r"),
        ("https://github.com/o/Größe.git", "https://github.com/o/Größe"),
    ],
)
def test_hosts_and_paths(remote, expected):
    assert origin.address(remote) == (expected or remote)


@pytest.mark.parametrize(
    "remote",
    [
        "",
        "/home/me/src/r.git",
        "/home/me/x.y:z/r.git",
        "../r.git",
        "./x.y:z",
        "r.git",
        "~/src/r",
        "file:///home/me/src/r.git",
        "file://host.example.com/share/r.git",
        "C:/src/r.git",
        "C:\\src\\r.git",
        "\\\\server.example.com\\share\\r",
        "gh:o/r",
        "work:o/r.git",
        "git@localhost:o/r",
        "https://localhost:3000/o/r",
        "ssh://git@[::1]/o/r",
        "codecommit::eu-west-1://profile@r",
        "codecommit://profile@r",
        "ext::sh -c connect% %S",
        "https://github.com",
        "https://github.com/",
        "https://github.com/.git",
        "https://my.name:hu/sh@github.com/o/r",
        "https://my.name:12/hush@github.com/o/r",
        "my.name:hush@github.com:o/r",
        "https://github.com/o/r\nx",
        "https://github.com/o/r x",
    ],
)
def test_what_is_no_host_of_all_has_none(remote):
    assert origin.address(remote) == ""
