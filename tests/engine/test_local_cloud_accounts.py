"""Accounts and regions of the local cloud are apart: identities, resources, and what a registry holds."""

from __future__ import annotations

import json
import subprocess
from base64 import b64decode
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from splitbake.cli.local import command
from splitbake.local.engine import connect

pytestmark = pytest.mark.engine

PROD, ELSEWHERE = "222222222222", "eu-west-1"
PARAMETER = "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id"


def test_each_account_is_itself(cloud, aws):
    assert aws("sts").get_caller_identity()["Account"] == cloud.account
    identity = aws("sts", PROD).get_caller_identity()
    assert identity["Account"] == PROD
    assert f":{PROD}:" in identity["Arn"]


def test_the_command_line_prints_the_credentials_of_an_account(cloud, monkeypatch):
    import boto3

    monkeypatch.setenv("SPLITBAKE_LOCAL_DIR", str(cloud.directory))
    arguments = ["env", "--account", PROD, "--region", ELSEWHERE, "--json"]
    printed = json.loads(CliRunner().invoke(command, arguments, catch_exceptions=False).stdout)
    sts = boto3.client(
        "sts",
        region_name=printed["AWS_REGION"],
        endpoint_url=printed["AWS_ENDPOINT_URL"],
        aws_access_key_id=printed["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=printed["AWS_SECRET_ACCESS_KEY"],
    )
    assert (sts.get_caller_identity()["Account"], printed["AWS_REGION"]) == (PROD, ELSEWHERE)


def test_a_caller_cannot_choose_the_account_by_the_header_of_moto(cloud, aws):
    sts = aws("sts")
    sts.meta.events.register(
        "before-sign.sts", lambda request, **_: request.headers.add_header("x-moto-account-id", PROD)
    )
    assert sts.get_caller_identity()["Account"] == cloud.account


def test_the_secret_of_one_account_does_not_open_another(cloud):
    import boto3

    key = cloud.keys.of(PROD)
    sts = boto3.client(
        "sts",
        region_name=cloud.region,
        endpoint_url=cloud.endpoint,
        aws_access_key_id=key.id,
        aws_secret_access_key=cloud.secret_key,
    )
    with pytest.raises(ClientError, match="signature does not match"):
        sts.get_caller_identity()


def test_parameters_and_templates_of_one_account_are_not_in_another(aws):
    aws("ssm").put_parameter(Name="/apart", Value="home", Type="String")
    aws("ssm", PROD).put_parameter(Name="/apart", Value="prod", Type="String")
    assert aws("ssm").get_parameter(Name="/apart")["Parameter"]["Value"] == "home"
    with pytest.raises(ClientError, match="ParameterNotFound"):
        aws("ssm", PROD, ELSEWHERE).get_parameter(Name="/apart")
    made = aws("ec2").create_launch_template(
        LaunchTemplateName="apart", LaunchTemplateData={"InstanceType": "m6i.large"}
    )
    assert made["LaunchTemplate"]["LaunchTemplateId"]
    for place in ((PROD, None), (None, ELSEWHERE)):
        assert aws("ec2", *place).describe_launch_templates()["LaunchTemplates"] == []
    for account in (None, PROD):
        aws("ssm", account).delete_parameter(Name="/apart")
    aws("ec2").delete_launch_template(LaunchTemplateName="apart")


def test_bucket_names_are_global(aws):
    """Amazon S3: "bucket names must be unique across all AWS accounts" of a partition; here they are open to all."""
    home, prod = aws("s3"), aws("s3", PROD)
    home.create_bucket(Bucket="only-one")
    with pytest.raises(ClientError, match="BucketAlreadyExists"):
        prod.create_bucket(Bucket="only-one")
    prod.put_object(Bucket="only-one", Key="state", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        home.put_object(Bucket="only-one", Key="state", Body=b"2", IfNoneMatch="*")
    assert prod.list_buckets()["Buckets"] == []
    home.delete_object(Bucket="only-one", Key="state")
    home.delete_bucket(Bucket="only-one")


def test_an_instance_and_an_ami_of_another_region(cloud, aws, base_ami):
    ec2 = aws("ec2", region=ELSEWHERE)
    base = aws("ssm", region=ELSEWHERE).get_parameter(Name=PARAMETER)["Parameter"]["Value"]
    assert base != base_ami
    with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
        ec2.run_instances(ImageId=base_ami, MinCount=1, MaxCount=1)
    instance = ec2.run_instances(ImageId=base, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})
    ami = ec2.create_image(InstanceId=instance, Name="elsewhere")["ImageId"]
    ec2.get_waiter("image_available").wait(ImageIds=[ami], WaiterConfig={"Delay": 1})
    ec2.terminate_instances(InstanceIds=[instance])
    with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
        aws("ec2").describe_images(ImageIds=[ami])
    assert connect().images.list(filters={"label": f"splitbake.ami={ami}"})
    ec2.deregister_image(ImageId=ami)


@pytest.fixture
def repositories(cloud, aws):
    """Repositories of one name: at home, in the other account, and in the other region; as clients."""
    places = {"home": (None, None), "prod": (PROD, None), "elsewhere": (PROD, ELSEWHERE)}
    clients = {name: aws("ecr", *place) for name, place in places.items()}
    yield {
        name: (ecr, ecr.create_repository(repositoryName="team/apart")["repository"]["repositoryUri"])
        for name, ecr in clients.items()
    }
    for ecr in clients.values():
        ecr.delete_repository(repositoryName="team/apart", force=True)


@pytest.fixture
def docker(tmp_path):
    """A Docker command line with a login of its own: ``docker(ecr, "push", name)``."""

    def run(ecr, *arguments):
        grant = ecr.get_authorization_token()["authorizationData"][0]
        user, _, password = b64decode(grant["authorizationToken"]).decode().partition(":")
        address = grant["proxyEndpoint"].removeprefix("http://")
        login = ["docker", "--config", str(tmp_path), "login", "--username", user, "--password-stdin", address]
        subprocess.run(login, input=password, text=True, check=True, capture_output=True)
        done = subprocess.run(
            ["docker", "--config", str(tmp_path), *arguments], text=True, check=False, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    own_plugins = {"cliPluginsExtraDirs": [str(Path.home() / ".docker/cli-plugins")]}
    (tmp_path / "config.json").write_text(json.dumps(own_plugins))
    return run


def digests(ecr, **options):
    found = ecr.describe_images(repositoryName="team/apart", **options)["imageDetails"]
    return {one["imageDigest"]: one.get("imageTags", []) for one in found}


def test_a_repository_of_another_account_or_region_is_another_one(cloud, repositories, docker):
    uris = [uri for _, uri in repositories.values()]
    assert len(set(uris)) == 3
    assert uris[0] == f"{cloud.registry}/team/apart"
    ecr, uri = repositories["prod"]
    connect().images.get(cloud.python_image).tag(uri, "v1")
    docker(ecr, "push", f"{uri}:v1")
    connect().images.remove(f"{uri}:v1")
    assert list(digests(ecr).values()) == [["v1"]]
    assert digests(repositories["home"][0]) == digests(repositories["elsewhere"][0]) == {}
    (digest,) = digests(ecr)
    wanted = [{"imageDigest": digest}]
    assert ecr.batch_get_image(repositoryName="team/apart", imageIds=wanted)["images"][0]["registryId"] == PROD
    answer = repositories["home"][0].batch_get_image(repositoryName="team/apart", imageIds=wanted)
    assert answer["failures"][0]["failureCode"] == "ImageNotFound"


def test_an_image_is_promoted_by_digest(cloud, repositories, docker):
    """What a release to another account does: the same digest in the other repository, pulled from there.

    `imagetools create` wraps a single manifest in an index: the tag names the index, the digest stays what it was.
    """
    home, source = repositories["home"]
    connect().images.get(cloud.python_image).tag(source, "v1")
    docker(home, "push", f"{source}:v1")
    connect().images.remove(f"{source}:v1")
    (digest,) = digests(home)
    for ecr, target in (repositories["prod"], repositories["elsewhere"]):
        docker(ecr, "buildx", "imagetools", "create", "--tag", f"{target}:release", f"{source}@{digest}")
        found = digests(ecr)
        assert found.pop(digest) == [], "what an index lists has no tag of its own"
        assert list(found.values()) == [["release"]]
    home.batch_delete_image(repositoryName="team/apart", imageIds=[{"imageDigest": digest}])
    assert digests(home) == {}
    for ecr, target in (repositories["prod"], repositories["elsewhere"]):
        docker(ecr, "pull", f"{target}@{digest}")
        connect().images.remove(f"{target}@{digest}")


def test_the_registry_of_another_account_is_closed(repositories):
    with pytest.raises(ClientError, match="RepositoryNotFoundException"):
        repositories["home"][0].describe_images(registryId=PROD, repositoryName="team/apart")


def test_a_new_repository_of_a_deleted_name_is_empty(cloud, aws, docker):
    ecr = aws("ecr")
    uri = ecr.create_repository(repositoryName="reborn")["repository"]["repositoryUri"]
    connect().images.get(cloud.python_image).tag(uri, "v1")
    docker(ecr, "push", f"{uri}:v1")
    connect().images.remove(f"{uri}:v1")
    with pytest.raises(ClientError, match="RepositoryNotEmptyException"):
        ecr.delete_repository(repositoryName="reborn")
    ecr.delete_repository(repositoryName="reborn", force=True)
    ecr.create_repository(repositoryName="reborn")
    assert ecr.describe_images(repositoryName="reborn")["imageDetails"] == []
    ecr.delete_repository(repositoryName="reborn")


def test_an_archived_image_says_so(cloud, repositories, docker):
    """ECR API model, DescribeImages: if no status is given "only images with ACTIVE status are returned"."""
    ecr, uri = repositories["prod"]
    connect().images.get(cloud.python_image).tag(uri, "v1")
    docker(ecr, "push", f"{uri}:v1")
    connect().images.remove(f"{uri}:v1")
    image = {"imageTag": "v1"}

    def status(**options):
        found = ecr.describe_images(repositoryName="team/apart", **options)["imageDetails"]
        return [one["imageStatus"] for one in found]

    assert status() == ["ACTIVE"]
    call = ecr.update_image_storage_class
    assert call(repositoryName="team/apart", imageId=image, targetStorageClass="ARCHIVE")["imageStatus"] == "ARCHIVED"
    assert status() == []
    assert status(filter={"imageStatus": "ARCHIVED"}) == status(imageIds=[image]) == ["ARCHIVED"]
    call(repositoryName="team/apart", imageId=image, targetStorageClass="STANDARD")
    assert status() == ["ACTIVE"]
