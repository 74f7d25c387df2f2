"""The state on S3, over the wire: conditional writes and the lease let one of many through at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from splitbake.errors import HeldError
from splitbake.lease import held, last
from splitbake.state import S3Store
from splitbake.ui import silent

pytestmark = pytest.mark.engine


@pytest.fixture
def bucket(aws):
    name, s3 = f"state-{uuid.uuid4().hex[:8]}", aws("s3")
    s3.create_bucket(Bucket=name)
    yield name
    for one in s3.list_objects_v2(Bucket=name).get("Contents", []):
        s3.delete_object(Bucket=name, Key=one["Key"])
    s3.delete_bucket(Bucket=name)


@pytest.fixture
def store(aws, bucket) -> S3Store:
    return S3Store(aws("s3"), bucket, "team/analysis")


def test_what_is_written_is_read_and_listed(store, aws, bucket):
    for key in ("records/prod/b.json", "records/prod/a.json", "records/dev/a.json"):
        assert store.create(key, b"{}")
    assert store.keys("records/prod/") == ["records/prod/a.json", "records/prod/b.json"]
    assert store.get("records/prod/c.json") is None
    listed = aws("s3").list_objects_v2(Bucket=bucket, MaxKeys=1)["Contents"]
    assert [one["Key"] for one in listed] == ["team/analysis/records/dev/a.json"]


def test_of_many_that_replace_one_version_one_wins(store):
    store.create("a.json", b"0")
    version = store.get("a.json").version
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.replace("a.json", b"%d" % number, version), range(1, 33)))
    assert won.count(True) == 1
    assert store.get("a.json").value == b"%d" % (won.index(True) + 1)
    assert store.replace("gone.json", b"", version) is False


def test_increments_of_many_all_survive(store):
    store.create("count.json", b"0")

    def add(_number: int) -> None:
        while True:
            there = store.get("count.json")
            if store.replace("count.json", b"%d" % (int(there.value) + 1), there.version):
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(48)))
    assert store.get("count.json").value == b"48"


def test_eight_that_contend_for_a_lease_are_never_inside_together(store):
    store.create("count.json", b"0")
    inside = threading.Lock()

    def work(number: int) -> None:
        with held(store, "count", who=f"worker {number}", doing="count", wait=silent, poll=0.01) as lease:
            assert inside.acquire(blocking=False), "two are inside"
            lease.require()
            store.put("count.json", b"%d" % (int(store.get("count.json").value) + 1))
            inside.release()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(50)))
    assert store.get("count.json").value == b"50"
    assert last(store, "count").released


HOLD = """
import sys, time
import boto3
from splitbake import lease
from splitbake.lease import held
from splitbake.state import S3Store
store = S3Store(boto3.client("s3"), sys.argv[1], "team/analysis")
if sys.argv[2] == "elsewhere":
    lease.process_id = lambda: "another-boot pid:[1] 1 1"
with held(store, "release/prod", who="ann", doing="release", life=3):
    print("inside", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("where", "waits"), [("here", 0), ("elsewhere", 1)])
def test_a_holder_keeps_its_lease_while_it_lives_and_no_longer(store, bucket, where, waits):
    """That a process is dead can be seen on its own machine; from another one it has to be waited for."""
    with subprocess.Popen([sys.executable, "-c", HOLD, bucket, where], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"inside\n"
        first = last(store, "release/prod")
        time.sleep(4)  # longer than its life
        assert last(store, "release/prod").expires > first.expires
        with pytest.raises(HeldError, match="is held by ann"), held(store, "release/prod", who="bob", doing="release"):
            pass
        process.kill()
    lines: list[str] = []
    with held(store, "release/prod", who="bob", doing="release", wait=lines.append, poll=0.1) as lease:
        lease.require()
    assert len(lines) == waits
