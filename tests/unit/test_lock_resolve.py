"""Resolving models: sizes and checksums as they are, nothing hashed twice without need, nothing wrong let through."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import boto3
import pytest
import yaml
from moto import mock_aws

from splitbake import lock as locks
from splitbake import registry, resolve
from splitbake.errors import LockError, SourceError
from splitbake.lock import Lock, LockedBaseAmi, LockedBaseImage, LockedModels
from splitbake.project import Project
from splitbake.runtime import PLATFORMS, LockedRuntime, LockedWheel
from splitbake.sources import Found, base_ami, base_image, wheels
from splitbake.sources.s3 import S3Source
from splitbake.ui import silent

BASE_AMI = LockedBaseAmi(
    request="ecs-gpu-al2023",
    id="ami-01234567",
    name="base",
    owner="self",
    created="2026-01-01T00:00:00Z",
    architecture="x86_64",
    region="us-east-1",
    root_device="/dev/xvda",
    root_size=1,
)
BASE_IMAGE = LockedBaseImage(request="python:3.11-slim", digest="sha256:" + "c" * 64)


@pytest.fixture
def s3(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="models")
        for key, body in {"x/a": b"a" * 3_000_000, "x/b": b"b", "y": b"y"}.items():
            client.put_object(Bucket="models", Key=key, Body=body)
        yield client


WHEEL = LockedWheel(name="uv", version="1", url="https://host/uv-1-py3-none-any.whl", size=1, sha256="0" * 64)
RUNTIME = LockedRuntime(
    requirements=hashlib.sha256(b"heavy\n").hexdigest(),
    python="3.11",
    platform=PLATFORMS["x86_64"],
    wheels=(),
    installer=WHEEL,
)


def project(root: Path, *files: dict[str, str], budget: str = "3 GiB", runtime: str = "") -> Project:
    """Write a project with these model files, and a runtime of that requirements file."""
    manifest = {
        "version": 1,
        "project": "video-analysis",
        "state": ".splitbake/state",
        "models": {"files": list(files), "budget": budget},
        "ami": {"base": "ecs-gpu-al2023"},
        "image": {
            "base": "python:3.11-slim",
            "include": ["run.py"],
            "mounts": {"models": "/workspace/models"},
            "command": ["python", "run.py"],
            "repository": "processor",
            "budget": "500 MB",
        },
        "environments": {"dev": {"account": "123456789012", "region": "us-east-1"}},
    }
    if runtime:
        manifest["runtime"] = {"requirements": runtime, "python": "3.11", "budget": "1 GiB"}
    (root / "splitbake.yaml").write_text(yaml.safe_dump(manifest))
    return Project(root / "splitbake.yaml")


def models(of: Project, previous: tuple[LockedModels, ...] | None = None) -> tuple[tuple[LockedModels, ...], list[str]]:
    """Resolve the models of a project; return them and what was read for it."""
    said: list[str] = []
    lock = None if previous is None else Lock(base_ami=BASE_AMI, base_image=BASE_IMAGE, models=previous)
    found = resolve.resolve_models(of, of.cloud(), lock, said.append)
    local = [line for line in said if "://" not in line]
    files = [file for entry in found.entries for file in entry.files]
    return found.entries, local + [file.source for file in files if found.ways[file.path] == "downloaded"]


def test_every_file_gets_its_size_and_checksum(s3, tmp_path):
    (tmp_path / "local.bin").write_bytes(b"local")
    made = project(
        tmp_path,
        {"path": "models/z", "from": "local.bin"},
        {"path": "models/x/", "from": "s3://models/x/"},
    )
    found, read = models(made)
    assert [entry.path for entry in found] == ["models/x/", "models/z"]
    assert sorted(read) == ["local.bin", "s3://models/x/a", "s3://models/x/b"]
    files = {file.path: (file.size, file.sha256) for entry in found for file in entry.files}
    assert files == {
        "models/x/a": (3_000_000, hashlib.sha256(b"a" * 3_000_000).hexdigest()),
        "models/x/b": (1, hashlib.sha256(b"b").hexdigest()),
        "models/z": (5, hashlib.sha256(b"local").hexdigest()),
    }


def test_a_second_time_gives_the_same_and_reads_no_object_again(s3, tmp_path):
    made = project(tmp_path, {"path": "models/x/", "from": "s3://models/x/"})
    first, _ = models(made)
    assert models(made, first) == (first, [])
    assert models(made)[0] == first


def test_a_digest_that_s3_has_computed_spares_the_download(s3, tmp_path):
    s3.put_object(Bucket="models", Key="x/a", Body=b"c" * 3_000_000, ChecksumAlgorithm="SHA256")
    found, read = models(project(tmp_path, {"path": "models/x/", "from": "s3://models/x/"}))
    assert read == ["s3://models/x/b"]
    assert found[0].files[0].sha256 == hashlib.sha256(b"c" * 3_000_000).hexdigest()


def test_what_is_as_small_as_a_pointer_is_looked_at_even_so(s3, tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n".format("0" * 64)
    s3.put_object(Bucket="models", Key="y", Body=pointer, ChecksumAlgorithm="SHA256")
    with pytest.raises(SourceError, match="s3://models/y is a pointer of git-lfs"):
        models(project(tmp_path, {"path": "models/y", "from": "s3://models/y"}))


def test_an_object_that_was_written_anew_in_the_same_parts_is_not_read_again(s3, tmp_path):
    """As with a key of KMS, where the entity tag changes with each writing; moto's is always an MD5."""
    part = b"p" * (5 << 20)

    def write() -> None:
        upload = s3.create_multipart_upload(Bucket="models", Key="y", ChecksumAlgorithm="SHA256")["UploadId"]
        one = {"Bucket": "models", "Key": "y", "UploadId": upload, "PartNumber": 1}
        done = s3.upload_part(**one, Body=part, ChecksumAlgorithm="SHA256")
        parts = [{"PartNumber": 1, "ETag": done["ETag"], "ChecksumSHA256": done["ChecksumSHA256"]}]
        s3.complete_multipart_upload(Bucket="models", Key="y", UploadId=upload, MultipartUpload={"Parts": parts})

    write()
    made = project(tmp_path, {"path": "models/y", "from": "s3://models/y"})
    first, read = models(made)
    assert read == ["s3://models/y"]
    (file,) = first[0].files
    assert file.sha256 == hashlib.sha256(part).hexdigest()
    changed = first[0].model_copy(update={"files": (file.model_copy(update={"etag": "of another key"}),)})
    write()
    assert models(made, (changed,)) == (first, [])


