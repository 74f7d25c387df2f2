"""The state: a folder and an S3 prefix behave alike, and two writers never lose a record."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from botocore.stub import ANY, Stubber
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from splitbake import state
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


def value(store: Store, key: str) -> bytes | None:
    stored = store.get(key)
    return stored and stored.value


def version(store: Store, key: str) -> str:
    stored = store.get(key)
    assert stored
    return stored.version


def test_what_was_never_stored_is_none(store: Store):
    assert store.get("records/none.json") is None
    assert store.keys("records/") == []


def test_put_replaces(store: Store):
    store.put("records/a.json", b"1")
    store.put("records/a.json", b"2")
    assert value(store, "records/a.json") == b"2"


def test_create_stores_once(store: Store):
    assert store.create("records/a.json", b"1") is True
    assert store.create("records/a.json", b"2") is False
    assert value(store, "records/a.json") == b"1"


def test_replace_stores_over_the_version_that_was_read_and_no_other(store: Store):
    store.create("records/a.json", b"1")
    first = version(store, "records/a.json")
    assert store.replace("records/a.json", b"2", first) is True
    assert store.replace("records/a.json", b"late", first) is False
    assert value(store, "records/a.json") == b"2"
    assert version(store, "records/a.json") != first


def test_replace_does_not_bring_back_what_is_gone(store: Store):
    store.create("records/a.json", b"1")
    assert store.replace("records/b.json", b"2", version(store, "records/a.json")) is False
    assert store.get("records/b.json") is None


def test_keys_are_sorted_and_of_the_prefix_alone(store: Store):
    for key in ("records/b.json", "records/a.json", "records-old/a.json", "artifacts/ami/x.json", "records/c/d.json"):
        store.put(key, b"")
    assert store.keys("records/") == ["records/a.json", "records/b.json", "records/c/d.json"]
    assert store.keys("records/b") == ["records/b.json"]
    assert store.keys("rec") == ["records-old/a.json", "records/a.json", "records/b.json", "records/c/d.json"]
    assert "artifacts/ami/x.json" in store.keys("")


@pytest.mark.parametrize(
    "key", ["", "..", "../a.json", "records/../../a.json", "/etc/a.json", "a//b", "a/", ".lock", "a\n"]
)
def test_no_key_leads_out_of_the_root(store: Store, key):
    for call in (
        lambda: store.get(key),
        lambda: store.create(key, b""),
        lambda: store.replace(key, b"", "version"),
        lambda: store.put(key, b""),
    ):
        with pytest.raises(StateError, match="cannot be a key"):
            call()


@given(st.text())
def test_a_key_that_is_let_through_stays_below_its_root(key):
    try:
        state._checked(key)
    except StateError:
        return
    root = Path("/root-of-state")
    assert root in (root / key).parents
    assert (root / key).relative_to(root).as_posix() == key


def test_of_many_writers_one_creates(store: Store):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.create("records/a.json", str(n).encode()), range(24)))
    assert won.count(True) == 1
    assert value(store, "records/a.json") == str(won.index(True)).encode()


#: What every reader, changer and writer of state does, in a process of its own.
ADD = """
import sys
from pathlib import Path
from splitbake.state import FolderStore
store = FolderStore(Path(sys.argv[1]))
for _ in range(25):
    while True:
        there = store.get("records/count.json")
        if store.replace("records/count.json", str(int(there.value) + 1).encode(), there.version):
            break
