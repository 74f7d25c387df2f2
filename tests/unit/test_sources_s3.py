"""Model files in S3, against moto in this process."""

from __future__ import annotations

import base64
import hashlib
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


def locked(found: Found) -> LockedFile:
    return LockedFile(
        path="b", source=found.source, size=found.size, sha256="0" * 64, etag=found.etag, version=found.version
    )


def read(source: S3Source, file: Found | LockedFile) -> bytes:
    with source.open(file) as stream:
        return stream.read(100)


@pytest.fixture
def versions(s3):
    """The bucket keeps versions from now on."""
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    return s3


def test_a_version_is_read_whatever_came_after_it(source, versions):
    version = versions.put_object(Bucket=BUCKET, Key="llava/b", Body=b"new")["VersionId"]
    (found,) = source.find(entry("b", "s3://models/llava/b"))
    assert (found.version, found.size) == (version, 3)
    versions.put_object(Bucket=BUCKET, Key="llava/b", Body=b"newer")
    assert read(source, found) == b"new"
    assert read(source, locked(found)) == b"new"
    versions.delete_object(Bucket=BUCKET, Key="llava/b")
    assert read(source, found) == b"new"
    assert parse_qs(urlsplit(source.url(locked(found))).query)["versionId"] == [version]
    versions.delete_object(Bucket=BUCKET, Key="llava/b", VersionId=version)
    with pytest.raises(SourceError, match=f"no version {version} any more") as caught:
        read(source, found)
    assert "lifecycle" in caught.value.hint


def test_a_prefix_gives_the_newest_version_of_each_object(source, versions):
    newest = [versions.put_object(Bucket=BUCKET, Key="llava/b", Body=b"x" * n)["VersionId"] for n in (1, 2)][-1]
    versions.delete_object(Bucket=BUCKET, Key="llava/deep/a")
    assert [(file.path, file.version) for file in source.find(entry("x/", "s3://models/llava/"))] == [("x/b", newest)]


def test_what_was_there_before_versions_were_kept_goes_by_its_entity_tag(source, versions):
    (found,) = source.find(entry("b", "s3://models/llava/b"))
    assert (found.version, found.etag) == (None, "21ad0bd836b90d08f4cf640b4c298e7c")
    assert "versionId" not in source.url(locked(found))


def test_the_sha256_that_s3_computed_is_taken(source, s3):
    s3.put_object(Bucket=BUCKET, Key="llava/b", Body=b"bbb", ChecksumAlgorithm="SHA256")
    for found in (*source.find(entry("b", "s3://models/llava/b")), source.find(entry("x/", "s3://models/llava/"))[0]):
        assert (found.sha256, found.checksum) == (hashlib.sha256(b"bbb").hexdigest(), None)


@pytest.mark.parametrize(
    "options", [{}, {"ChecksumAlgorithm": "CRC32"}, {"Metadata": {"sha256": "0" * 64, "checksumsha256": "0" * 64}}]
)
def test_other_checksums_and_what_the_uploader_says_are_not_a_sha256(source, s3, options):
    s3.put_object(Bucket=BUCKET, Key="llava/b", Body=b"bbb", **options)
    (found,) = source.find(entry("b", "s3://models/llava/b"))
    assert (found.sha256, found.checksum) == (None, None)


def upload_in_parts(s3, *parts: bytes) -> None:
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="llava/b", ChecksumAlgorithm="SHA256")["UploadId"]
    done = []
    for number, part in enumerate(parts, start=1):
        one = {"Bucket": BUCKET, "Key": "llava/b", "UploadId": upload, "PartNumber": number}
        answer = s3.upload_part(**one, Body=part, ChecksumAlgorithm="SHA256")
        done.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": answer["ChecksumSHA256"]})
    s3.complete_multipart_upload(Bucket=BUCKET, Key="llava/b", UploadId=upload, MultipartUpload={"Parts": done})


@pytest.mark.parametrize("parts", [(b"a" * (5 << 20), b"b"), (b"ab",)])
def test_the_checksum_of_parts_is_no_sha256_of_the_file_and_yet_a_sign(source, s3, parts):
    upload_in_parts(s3, *parts)
    (found,) = source.find(entry("b", "s3://models/llava/b"))
    assert found.sha256 is None
    of_parts = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()
    assert found.checksum is not None
    assert found.checksum.startswith(f"COMPOSITE SHA256 {base64.b64encode(of_parts).decode()}")


FULL, PARTS = "A" * 43 + "=", "A" * 43 + "=-2"


@pytest.mark.parametrize(
    ("value", "kind", "etag"),
    [(FULL, "FULL_OBJECT", "0" * 32), (FULL, None, "0" * 32)],
)
def test_a_sha256_of_the_whole_object_is_one(source, value, kind, etag):
    assert told(source, value, kind, etag) == ("0" * 64, None)


@pytest.mark.parametrize(
    ("value", "kind", "etag"),
    [
        (PARTS, "COMPOSITE", f"{'0' * 32}-2"),
        (FULL, "COMPOSITE", "0" * 32),
        (PARTS, None, "0" * 32),
        (FULL, None, f"{'0' * 32}-2"),
        (FULL, "OF_TOMORROW", "0" * 32),
    ],
)
def test_any_other_is_only_a_sign(source, value, kind, etag):
    assert told(source, value, kind, etag) == (None, f"{kind or 'COMPOSITE'} SHA256 {value}")


def told(source: S3Source, value: str, kind: str | None, etag: str) -> tuple[str | None, str | None]:
    """What is made of such an answer of S3; moto tells no type of whole objects."""

    def say(parsed, **_):
        parsed |= {"ChecksumSHA256": value, "ETag": f'"{etag}"'} | ({"ChecksumType": kind} if kind else {})

    source._client(BUCKET).meta.events.register("after-call.s3.HeadObject", say)
    (found,) = source.find(entry("b", "s3://models/llava/b"))
    return found.sha256, found.checksum


def test_an_archived_object_is_told(source, s3):
    s3.put_object(Bucket=BUCKET, Key="llava/b", Body=b"b", StorageClass="DEEP_ARCHIVE")
    with pytest.raises(SourceError, match="is archived") as caught:
        source.find(entry("b", "s3://models/llava/b"))
    assert "restore" in caught.value.hint


@pytest.mark.parametrize("status", ["ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS"])
def test_an_object_that_tiering_has_archived_is_told(source, status):
    def say(parsed, **_):
        parsed |= {"StorageClass": "INTELLIGENT_TIERING", "ArchiveStatus": status}

    source._client(BUCKET).meta.events.register("after-call.s3.HeadObject", say)
    with pytest.raises(SourceError, match=f"llava/b is archived \\({status}\\)"):
        source.find(entry("b", "s3://models/llava/b"))


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