def test_a_version_that_stayed_is_not_read_again_and_each_new_one_is_noted(s3, tmp_path):
    s3.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
    one = s3.put_object(Bucket="models", Key="y", Body=b"new")["VersionId"]
    made = project(tmp_path, {"path": "models/y", "from": "s3://models/y"})
    first, read = models(made)
    assert first[0].files[0].version == one
    assert models(made, first) == (first, [])
    two = s3.put_object(Bucket="models", Key="y", Body=b"new")["VersionId"]
    second, read = models(made, first)
    assert (second[0].files[0].version, read) == (two, [])


def locked_at(made: Project) -> Lock:
    entries = resolve.resolve_models(made, made.cloud(), None, silent).entries
    return Lock(base_ami=BASE_AMI, base_image=BASE_IMAGE, models=entries)


def test_models_alone_are_updated_and_the_bases_stay(s3, tmp_path):
    made = project(tmp_path, {"path": "models/y", "from": "s3://models/y"})
    old = locked_at(made)
    s3.put_object(Bucket="models", Key="y", Body=b"new")
    new = resolve.update(made, made.cloud(), old, ["models"], silent)
    assert (new.lock.base_ami, new.lock.base_image) == (BASE_AMI, BASE_IMAGE)
    assert new.lock.files[0].sha256 == hashlib.sha256(b"new").hexdigest()
    assert new.ways == {"models/y": "downloaded"}


def test_what_stays_must_answer_the_manifest(s3, tmp_path):
    old = locked_at(project(tmp_path, {"path": "models/y", "from": "s3://models/y"}))
    made = project(tmp_path, {"path": "models/z", "from": "s3://models/y"})
    with pytest.raises(LockError, match="models/z from s3://models/y is not locked") as caught:
        resolve.update(made, made.cloud(), old, ["base"], silent)
    assert caught.value.hint
    assert resolve.update(made, made.cloud(), old, ["models"], silent).lock.files[0].path == "models/z"


def test_a_replaced_object_is_read_again_and_only_that(s3, tmp_path):
    made = project(tmp_path, {"path": "models/x/", "from": "s3://models/x/"})
    first, _ = models(made)
    s3.put_object(Bucket="models", Key="x/b", Body=b"c")
    second, read = models(made, first)
    assert read == ["s3://models/x/b"]
    assert second[0].files[1].sha256 == hashlib.sha256(b"c").hexdigest()


def settle(*files: Path) -> None:
    """Wait until the file system's clock has moved on since ``files`` were written (4 ms on ext4)."""
    newest = max(file.stat().st_ctime_ns for file in files)
    probe = files[0].with_name(".probe")
    while not probe.exists() or probe.stat().st_ctime_ns <= newest:
        probe.write_bytes(b"")
    probe.unlink()


