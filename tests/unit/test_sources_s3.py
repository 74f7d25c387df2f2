"""Model files in S3, against moto in this process."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from moto import mock_aws

from splitbake.cloud import Cloud
from splitbake.errors import CloudError, SourceError
from splitbake.lock import LockedFile
from splitbake.manifest import Environment, ModelFile
from splitbake.sources import Found
from splitbake.sources.s3 import URL_SECONDS, S3Source

BUCKET, REGION = "models", "eu-west-1"


@pytest.fixture
def s3(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3", region_name=REGION)
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        for key, body in {"llava/b": b"bb", "llava/deep/a": b"a", "llava/": b"", "llavalike": b"x"}.items():
            client.put_object(Bucket=BUCKET, Key=key, Body=body)
        yield client


@pytest.fixture
def source(s3, tmp_path) -> S3Source:
    return S3Source(Cloud("dev", Environment(account="123456789012", region="us-east-1")), tmp_path)


def entry(path: str, uri: str) -> ModelFile:
    return ModelFile.model_validate({"path": path, "from": uri})


def test_an_object_is_found_and_read(source):
    (found,) = source.find(entry("b", "s3://models/llava/b"))
    assert found == Found("b", "s3://models/llava/b", 2, "21ad0bd836b90d08f4cf640b4c298e7c")
    with source.open(found) as stream:
        assert stream.read(100) == b"bb"
        assert stream.read(100) == b""


def test_a_prefix_gives_every_object_below_it_but_no_folder_marker(source):
    found = source.find(entry("checkpoints/x/", "s3://models/llava/"))
    assert [(file.path, file.source, file.size) for file in found] == [
        ("checkpoints/x/b", "s3://models/llava/b", 2),
        ("checkpoints/x/deep/a", "s3://models/llava/deep/a", 1),
    ]


def test_a_prefix_of_many_pages_is_listed_whole(source, s3, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    for number in range(10):
        s3.put_object(Bucket=BUCKET, Key=f"many/{number}", Body=b"")
    assert len(s3.list_objects_v2(Bucket=BUCKET, Prefix="many/")["Contents"]) == 3
    assert len(source.find(entry("many/", "s3://models/many/"))) == 10


@pytest.mark.parametrize(
    ("path", "uri", "expected"),
    [
        ("x", "s3://models/none", "s3://models/none does not exist"),
        ("x", "s3://models/llava", "s3://models/llava does not exist"),
        ("x/", "s3://models/none/", "no object lies below s3://models/none/"),
        ("x", "s3://no-such-bucket/x", "there is no bucket no-such-bucket"),
    ],
)
def test_what_is_not_there_is_told(source, path, uri, expected):
    with pytest.raises(SourceError) as caught:
        source.find(entry(path, uri))
    assert caught.value.message == expected
    assert "models.files" in caught.value.hint


def test_an_object_that_was_replaced_meanwhile_is_told(source, s3):
    (found,) = source.find(entry("b", "s3://models/llava/b"))
    s3.put_object(Bucket=BUCKET, Key="llava/b", Body=b"other")
    with pytest.raises(SourceError, match="was replaced"), source.open(found):
        pass
    s3.delete_object(Bucket=BUCKET, Key="llava/b")
    with pytest.raises(SourceError, match="does not exist"), source.open(found):
        pass


def test_the_presigned_url_is_for_the_buckets_region_and_valid_for_hours(source):
    file = LockedFile(path="b", source="s3://models/llava/b", size=2, sha256="0" * 64)
    url = urlsplit(source.url(file))
    query = parse_qs(url.query)
    assert url.scheme == "https"
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Expires"] == [str(URL_SECONDS)]
    assert f"/{REGION}/s3/" in query["X-Amz-Credential"][0]


def test_an_unreachable_endpoint_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    offline = S3Source(Cloud("dev", Environment(account="123456789012", region=REGION)), tmp_path)
    with pytest.raises(CloudError, match="could not find bucket models") as caught:
        offline.find(entry("b", "s3://models/llava/b"))
    assert "AWS_ENDPOINT_URL" in caught.value.hint or "endpoint" in caught.value.hint


@pytest.mark.parametrize("uri", ["s3://", "s3://bucket", "s3://bucket/", "s3:///key", "s3://bucket//key"])
def test_addresses_without_bucket_or_key_are_refused_as_text(uri):
    with pytest.raises(ValueError, match="expected s3://bucket/key"):
        S3Source.check(uri)
