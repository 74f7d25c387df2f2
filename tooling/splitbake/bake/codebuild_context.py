"""What CodeBuild builds from: one zip that is the same bytes for the same files, and its place in S3."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from splitbake import units
from splitbake.bake.builders import DOCKERFILE
from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import BuildError, CloudError, ToolError
from splitbake.ui import Say

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

#: In the zip: the folder of the build context, and beside it the CA bundle.
CONTEXT: Final = "context"
CA: Final = "ca.pem"
#: Below this lie the zips, each named by its content.
PREFIX: Final = "splitbake/contexts/"
#: The most bytes that a context may have: a dependencies image is made from lists, so this is a bound of our own; S3
#: takes 5 GB in one piece.
LIMIT: Final = 256 * 1024**2

_EARLIEST = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_LEVEL = 9
#: Bits of a DOS attribute: a folder.
_FOLDER = 0x10


@dataclass(frozen=True)
class Packed:
    """A context, packed.

    Attributes:
        content: the zip.
        files: how many files are in it.
        size: their bytes.
    """

    content: bytes = field(repr=False)
    files: int
    size: int

    @property
    def key(self) -> str:
        """Its key in the bucket, made from its content.

        Another version of zlib may deflate the same files to other bytes: that costs one more upload.
        """
        return f"{PREFIX}{hashlib.sha256(self.content).hexdigest()}.zip"


def pack(context: Path, ca: str | None) -> Packed:
    """Pack all that lies below ``context``, and the CA bundle ``ca`` where there is one.

    Order, times, owners and modes are fixed, so that the same files are the same bytes on any machine.

    Raises:
        BuildError: there is no Dockerfile, too much, or something that is neither a file nor a folder.
    """
    if not (context / DOCKERFILE).is_file():
        raise BuildError(f"{context} has no {DOCKERFILE}", hint="this is a bug of splitbake; please report it")
    found = sorted(_below(context, ""))
    size = sum((context / name).lstat().st_size for name in found if not name.endswith("/"))
    size += len(ca.encode()) if ca else 0
    if size > LIMIT:
        raise BuildError(
            f"what the image is built from has {units.format_size(size)}, over {units.format_size(LIMIT)}",
            hint="keep large files out of it: wheels belong on an index, models into the AMI",
        )
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        if ca:
            archive.writestr(_entry(CA, 0o644), ca, zipfile.ZIP_DEFLATED, _LEVEL)
        for name in found:
            _add(archive, context / name, f"{CONTEXT}/{name}")
    files = sum(not name.endswith("/") for name in found) + bool(ca)
    return Packed(memory.getvalue(), files, size)


def _below(folder: Path, prefix: str) -> Iterator[str]:
    """Yield the paths below ``folder``, folders with a trailing ``/``, so that empty ones travel as well."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            try:
                name.encode()
            except UnicodeEncodeError:
                raise BuildError(f"the name {name!r} is no UTF-8, which a zip cannot carry", hint="rename it") from None
            if entry.is_dir(follow_symlinks=False):
                yield f"{name}/"
                yield from _below(Path(entry.path), f"{name}/")
            elif entry.is_file(follow_symlinks=False):
                yield name
            else:
                raise BuildError(f"{entry.path} is neither a file nor a folder", hint="only those travel")


def _add(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    if name.endswith("/"):
        archive.writestr(_entry(name, 0o755), b"")
        return
    mode = 0o755 if path.lstat().st_mode & stat.S_IXUSR else 0o644
    archive.writestr(_entry(name, mode), path.read_bytes(), zipfile.ZIP_DEFLATED, _LEVEL)


def _entry(name: str, mode: int) -> zipfile.ZipInfo:
    """Return the head of an entry, the same at any time and on any system."""
    entry = zipfile.ZipInfo(name, _EARLIEST)
    entry.create_system = _UNIX
    kind = stat.S_IFDIR if name.endswith("/") else stat.S_IFREG
    entry.external_attr = (kind | mode) << 16 | (_FOLDER if kind == stat.S_IFDIR else 0)
    return entry


def require_bucket(cloud: Cloud, bucket: str) -> None:
    """Check that ``bucket`` can be read, and is of the account and in the region where CodeBuild builds.

    Raises:
        ToolError: it is elsewhere, or refuses us.
        CloudError: S3 cannot be asked.
    """
    account, region = cloud.environment.account, cloud.environment.region
    try:
        with aws_errors(f"list {PREFIX} in bucket {bucket}"):
            answer = _s3(cloud).list_objects_v2(Bucket=bucket, Prefix=PREFIX, MaxKeys=1, ExpectedBucketOwner=account)
    except CloudError as problem:
        if error_code(problem) == "NoSuchBucket":
            hint = "create it, or name another one as image.codebuild.bucket"
            raise ToolError(f"there is no bucket {bucket}", hint=hint) from problem
        if error_code(problem) in {"AccessDenied", "403"}:
            raise ToolError(
                f"bucket {bucket} refuses these credentials, or is not of account {account}",
                hint=f"splitbake iam prints what the role needs; a bucket of account {account} can be named as "
                "image.codebuild.bucket",
            ) from problem
        raise
    there = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region") or region
    if there != region:
        raise ToolError(
            f"bucket {bucket} is in {there}, and CodeBuild in {region} reads from its own region only",
            hint=f"name a bucket of {region} as image.codebuild.bucket",
        )


def upload(cloud: Cloud, bucket: str, packed: Packed, say: Say) -> str:
    """Put the zip into the bucket unless it is there; return its place, ``bucket/key``, as CodeBuild takes it.

    Raises:
        CloudError: S3 refused it, or is not reachable.
    """
    what = f"{units.counted(packed.files, 'file')}, {units.format_size(packed.size)}"
    zipped = units.format_size(len(packed.content))
    place = f"{bucket}/{packed.key}"
    if _size(cloud, bucket, packed.key) == len(packed.content):
        say(f"{what} to build from are in S3 already ({zipped} as a zip)")
        return place
    say(f"uploading {what} to build from ({zipped} as a zip)")
    with aws_errors(f"write s3://{place}"):
        _s3(cloud).put_object(
            Bucket=bucket,
            Key=packed.key,
            Body=packed.content,
            ContentType="application/zip",
            ExpectedBucketOwner=cloud.environment.account,
        )
    return place


def _size(cloud: Cloud, bucket: str, key: str) -> int | None:
    try:
        with aws_errors(f"look for s3://{bucket}/{key}"):
            account = cloud.environment.account
            return _s3(cloud).head_object(Bucket=bucket, Key=key, ExpectedBucketOwner=account)["ContentLength"]
    except CloudError as problem:
        if error_code(problem) == "404":
            return None
        raise


def _s3(cloud: Cloud) -> S3Client:
    client: S3Client = cloud.client("s3")
    return client
