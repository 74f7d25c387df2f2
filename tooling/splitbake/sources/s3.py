"""Model files in S3; the build machine gets them by presigned URLs, so it needs no rights of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import CloudError, SourceError
from splitbake.lock import LockedFile
from splitbake.manifest import ModelFile
from splitbake.sources import Found, Readable, Stream

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

#: Seconds that a presigned URL is valid: a bake of several GB on a slow builder fits in. Temporary credentials
#: that end earlier end the URL with them.
URL_SECONDS = 12 * 3600

#: What S3 and its look-alikes answer where there is no such object (HEAD has no body, hence the bare number).
_MISSING = {"404", "NoSuchKey", "NoSuchBucket"}
_FORBIDDEN = {"403", "AccessDenied"}
_CHANGED = {"412", "PreconditionFailed"}


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
        """See Source."""
        return self._list(entry) if entry.is_folder else [self._head(entry)]

    @contextmanager
    def open(self, file: Readable) -> Iterator[Stream]:
        """See Source. ``If-Match`` makes S3 itself refuse an object that was replaced meanwhile."""
        bucket, key = _split(file.source)
        condition: dict[str, Any] = {"IfMatch": f'"{file.etag}"'} if file.etag else {}
        with _told(file.source):
            body = self._client(bucket).get_object(Bucket=bucket, Key=key, **condition)["Body"]
        try:
            with aws_errors(f"read {file.source}"):
                yield body
        finally:
            body.close()

    def url(self, file: LockedFile) -> str:
        """See Source."""
        bucket, key = _split(file.source)
        with aws_errors(f"presign {file.source}"):
            return self._client(bucket).generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=URL_SECONDS
            )

    def _head(self, entry: ModelFile) -> Found:
        bucket, key = _split(entry.source)
        with _told(entry.source):
            answer = self._client(bucket).head_object(Bucket=bucket, Key=key)
        return Found(entry.path, entry.source, answer["ContentLength"], _tag(answer["ETag"]))

    def _list(self, entry: ModelFile) -> list[Found]:
        bucket, prefix = _split(entry.source)
        with _told(entry.source):
            pages = self._client(bucket).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            items = [item for page in pages for item in page.get("Contents", [])]
        # A key that ends in / is how the S3 console writes an empty folder.
        files = [item for item in items if not item["Key"].endswith("/")]
        if not files:
            raise SourceError(f"no object lies below {entry.source}", hint=_CORRECT)
        return [
            Found(
                path=entry.path + item["Key"].removeprefix(prefix),
                source=f"s3://{bucket}/{item['Key']}",
                size=item["Size"],
                etag=_tag(item["ETag"]),
            )
            for item in files
        ]

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


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Turn S3's answers about ``uri`` into what they mean for its owner."""
    try:
        with aws_errors(f"read {uri}"):
            yield
    except CloudError as problem:
        code = error_code(problem)
        if code in _MISSING:
            raise SourceError(f"{uri} does not exist", hint=_CORRECT) from problem
        if code in _FORBIDDEN:
            raise SourceError(
                f"{uri} may not be read with these credentials, or does not exist",
                hint="s3:GetObject is needed, and s3:ListBucket to tell a missing object from a forbidden one",
            ) from problem
        if code in _CHANGED:
            raise SourceError(
                f"{uri} was replaced since its entity tag was read", hint="run splitbake lock"
            ) from problem
        raise


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _tag(etag: str) -> str:
    return etag.strip('"')
