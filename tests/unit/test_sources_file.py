"""Model files that lie in the project."""

from __future__ import annotations

import os

import pytest

from splitbake import sources
from splitbake.cloud import Cloud
from splitbake.errors import SourceError
from splitbake.lock import LockedFile
from splitbake.manifest import Environment, ModelFile
from splitbake.sources.file import FileSource

CLOUD = Cloud("dev", Environment(account="123456789012", region="eu-west-1"))


def entry(path: str, source: str) -> ModelFile:
    return ModelFile.model_validate({"path": path, "from": source})


@pytest.fixture
def source(tmp_path) -> FileSource:
    (tmp_path / "weights/deep").mkdir(parents=True)
    (tmp_path / "weights/b.bin").write_bytes(b"bb")
    (tmp_path / "weights/deep/a.bin").write_bytes(b"a")
    return FileSource(CLOUD, tmp_path)


def test_a_file_is_found_and_read(source, tmp_path):
    (found,) = source.find(entry("models/b.bin", "weights/b.bin"))
    assert (found.path, found.source, found.size, found.etag) == ("models/b.bin", "weights/b.bin", 2, None)
    with source.open(found) as stream:
        assert stream.read(100) == b"bb"
    locked = LockedFile(path=found.path, source=found.source, size=2, sha256="0" * 64)
    assert source.url(locked) == tmp_path / "weights/b.bin"


def test_a_folder_gives_every_file_below_it_in_order(source):
    found = source.find(entry("models/", "weights/"))
    assert [(file.path, file.source) for file in found] == [
        ("models/b.bin", "weights/b.bin"),
        ("models/deep/a.bin", "weights/deep/a.bin"),
    ]


def test_links_inside_the_project_are_followed(source, tmp_path):
    (tmp_path / "link.bin").symlink_to("weights/b.bin")
    assert source.find(entry("x", "link.bin"))[0].size == 2


def _link_out(root):
    (root.parent / f"{root.name}-outside").write_bytes(b"secret")
    (root / "weights/x").symlink_to(root.parent / f"{root.name}-outside")


@pytest.mark.parametrize(
    ("prepare", "source_text", "expected"),
    [
        (lambda root: None, "weights/none", "weights/none does not exist in"),
        (lambda root: None, "weights", "weights is a folder"),
        (lambda root: None, "weights/b.bin/", "weights/b.bin/ is not a folder"),
        (lambda root: (root / "empty").mkdir(), "empty/", "no file lies below empty/"),
        (_link_out, "weights/x", "weights/x leads out of the project"),
        (_link_out, "weights/", "weights/x leads out of the project"),
        (lambda root: (root / "weights/x").symlink_to("deep"), "weights/", "x is a link to a folder"),
        (lambda root: (root / "weights/x").symlink_to("x"), "weights/x", "weights/x cannot be read"),
        (lambda root: os.mkfifo(root / "weights/x"), "weights/x", "weights/x is not a regular file"),
    ],
)
def test_what_cannot_be_a_model_is_refused(source, tmp_path, prepare, source_text, expected):
    prepare(tmp_path)
    with pytest.raises(SourceError) as caught:
        source.find(entry("x/" if source_text.endswith("/") else "x", source_text))
    assert caught.value.message.startswith(expected) or expected in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("uri", ["/etc/passwd", "../x", "a/../../x", "a//b", "./a"])
def test_paths_that_are_not_below_the_project_are_refused_as_text(uri):
    with pytest.raises(ValueError, match="expected a path below the project's folder"):
        FileSource.check(uri)


def test_download_checks_the_content_and_leaves_nothing_half_written(source, tmp_path):
    file = LockedFile(
        path="b",
        source="weights/b.bin",
        size=2,
        sha256="3b64db95cb55c763391c707108489ae18b4112d783300de38e033b4c98c3deaf",
    )
    target = tmp_path / "cache/b"
    sources.download(source, file, target)
    assert target.read_bytes() == b"bb"
    (tmp_path / "weights/b.bin").write_bytes(b"xx")
    with pytest.raises(SourceError, match="not what the lock says"):
        sources.download(source, file, tmp_path / "cache/c")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["b"]


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n".format("0" * 64)


@pytest.mark.parametrize(
    ("content", "tool"),
    [
        (LFS, "git-lfs"),
        (LFS.replace("git-lfs", "hawser"), "git-lfs"),
        ("/annex/objects/SHA256E-s31390--f50d7ac4.bin\n", "git-annex"),
    ],
)
@pytest.mark.parametrize("uri", ["weights/b.bin", "weights/"])
def test_what_stands_for_a_model_is_not_taken_for_it(source, tmp_path, content, tool, uri):
    (tmp_path / "weights/b.bin").write_text(content)
    with pytest.raises(SourceError, match=f"weights/b.bin is a pointer of {tool}") as caught:
        source.find(entry("x/" if uri.endswith("/") else "x", uri))
    assert "git" in caught.value.hint


def test_a_large_file_that_begins_like_a_pointer_is_a_file(source, tmp_path):
    (tmp_path / "weights/b.bin").write_text(LFS + "x" * 1024)
    assert source.find(entry("x", "weights/b.bin"))


def test_a_link_of_git_annex_to_nothing_is_told(source, tmp_path):
    (tmp_path / "weights/c.bin").symlink_to("../.git/annex/objects/X1/9q/SHA256E-s3--0.bin/SHA256E-s3--0.bin")
    with pytest.raises(SourceError, match=r"weights/c\.bin is a link of git-annex") as caught:
        source.find(entry("x", "weights/c.bin"))
    assert caught.value.hint == "git annex get weights/c.bin"
