"""What CodeBuild builds from: the zip is its content and nothing else, and goes to S3 once."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber
from hypothesis import given
from hypothesis import strategies as st

from splitbake.bake import codebuild_context as contexts
from splitbake.bake.codebuild_context import Packed, pack
from splitbake.cloud import Cloud
from splitbake.errors import BuildError, CloudError, ToolError
from splitbake.manifest import Environment

ACCOUNT, REGION = "123456789012", "eu-west-1"


def lay_out(root: Path, tree: dict[str, bytes], *, order: int = 1, mode: int = 0o600, time: int = 0) -> Path:
    for name in list(tree)[::order]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tree[name])
        path.chmod(mode)
        os.utime(path, (time, time))
    return root


def names(packed: Packed) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


NAME = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
TREE = st.dictionaries(
    NAME.filter(lambda name: name not in {".", ".."} and len(name.encode()) < 200).map(lambda name: f"d/{name}"),
    st.binary(max_size=200),
    max_size=6,
)


@given(tree=TREE, time=st.integers(0, 2**31), ca=st.none() | st.text(min_size=1, max_size=50))
def test_the_same_tree_is_the_same_bytes_and_comes_out_as_it_went_in(tree, time, ca):
    tree = {"Dockerfile": b"FROM scratch\n", **tree}
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        first = pack(lay_out(Path(one), tree), ca)
        second = pack(lay_out(Path(other), tree, order=-1, mode=0o644, time=time), ca)
    assert first == second
    assert first.content == second.content
    assert first.key == f"splitbake/contexts/{hashlib.sha256(first.content).hexdigest()}.zip"
    assert first.files == len(tree) + (ca is not None)
    assert first.size == sum(map(len, tree.values())) + len((ca or "").encode())
    files = {name: content for name, content in names(first).items() if not name.endswith("/")}
    beside = {"ca.pem": ca.encode()} if ca is not None else {}
    assert files == {f"context/{name}": content for name, content in tree.items()} | beside


def test_other_content_has_another_key(tmp_path):
    before = pack(lay_out(tmp_path, {"Dockerfile": b"1", "x": b"1"}), None)
    (tmp_path / "x").write_bytes(b"2")
    after = pack(tmp_path, None)
    assert len({before.key, after.key, pack(tmp_path, "certificates").key}) == 3


def test_times_modes_and_owners_are_fixed_and_the_bytes_are_deflated(tmp_path):
    lay_out(tmp_path, {"Dockerfile": b"x" * 10_000, "run.sh": b"", "data": b""})
    (tmp_path / "run.sh").chmod(0o700)
    (tmp_path / "empty").mkdir()
    packed = pack(tmp_path, None)
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        entries = archive.infolist()
    assert [(entry.filename, oct(entry.external_attr >> 16)) for entry in entries] == [
        ("context/Dockerfile", "0o100644"),
        ("context/data", "0o100644"),
        ("context/empty/", "0o40755"),
        ("context/run.sh", "0o100755"),
    ]
    assert {(entry.date_time, entry.create_system, entry.extra) for entry in entries} == {
        ((1980, 1, 1, 0, 0, 0), 3, b"")
    }
    assert len(packed.content) < 1000


def test_a_name_that_is_no_utf_8_is_refused(tmp_path):
    lay_out(tmp_path, {"Dockerfile": b""})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")).write_bytes(b"")
    with pytest.raises(BuildError, match="no UTF-8"):
        pack(tmp_path, None)


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe"])
def test_what_is_neither_file_nor_folder_is_refused(tmp_path, kind):
    context = lay_out(tmp_path / "context", {"Dockerfile": b"", "sub/x": b""})
    if kind == "pipe":
        os.mkfifo(context / "odd")
    else:
        (context / "odd").symlink_to("Dockerfile" if kind == "link" else "sub")
    with pytest.raises(BuildError, match="odd is neither a file nor a folder"):
        pack(context, None)


def test_nothing_is_packed_without_a_dockerfile_or_over_the_limit(tmp_path, monkeypatch):
    with pytest.raises(BuildError, match="has no Dockerfile"):
        pack(tmp_path, None)
    lay_out(tmp_path, {"Dockerfile": b"", "large": b"x" * 11})
    monkeypatch.setattr(contexts, "LIMIT", 10)
    with pytest.raises(BuildError, match=r"has 11 B, over 10 B"):
        pack(tmp_path, None)


@pytest.fixture
def cloud() -> Cloud:
    environment = Environment.model_validate({"account": ACCOUNT, "region": REGION})
    session = boto3.Session("testing", "testing", region_name=REGION)
    return Cloud("dev", environment, {"s3": session.client("s3")})


@pytest.fixture
def s3(cloud: Cloud) -> Iterator[Stubber]:
    with Stubber(cloud.client("s3")) as stub:
        yield stub
        stub.assert_no_pending_responses()


PACKED = Packed(b"zipped", 2, 4000)
HEAD = {"Bucket": "b", "Key": PACKED.key, "ExpectedBucketOwner": ACCOUNT}


def test_what_is_there_already_is_not_sent_again(cloud, s3):
    s3.add_response("head_object", {"ContentLength": len(PACKED.content)}, HEAD)
    said: list[str] = []
    assert contexts.upload(cloud, "b", PACKED, said.append) == f"b/{PACKED.key}"
    assert said == ["2 files, 4.0 kB to build from are in S3 already (6 B as a zip)"]


@pytest.mark.parametrize("size", [None, 3])
def test_what_is_missing_or_of_another_size_is_sent(cloud, s3, size):
    if size is None:
        s3.add_client_error("head_object", "404", http_status_code=404, expected_params=HEAD)
    else:
        s3.add_response("head_object", {"ContentLength": size}, HEAD)
    s3.add_response("put_object", {}, {**HEAD, "Body": PACKED.content, "ContentType": ANY})
    said: list[str] = []
    assert contexts.upload(cloud, "b", PACKED, said.append) == f"b/{PACKED.key}"
    assert said == ["uploading 2 files, 4.0 kB to build from (6 B as a zip)"]


def test_a_refused_look_is_no_missing_object(cloud, s3):
    s3.add_client_error("head_object", "403", http_status_code=403)
    with pytest.raises(CloudError, match=f"look for s3://b/{PACKED.key}"):
        contexts.upload(cloud, "b", PACKED, print)


LIST = {"Bucket": "b", "Prefix": "splitbake/contexts/", "MaxKeys": 1, "ExpectedBucketOwner": ACCOUNT}


def listed(region: str | None) -> dict[str, Any]:
    return {"ResponseMetadata": {"HTTPHeaders": {"x-amz-bucket-region": region} if region else {}}}


@pytest.mark.parametrize("region", [REGION, None])
def test_a_bucket_of_this_region_will_do(cloud, s3, region):
    s3.add_response("list_objects_v2", listed(region), LIST)
    contexts.require_bucket(cloud, "b")


@pytest.mark.parametrize(
    ("code", "said"), [("NoSuchBucket", "there is no bucket b"), ("AccessDenied", f"or is not of account {ACCOUNT}")]
)
def test_a_bucket_that_cannot_be_used_is_named(cloud, s3, code, said):
    s3.add_client_error("list_objects_v2", code, expected_params=LIST)
    with pytest.raises(ToolError, match=said) as told:
        contexts.require_bucket(cloud, "b")
    assert "image.codebuild.bucket" in told.value.hint


def test_a_bucket_of_another_region_is_refused(cloud, s3):
    s3.add_response("list_objects_v2", listed("us-east-1"), LIST)
    with pytest.raises(ToolError, match="bucket b is in us-east-1, and CodeBuild in eu-west-1"):
        contexts.require_bucket(cloud, "b")
    s3.add_client_error("list_objects_v2", "SlowDown", expected_params=LIST)
    with pytest.raises(CloudError, match="SlowDown"):
        contexts.require_bucket(cloud, "b")
