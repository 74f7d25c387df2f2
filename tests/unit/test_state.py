"""The state: a folder and an S3 prefix behave alike, and two writers never lose a record."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from splitbake.cloud import Cloud
from splitbake.errors import CloudError, StateError
from splitbake.manifest import Environment, Manifest
from splitbake.state import FolderStore, S3Store, Store, open_store


@pytest.fixture(params=["folder", "s3", "s3 without prefix"])
def store(request, tmp_path, monkeypatch):
    if request.param == "folder":
        yield FolderStore(tmp_path / "state")
        return
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="state")
        client.put_object(Bucket="state", Key="prefixed-otherwise/records/x.json", Body=b"not ours")
        yield S3Store(client, "state", "" if "without" in request.param else "prefix/")


def test_what_was_never_stored_is_none(store: Store):
    assert store.get("records/none.json") is None
    assert store.keys("records/") == []


def test_put_replaces(store: Store):
    store.put("records/a.json", b"1")
    store.put("records/a.json", b"2")
    assert store.get("records/a.json") == b"2"


def test_create_stores_once(store: Store):
    assert store.create("records/a.json", b"1") is True
    assert store.create("records/a.json", b"2") is False
    assert store.get("records/a.json") == b"1"


def test_keys_are_sorted_and_of_the_prefix_alone(store: Store):
    for key in ("records/b.json", "records/a.json", "artifacts/ami/x.json"):
        store.put(key, b"")
    assert store.keys("records/") == ["records/a.json", "records/b.json"]
    assert "artifacts/ami/x.json" in store.keys("")


def test_of_many_writers_one_creates(store: Store):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.create("records/a.json", str(n).encode()), range(24)))
    assert won.count(True) == 1
    assert store.get("records/a.json") == str(won.index(True)).encode()


def test_a_folder_holds_nothing_but_values(tmp_path):
    store = FolderStore(tmp_path)
    store.put("records/a.json", b"1")
    store.create("records/a.json", b"2")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.json"]


def test_a_folder_that_is_none_is_told(tmp_path):
    (tmp_path / "state").write_text("a file")
    store = FolderStore(tmp_path / "state")
    with pytest.raises(StateError, match="cannot read"):
        store.get("records/a.json")
    with pytest.raises(StateError, match="cannot write"):
        store.put("records/a.json", b"1")


def test_a_file_system_that_refuses_is_told_and_nothing_stays_beside(tmp_path, monkeypatch):
    store = FolderStore(tmp_path)
    (tmp_path / "records/a.json").mkdir(parents=True)
    with pytest.raises(StateError, match="cannot write"):
        store.put("records/a.json", b"1")

    def refuse(*_):
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(StateError, match="no hard links here"):
        store.create("records/b.json", b"1")
    assert [path.name for path in tmp_path.rglob("*")] == ["records", "a.json"]


def test_a_missing_bucket_is_told_and_not_taken_for_a_missing_key(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        store = S3Store(boto3.client("s3", region_name="us-east-1"), "none", "prefix")
        for call in (
            lambda: store.get("a"),
            lambda: store.create("a", b""),
            lambda: store.put("a", b""),
            lambda: store.keys("a"),
        ):
            with pytest.raises(CloudError, match="NoSuchBucket"):
                call()


@pytest.mark.parametrize(("state", "kind"), [(".splitbake/state", FolderStore), ("s3://bucket/prefix", S3Store)])
def test_the_manifest_says_which(state, kind):
    manifest = Manifest.model_construct(state=state)
    cloud = Cloud("dev", Environment(account="123456789012", region="us-east-1"))
    assert isinstance(open_store(manifest, Path("project"), cloud), kind)