def test_a_local_file_is_read_again_only_when_it_has_changed(s3, tmp_path):
    file = tmp_path / "local.bin"
    file.write_bytes(b"one")
    settle(file)
    made = project(tmp_path, {"path": "models/z", "from": "local.bin"})
    first, read = models(made)
    assert read == ["local.bin"]
    assert models(made) == (first, [])
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    second, read = models(made)
    assert read == ["local.bin"]
    assert second[0].files[0].sha256 == hashlib.sha256(b"two").hexdigest()


def locked(made: Project) -> Project:
    """Write the lock that answers ``made`` now."""
    locks.write(made.lock_path, locked_at(made))
    return Project(made.manifest_path)


def test_models_in_the_project_that_the_lock_does_not_describe_are_named(s3, tmp_path):
    for name in ("single", "folder/gone", "folder/kept", "folder/other"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"one")
    entries = [{"path": "models/z", "from": "single"}, {"path": "models/f/", "from": "folder/"}]
    made = locked(project(tmp_path, *entries, {"path": "models/y", "from": "s3://models/y"}))
    assert resolve.changed_models(made) == []
    (tmp_path / "folder/gone").unlink()
    (tmp_path / "folder/new").write_bytes(b"one")
    (tmp_path / "folder/other").write_bytes(b"two")
    assert resolve.changed_models(made) == ["folder/gone", "folder/new", "folder/other"]
    (tmp_path / "single").unlink()
    assert "single" in resolve.changed_models(made)
    (tmp_path / "single").mkdir()
    assert "single" in resolve.changed_models(made)


def test_models_from_elsewhere_are_no_business_of_the_project_folder(s3, tmp_path):
    made = locked(project(tmp_path, {"path": "models/y", "from": "s3://models/y"}))
    assert resolve.changed_models(made) == []
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("known", [True, False])
def test_a_wrong_checksum_names_both(s3, tmp_path, known):
    first, _ = models(project(tmp_path, {"path": "models/y", "from": "s3://models/y"}))
    made = project(tmp_path, {"path": "models/y", "from": "s3://models/y", "sha256": "f" * 64})
    with pytest.raises(SourceError, match="wrong checksum") as caught:
        models(made, first if known else None)
    assert "f" * 64 in caught.value.message
    assert hashlib.sha256(b"y").hexdigest() in caught.value.message


def test_the_right_checksum_is_taken(s3, tmp_path):
    digest = hashlib.sha256(b"y").hexdigest()
    found, _ = models(project(tmp_path, {"path": "models/y", "from": "s3://models/y", "sha256": digest}))
    assert found[0].files[0].sha256 == digest


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            [{"path": "models/x/", "from": "s3://models/x/"}, {"path": "models/x/b", "from": "s3://models/y"}],
            "the same path: models/x/b",
        ),
        (
            [{"path": "models/x/", "from": "s3://models/x/"}, {"path": "models/x/b/c", "from": "s3://models/y"}],
            "models/x/b would have to be a file and a folder",
        ),
    ],
)
def test_files_that_cannot_lie_beside_each_other_are_refused(s3, tmp_path, files, expected):
    with pytest.raises(LockError, match=expected) as caught:
        models(project(tmp_path, *files))
    assert caught.value.hint


@pytest.mark.parametrize("key", ["x/new\nline", "x/../up", "x//double", "x/tab\t"])
def test_object_keys_that_are_no_safe_path_are_refused(s3, tmp_path, key):
    s3.put_object(Bucket="models", Key=key, Body=b"")
    with pytest.raises(SourceError, match="cannot be a model file") as caught:
        models(project(tmp_path, {"path": "models/x/", "from": "s3://models/x/"}))
    assert "\n" not in caught.value.message


def test_a_file_name_that_is_no_text_is_refused(s3, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "a\udcff").write_bytes(b"")
    with pytest.raises(SourceError, match="cannot be a model file"):
        models(project(tmp_path, {"path": "models/x/", "from": "weights/"}))


def test_a_broken_budget_names_the_biggest_files(s3, tmp_path):
    made = project(tmp_path, {"path": "models/x/", "from": "s3://models/x/"}, budget="2 MB")
    with pytest.raises(LockError, match=r"take 3.0 MB, models.budget is 2.0 MB; the biggest:\n +3.0 MB  models/x/a\n"):
        models(made)


@pytest.fixture
def never_read(monkeypatch):
    monkeypatch.setattr(S3Source, "open", lambda *_: pytest.fail("a model was read"))