"""


def test_increments_of_many_processes_all_survive(tmp_path):
    FolderStore(tmp_path).create("records/count.json", b"0")
    workers = [subprocess.Popen([sys.executable, "-c", ADD, str(tmp_path)]) for _ in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
    assert value(FolderStore(tmp_path), "records/count.json") == b"100"


def test_a_folder_holds_nothing_but_values_and_its_lock(tmp_path):
    store = FolderStore(tmp_path)
    store.put("records/a.json", b"1")
    store.create("records/a.json", b"2")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [".lock", "a.json"]


def test_keys_of_a_folder_reads_no_other_folder(tmp_path, monkeypatch):
    store = FolderStore(tmp_path)
    for key in ("records/dev/a.json", "records/prod/b.json", "artifacts/ami/x.json"):
        store.put(key, b"")
    read = []
    scandir = state.os.scandir
    monkeypatch.setattr(state.os, "scandir", lambda path: read.append(Path(path).name) or scandir(path))
    assert store.keys("records/dev/") == ["records/dev/a.json"]
    assert read == ["dev"]


def test_a_folder_that_is_none_is_told(tmp_path):
    (tmp_path / "state").write_text("a file")
    store = FolderStore(tmp_path / "state")
    with pytest.raises(StateError, match="cannot read"):
        store.get("records/a.json")
    with pytest.raises(StateError, match="cannot write"):
        store.put("records/a.json", b"1")
    with pytest.raises(StateError, match="cannot list"):
        store.keys("")


def test_a_file_system_that_refuses_is_told_and_nothing_stays_beside(tmp_path, monkeypatch):
    store = FolderStore(tmp_path)
    (tmp_path / "records/a.json").mkdir(parents=True)
    with pytest.raises(StateError, match="cannot write"):
        store.put("records/a.json", b"1")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state.os, "fsync", refuse)
    with pytest.raises(StateError, match="No space left"):
        store.create("records/b.json", b"1")
    monkeypatch.setattr(state.fcntl, "flock", refuse)
    with pytest.raises(StateError, match="No space left"):
        store.replace("records/b.json", b"1", "version")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "a.json", "records"]


def test_a_missing_bucket_is_told_and_not_taken_for_a_missing_key(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        store = S3Store(boto3.client("s3", region_name="us-east-1"), "none", "prefix")
        for call in (
            lambda: store.get("a"),
            lambda: store.create("a", b""),
            lambda: store.replace("a", b"", '"etag"'),
            lambda: store.put("a", b""),
            lambda: store.keys("a"),
        ):
            with pytest.raises(CloudError, match="NoSuchBucket"):
                call()


@pytest.fixture
def scripted(monkeypatch):
    """An S3 store whose ``put_object`` answers what it is told: status codes in their order."""
    monkeypatch.setattr(state, "_AGAIN_AFTER", (0.0, 0.0))
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y")
    codes = {404: "NoSuchKey", 409: "ConditionalRequestConflict", 412: "PreconditionFailed"}

    def answering(*statuses: int, **condition: str) -> S3Store:
        wanted = {"Bucket": "state", "Key": "a", "Body": ANY, **condition}
        for status in statuses:
            if status == 200:
                stubber.add_response("put_object", {"ETag": '"new"'}, wanted)
            else:
                stubber.add_client_error("put_object", codes[status], "", status, expected_params=wanted)
        return S3Store(client, "state", "")

    with Stubber(client) as stubber:
        yield answering
        stubber.assert_no_pending_responses()


@pytest.mark.parametrize(
    ("statuses", "stored"),
    [
        ((200,), True),
        ((412,), False),
        ((404,), False),
        ((409, 200), True),
        ((409, 409, 412), False),
        ((409, 404), False),
    ],
)
def test_a_conflict_on_s3_is_sent_again_and_the_condition_decides(scripted, statuses, stored):
    assert scripted(*statuses, IfMatch='"old"').replace("a", b"", '"old"') is stored
    assert scripted(*statuses, IfNoneMatch="*").create("a", b"") is stored


def test_a_conflict_on_s3_that_does_not_end_is_told(scripted):
    with pytest.raises(CloudError, match="ConditionalRequestConflict"):
        scripted(409, 409, 409, IfMatch='"old"').replace("a", b"", '"old"')


@pytest.mark.parametrize(("state", "kind"), [(".splitbake/state", FolderStore), ("s3://bucket/prefix", S3Store)])
def test_the_manifest_says_which(state, kind):
    manifest = Manifest.model_construct(state=state)
    cloud = Cloud("dev", Environment(account="123456789012", region="us-east-1"))
    assert isinstance(open_store(manifest, Path("project"), cloud), kind)
