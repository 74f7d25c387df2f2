"""Model files in S3; the build machine gets them by presigned URLs, so it needs no rights of its own."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import CloudError, SourceError
from splitbake.lock import LockedFile
from splitbake.manifest import ModelFile
from splitbake.sources import Found, Readable, Stream, side_by_side

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

#: Seconds that a presigned URL is valid: a bake of several GB on a slow builder fits in. Temporary credentials
#: that end earlier end the URL with them.
URL_SECONDS = 12 * 3600

#: What S3 and its look-alikes answer where there is no such object (HEAD has no body, hence the bare number).
_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NoSuchVersion"}
_FORBIDDEN = {"403", "AccessDenied"}
_CHANGED = {"412", "PreconditionFailed"}
#: Storage classes that give nothing before somebody restores the object.
_ARCHIVED = {"GLACIER", "DEEP_ARCHIVE"}
#: Objects that are looked at at once: as many connections as boto3 keeps.
_AT_ONCE = 10


class S3Source:
    """An object, or every object below a prefix."""

    def __init__(self, cloud: Cloud, root: Path) -> None:
        self._cloud = cloud
        self._clients: dict[str, S3Client] = {}
        self._making = threading.Lock()

    @staticmethod
    def check(uri: str) -> None:
        """See Source."""
        bucket, key = _split(uri)
        if not bucket or not key or key.startswith("/"):
            raise ValueError("expected s3://bucket/key, for example s3://my-models/models/yolo.onnx")

    def find(self, entry: ModelFile) -> list[Found]:
        """See Source. Each object is asked for its version and checksum, which no listing tells to mere readers."""
        if not entry.is_folder:
            return [self._look(entry.path, entry.source)]
        names = self._below(entry.source)
        return side_by_side(lambda name: self._look(entry.path + name, entry.source + name), names, threads=_AT_ONCE)

    @contextmanager
    def open(self, file: Readable) -> Iterator[Stream]:
        """See Source. ``If-Match`` makes S3 itself refuse an object that was replaced meanwhile."""
        bucket, _ = _split(file.source)
        condition: dict[str, Any] = {"IfMatch": f'"{file.etag}"'} if file.etag else {}
        with _told(file):
            body = self._client(bucket).get_object(**_object(file), **condition)["Body"]
        try:
            with aws_errors(f"read {file.source}"):
                yield body
        finally:
            body.close()

    def url(self, file: LockedFile) -> str:
        """See Source."""
        bucket, _ = _split(file.source)
        with aws_errors(f"presign {file.source}"):
            return self._client(bucket).generate_presigned_url(
                "get_object", Params=_object(file), ExpiresIn=URL_SECONDS
            )

    def _look(self, path: str, uri: str) -> Found:
        bucket, key = _split(uri)
        found = Found(path, uri, size=None)
        with _told(found):
            answer: Any = self._client(bucket).head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        # An object that S3 tiers by itself has a status instead, until it is restored.
        archived = answer.get("ArchiveStatus") or (answer.get("StorageClass") in _ARCHIVED and answer["StorageClass"])
        if archived and 'ongoing-request="false"' not in answer.get("Restore", ""):
            raise SourceError(f"{uri} is archived ({archived})", hint="restore the object first")
        etag = answer["ETag"].strip('"')
        sha256, checksum = _checksums(answer, etag)
        version = answer.get("VersionId")
        return Found(
            path,
            uri,
            size=answer["ContentLength"],
            etag=etag,
            version=None if version == "null" else version,  # it can be overwritten while versioning is suspended
            checksum=checksum,
            sha256=sha256,
        )

    def _below(self, uri: str) -> list[str]:
        """Return the keys below the prefix ``uri``, without that prefix."""
        bucket, prefix = _split(uri)
        with _told(Found("", uri, size=None)):
            pages = self._client(bucket).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        # A key that ends in / is how the S3 console writes an empty folder.
        names = [key.removeprefix(prefix) for key in keys if not key.endswith("/")]
        if not names:
            raise SourceError(f"no object lies below {uri}", hint=_CORRECT)
        return names

    def _client(self, bucket: str) -> S3Client:
        """Return the client for ``bucket``, in the bucket's own region: a presigned URL follows no redirect."""
        with self._making:
            if bucket not in self._clients:
                self._clients[bucket] = self._cloud.client("s3", region=self._region(bucket))
            return self._clients[bucket]

    def _region(self, bucket: str) -> str:
        """Return where ``bucket`` is; S3 says so in a header even to those whom it refuses."""
        try:
            with aws_errors(f"find bucket {bucket}"):
                answer: Any = self._cloud.client("s3").head_bucket(Bucket=bucket)
        except CloudError as problem:
            answer = getattr(problem.__cause__, "response", None)
            if answer is None:
                raise
            if error_code(problem) in _MISSING:
                raise SourceError(f"there is no bucket {bucket}", hint=_CORRECT) from problem
        headers = answer["ResponseMetadata"].get("HTTPHeaders", {})
        return str(headers.get("x-amz-bucket-region") or self._cloud.environment.region)


_CORRECT = "correct from in models.files, or upload it"


def _checksums(answer: dict[str, Any], etag: str) -> tuple[str | None, str | None]:
    """Return the SHA-256 of the whole object, and what else S3 keeps as its SHA-256; mostly it has neither.

    S3 has checked it against the bytes when they came. Of a multipart upload it keeps a digest of the parts' digests
    (type COMPOSITE), which is not that of the file, but equal only for equal content. Where no type is told, the part
    count gives such an upload away, which S3 puts behind its ETag and checksum.
    """
    value = answer.get("ChecksumSHA256")
    if not value:
        return None, None
    kind = answer.get("ChecksumType") or ("COMPOSITE" if "-" in etag or "-" in value else "FULL_OBJECT")
    if kind == "FULL_OBJECT":
        return base64.b64decode(value).hex(), None
    return None, f"{kind} SHA256 {value}"


@contextmanager
def _told(file: Readable) -> Iterator[None]:
    """Turn S3's answers about ``file`` into what they mean for its owner."""
    try:
        with aws_errors(f"read {file.source}"):
            yield
    except CloudError as problem:
        code = error_code(problem)
        if code in _MISSING and file.version:
            raise SourceError(
                f"{file.source} has no version {file.version} any more",
                hint="run splitbake lock; a lifecycle rule that removes old versions must wait longer than your AMIs",
            ) from problem
        if code in _MISSING:
            raise SourceError(f"{file.source} does not exist", hint=_CORRECT) from problem
        if code in _FORBIDDEN:
            raise SourceError(
                f"{file.source} may not be read with these credentials, or does not exist",
                hint="s3:GetObject is needed, s3:GetObjectVersion where the bucket keeps versions, and s3:ListBucket "
                "to tell a missing object from a forbidden one",
            ) from problem
        if code in _CHANGED:
            raise SourceError(
                f"{file.source} was replaced since its entity tag was read", hint="run splitbake lock"
            ) from problem
        raise


def _object(file: Readable) -> Any:  # the stubs want one TypedDict for each operation
    bucket, key = _split(file.source)
    return {"Bucket": bucket, "Key": key, **({"VersionId": file.version} if file.version else {})}


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