@pytest.mark.parametrize(
    ("files", "budget", "expected"),
    [
        ([{"path": "models/x/", "from": "s3://models/x/"}], "2 MB", "models.budget is 2.0 MB"),
        (
            [{"path": "models/x/", "from": "s3://models/x/"}, {"path": "models/x/b", "from": "s3://models/y"}],
            "3 GiB",
            "the same path",
        ),
        ([{"path": "models/odd/", "from": "s3://models/odd/"}], "3 GiB", "cannot be a model file"),
    ],
)
@pytest.mark.usefixtures("never_read")
def test_what_can_be_refused_without_reading_is(s3, tmp_path, files, budget, expected):
    s3.put_object(Bucket="models", Key="odd/tab\t", Body=b"")
    with pytest.raises((LockError, SourceError), match=expected):
        models(project(tmp_path, *files, budget=budget))


@pytest.mark.usefixtures("never_read")
def test_models_are_read_when_all_else_is_found(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(base_ami, "resolve", lambda *_: BASE_AMI)
    monkeypatch.setattr(base_image, "resolve_base", lambda *_: BASE_IMAGE.digest)
    made = project(tmp_path, {"path": "models/y", "from": "s3://models/y"}, runtime="gpu.txt")
    with pytest.raises(SourceError, match=r"cannot read gpu\.txt"):
        resolve.resolve(made, made.cloud(), None, silent)


def test_models_that_stay_must_keep_a_budget_that_was_lowered(s3, tmp_path):
    old = locked_at(project(tmp_path, {"path": "models/x/", "from": "s3://models/x/"}))
    made = project(tmp_path, {"path": "models/x/", "from": "s3://models/x/"}, budget="2 MB")
    with pytest.raises(LockError, match=r"models\.budget is 2\.0 MB"):
        resolve.update(made, made.cloud(), old, ["base"], silent)


def test_a_base_for_other_machines_cannot_leave_the_runtime_behind(s3, tmp_path, monkeypatch):
    made = project(tmp_path, {"path": "models/y", "from": "s3://models/y"}, runtime="gpu.txt")
    (tmp_path / "gpu.txt").write_text("heavy\n", encoding="utf-8")
    old = locked_at(made).model_copy(update={"runtime": RUNTIME})
    arm = BASE_AMI.model_copy(update={"architecture": "arm64"})
    monkeypatch.setattr(base_ami, "resolve", lambda *_: arm)
    monkeypatch.setattr(base_image, "resolve_base", lambda *_: BASE_IMAGE.digest)
    with pytest.raises(LockError, match="the hosts are arm64, the runtime is locked for x86_64") as caught:
        resolve.update(made, made.cloud(), old, ["base"], silent)
    assert "update that part as well" in caught.value.hint
    for_arm = RUNTIME.model_copy(update={"platform": PLATFORMS["arm64"]})
    monkeypatch.setattr(wheels, "resolve", lambda *_: for_arm)
    new = resolve.update(made, made.cloud(), old, ["base", "runtime"], silent).lock
    assert (new.base_ami, new.runtime, new.models) == (arm, for_arm, old.models)


def test_an_error_in_one_file_ends_the_others(s3, tmp_path):
    files = [{"path": f"models/{n}", "from": f"s3://models/{'none' if n == 5 else 'y'}"} for n in range(9)]
    with pytest.raises(SourceError, match="s3://models/none does not exist"):
        models(project(tmp_path, *files))


def test_an_error_in_one_file_does_not_wait_for_the_end_of_another(s3, tmp_path, monkeypatch):
    """A model can be gigabytes: this one has no end at all."""

    class Endless:
        def __init__(self, cloud, root):
            pass

        @staticmethod
        def check(uri):
            pass

        def find(self, entry):
            return [Found(entry.path, entry.source, size=None, etag=None)]

        def open(self, file):
            if file.source == "b":
                raise SourceError("b is gone")
            return Path("/dev/zero").open("rb")

    monkeypatch.setattr(registry, "load", lambda _kinds, _kind: Endless)
    with pytest.raises(SourceError, match="b is gone"):
        models(project(tmp_path, {"path": "models/z", "from": "a"}, {"path": "models/b", "from": "b"}))


def test_a_bucket_is_looked_up_once_however_many_files_it_has(s3, tmp_path):
    asked: list[str] = []
    entries = [{"path": f"models/{n}", "from": "s3://models/y"} for n in range(3)]
    made = project(tmp_path, *entries)
    cloud = made.cloud()
    cloud.client("s3").meta.events.register("before-call.s3.HeadBucket", lambda **_: asked.append("HeadBucket"))
    resolve.resolve_models(made, cloud, None, silent)
    assert asked == ["HeadBucket"]
