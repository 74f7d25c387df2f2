"""Folders that a container cannot have at one place, or not there."""

from __future__ import annotations

import pytest

from splitbake.errors import ManifestError

RUNTIME = {"requirements": "gpu.txt", "python": "3.11", "budget": "1 GB"}
TMP = "/tmp"  # noqa: S108 - of a container
APART = "lie in each other; give each a folder of its own"


def told(small, **changes) -> list[str]:
    """Return what is told of the project with other folders: ``workdir``, ``mounts``, ``root`` of a runtime."""
    if root := changes.pop("root", None):
        small.manifest["runtime"] = {**RUNTIME, "root": root}
    if mount := changes.pop("mount", None):
        changes["mounts"] = {"models": mount, "checkpoints": "/checkpoints"}
    small.manifest["image"] |= changes
    try:
        _ = small.project.manifest
    except ManifestError as caught:
        return [line.split(": ", 1)[1] for line in caught.message.splitlines()[1:]]
    return []


@pytest.mark.parametrize("place", ["/etc", "/usr", "/usr/lib", "/usr/local", "/usr/local/bin", "/var"])
@pytest.mark.parametrize(("key", "example"), [("workdir", "/app"), ("mount", "/models")])
def test_folders_of_the_base_stay_as_they_are(small, place, key, example):
    (found,) = told(small, **{key: place})
    assert found == f"{place} is a folder that the base has for itself; choose another, for example {example}"


@pytest.mark.parametrize("place", ["/usr", "/usr/local/lib", "/lib64"])
def test_neither_runtime_nor_models_hide_what_a_machine_needs(small, place):
    told_of = f"{place} is a folder that the base has for itself; choose a folder apart from it, for example /opt/dl-"
    assert told(small, root=place) == [f"{told_of}runtime"]
    del small.manifest["runtime"]
    small.manifest["models"]["root"] = place
    assert told(small) == [f"{told_of}models"]


def test_links_and_system_folders_are_no_places_for_mounts(small):
    for place in ("/lib", "/bin", "/proc", "/dev"):
        (found,) = told(small, mount=place)
        assert found.startswith(f"{place} is a folder that the base has for itself")


@pytest.mark.parametrize("place", [TMP, f"{TMP}/app"])
def test_no_code_lies_in_memory(small, place):
    assert told(small, workdir=place) == [
        "a container's /tmp is memory, empty at first; choose another, for example /app"
    ]


@pytest.mark.parametrize("place", ["/root", "/root/app"])
def test_no_code_lies_where_only_root_may_look(small, place):
    assert told(small, workdir=place) == ["nobody but root may look into /root; choose another, for example /app"]


@pytest.mark.parametrize("key", ["workdir", "mount", "root"])
@pytest.mark.parametrize("place", ["/opt/python", "/opt/python/x"])
def test_the_requirements_have_their_folder_for_themselves(small, place, key):
    assert told(small, **{key: place}) == ["image.requirements are installed in /opt/python; choose a folder beside it"]


@pytest.mark.parametrize(("workdir", "mount"), [("/app", "/app"), ("/srv/app/x", "/srv/app"), ("/models", "/models")])
def test_no_mount_hides_the_code(small, workdir, mount):
    (found,) = told(small, workdir=workdir, mount=mount)
    assert found == f"a mount at {mount} hides the code in {workdir}; choose a folder below or beside it"


def test_no_mount_hides_the_code_in_its_usual_folder(small):
    assert told(small, mount="/app") == ["a mount at /app hides the code in /app; choose a folder below or beside it"]


def test_no_mount_takes_the_folder_for_scratch_files(small):
    assert told(small, mount=TMP) == [
        "a mount at /tmp would leave nothing to write to; choose a folder below or beside it"
    ]


@pytest.mark.parametrize("root", ["/app", "/app/runtime", "/srv"])
def test_the_runtime_and_the_code_lie_apart(small, root):
    workdir = "/srv/app" if root == "/srv" else "/app"
    assert told(small, workdir=workdir, root=root) == [f"{root} and image.workdir, {workdir}, {APART}"]


@pytest.mark.parametrize(("root", "mount"), [("/srv", "/srv"), ("/srv/runtime", "/srv"), ("/srv", "/srv/models")])
def test_the_runtime_and_the_models_lie_apart(small, root, mount):
    assert told(small, root=root, mount=mount) == [f"{root} and {mount} of image.mounts, {APART}"]


@pytest.mark.parametrize(
    "places",
    [
        {"mount": "/app/models"},
        {"mount": "/apps"},
        {"mount": f"{TMP}/models"},
        {"mount": "/usr/share/models"},
        {"workdir": "/usr/src/app", "mount": "/usr/src/models"},
        {"workdir": "/var/task", "root": "/usr/local/runtime"},
        {"workdir": "/opt/app", "mount": "/opt/models", "root": "/opt/pythons"},
        {"workdir": "/home", "mount": "/home/models", "root": "/srv/runtime"},
    ],
)
def test_other_places_are_fine(small, places):
    assert told(small, **places) == []


@pytest.mark.parametrize("image", [{"workdir": 3}, {"mounts": 3}, {"mounts": {"models": 3}}, {"workdir": "app"}])
def test_what_is_no_path_is_told_as_that(small, image):
    assert any("expected" in line for line in told(small, **image))
