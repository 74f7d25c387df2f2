"""ECR and S3 in the local cloud: the registry is real, conditional writes have one winner."""

from __future__ import annotations

import urllib.error
import urllib.request
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from splitbake.local.engine import connect
from splitbake.local.registry import Registry

pytestmark = pytest.mark.engine


@pytest.fixture
def ecr(aws):
    return aws("ecr")


@pytest.fixture
def pushed(cloud, ecr):
    """A repository with one image that Docker really pushed; returns its name and the digest Docker saw."""
    uri = ecr.create_repository(repositoryName="team/app")["repository"]["repositoryUri"]
    assert uri == f"{cloud.registry}/team/app"
    client = connect()
    client.images.get(cloud.python_image).tag(uri, "v1")
    user, _, password = b64decode(
        ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    ).decode().partition(":")  # fmt: skip
    lines = list(
        client.images.push(
            uri, tag="v1", auth_config={"username": user, "password": password}, stream=True, decode=True
        )
    )
    digest = next(line["aux"]["Digest"] for line in lines if "aux" in line)
    yield "team/app", digest
    client.images.remove(f"{uri}:v1")
    ecr.delete_repository(repositoryName="team/app", force=True)


def test_images_are_what_was_pushed(ecr, pushed):
    name, digest = pushed
    found = ecr.describe_images(repositoryName=name)["imageDetails"][0]
    assert (found["imageDigest"], found["imageTags"]) == (digest, ["v1"])
    assert found["imageSizeInBytes"] > 20e6
    assert ecr.list_images(repositoryName=name)["imageIds"] == [{"imageDigest": digest, "imageTag": "v1"}]
    by_digest = ecr.batch_get_image(repositoryName=name, imageIds=[{"imageDigest": digest}])["images"][0]
    assert digest.removeprefix("sha256:") in by_digest["imageId"]["imageDigest"]
    assert '"layers"' in by_digest["imageManifest"]


def test_a_tag_that_was_never_pushed_is_not_found(ecr, pushed):
    with pytest.raises(ClientError, match="ImageNotFoundException"):
        ecr.describe_images(repositoryName=pushed[0], imageIds=[{"imageTag": "v2"}])
    answer = ecr.batch_get_image(repositoryName=pushed[0], imageIds=[{"imageTag": "v2"}])
    assert answer["failures"][0]["failureCode"] == "ImageNotFound"


def test_a_deleted_image_leaves_the_registry_and_can_be_pushed_again(cloud, ecr, pushed):
    name, digest = pushed
    assert ecr.batch_delete_image(repositoryName=name, imageIds=[{"imageDigest": digest}])["imageIds"]
    assert ecr.describe_images(repositoryName=name)["imageDetails"] == []
    Registry(cloud.registry, cloud.registry_password).push(connect(), cloud.python_image, name, "v2")
    (found,) = ecr.describe_images(repositoryName=name)["imageDetails"]
    assert (found["imageDigest"], found["imageTags"]) == (digest, ["v2"])
    assert ecr.batch_delete_image(repositoryName=name, imageIds=[{"imageTag": "v2"}])["imageIds"]
    Registry(cloud.registry, cloud.registry_password).push(connect(), cloud.python_image, name, "v2")
    assert ecr.list_images(repositoryName=name)["imageIds"] == [{"imageDigest": digest, "imageTag": "v2"}]


def test_the_registry_wants_the_password_of_ecr(cloud):
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as refusal:
        direct.open(f"http://{cloud.registry}/v2/")
    assert refusal.value.code == 401
    refusal.value.close()


def test_the_pull_through_repository_has_the_python_base(ecr):
    found = ecr.describe_images(
        repositoryName="docker-hub/library/python", imageIds=[{"imageTag": "3.11-slim"}]
    )["imageDetails"]  # fmt: skip
    assert found[0]["imageDigest"].startswith("sha256:")


def test_the_python_base_runs_pip_and_makes_virtual_environments(cloud):
    script = "python --version && python -m pip --version && python -m venv /tmp/v && /tmp/v/bin/pip --version"
    output = connect().containers.run(cloud.python_image, ["sh", "-c", script], remove=True).decode()
    assert output.startswith("Python 3.11.")
    assert output.count("(python 3.11)") == 2


@pytest.fixture
def bucket(aws):
    aws("s3").create_bucket(Bucket="storage")
    yield "storage"
    for one in aws("s3").list_objects_v2(Bucket="storage").get("Contents", []):
        aws("s3").delete_object(Bucket="storage", Key=one["Key"])
    aws("s3").delete_bucket(Bucket="storage")


def test_a_conditional_write_has_one_winner(aws, bucket):
    s3 = aws("s3")

    def write(number):
        try:
            s3.put_object(Bucket=bucket, Key="lock", Body=b"%d" % number, IfNoneMatch="*")
        except ClientError as problem:
            return problem.response["Error"]["Code"]
        return "won"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(write, range(16)))
    assert outcomes.count("won") == 1
    assert set(outcomes) == {"won", "PreconditionFailed"}
    tag = s3.head_object(Bucket=bucket, Key="lock")["ETag"]
    s3.put_object(Bucket=bucket, Key="lock", Body=b"new", IfMatch=tag)
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=bucket, Key="lock", Body=b"late", IfMatch=tag)


def test_a_large_upload_comes_back_in_ranges_and_memory_stays_bounded(cloud, aws, bucket, tmp_path):
    size = 200 * 2**20
    (tmp_path / "model").write_bytes(b"0123456789abcdef" * (size // 16))
    s3 = aws("s3")
    before = resident(cloud)
    s3.upload_file(str(tmp_path / "model"), bucket, "model")
    assert s3.head_object(Bucket=bucket, Key="model")["ContentLength"] == size
    part = s3.get_object(Bucket=bucket, Key="model", Range="bytes=100000016-100000031")["Body"].read()
    assert part == b"0123456789abcdef"
    s3.download_file(bucket, "model", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "model").read_bytes()
    assert resident(cloud) - before < 3 * size


def resident(cloud) -> int:
    """Bytes that the server holds in memory."""
    pages = [int(Path(f"/proc/{one.pid}/statm").read_text().split()[1]) for one in cloud.processes]
    return max(pages) * 4096
