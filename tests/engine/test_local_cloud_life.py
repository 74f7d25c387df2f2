"""The life of a local cloud: up, up again, side by side, killed, down; and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import docker
import pytest
from botocore.exceptions import ClientError

from splitbake.errors import LocalCloudError, ToolError
from splitbake.local import down, images, status, up
from splitbake.local.engine import LABEL, connect, labels
from splitbake.local.registry import Registry
from splitbake.local.state import load

pytestmark = pytest.mark.engine


@pytest.fixture
def directory(tmp_path):
    yield tmp_path / "state"
    down(tmp_path / "state")


def objects(cloud_id):
    client, mine = connect(), {"label": f"{LABEL}={cloud_id}"}
    return [
        *client.containers.list(all=True, filters=mine),
        *client.volumes.list(filters=mine),
        *client.images.list(all=True, filters=mine),
        *client.networks.list(filters=mine),
    ]


def unlabelled_volumes():
    return {one.name for one in connect().volumes.list() if LABEL not in (one.attrs["Labels"] or {})}


def client_of(cloud, service):
    session = boto3.Session(cloud.access_key, cloud.secret_key, region_name=cloud.region)
    return session.client(service, endpoint_url=cloud.endpoint)


def run_cli(directory, *arguments):
    environment = os.environ | {"SPLITBAKE_LOCAL_DIR": str(directory)}
    return subprocess.run(
        [sys.executable, "-m", "splitbake", "local", *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_two_ups_are_one_and_down_leaves_nothing(directory):
    before = unlabelled_volumes()
    cloud = up(directory)
    assert up(directory) == cloud == status(directory)
    ec2 = client_of(cloud, "ec2")
    name = "/aws/service/ecs/optimized-ami/amazon-linux-2023/recommended/image_id"
    ami = client_of(cloud, "ssm").get_parameter(Name=name)["Parameter"]["Value"]
    started = ec2.run_instances(ImageId=ami, MinCount=2, MaxCount=2)["Instances"]
    instance, other = (one["InstanceId"] for one in started)
    connect().containers.get(f"splitbake-{cloud.id}-{other}").remove(force=True)  # its volume stays
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})
    ec2.create_image(InstanceId=instance, Name="left-behind")
    connect().images.get(cloud.python_image).tag(f"{cloud.registry}/left/behind", "v1")
    Registry(cloud.registry, cloud.registry_password).push(connect(), cloud.python_image, "left/pushed", "v1")
    connect().volumes.create(f"left-{cloud.id}", labels=labels(cloud.id))

    removed = down(directory)
    assert any(instance in one for one in removed)
    assert objects(cloud.id) == []
    assert unlabelled_volumes() <= before
    assert not directory.exists()
    assert not any(process.alive for process in cloud.processes)
    names = [name for image in connect().images.list() for name in image.tags + image.attrs["RepoDigests"]]
    assert [name for name in names if name.startswith(cloud.registry)] == []
    assert connect().images.get(cloud.instance_image), "the shared base image stays"
    assert status(directory) is None
    assert down(directory) == []


def test_a_second_cloud_runs_beside_the_first(directory, tmp_path, cloud):
    other = up(directory, region="ap-northeast-2")
    assert other.id != cloud.id
    assert other.endpoint != cloud.endpoint
    assert client_of(other, "s3").list_buckets()["Buckets"] == []
    bucket = client_of(cloud, "s3")
    bucket.create_bucket(Bucket="only-in-the-first")
    assert client_of(other, "s3").list_buckets()["Buckets"] == []
    digests = {
        client_of(one, "ecr").list_images(repositoryName="docker-hub/library/python")["imageIds"][0]["imageDigest"]
        for one in (cloud, other)
    }
    assert len(digests) == 1, "the base image has the same digest in each cloud of a machine"
    down(directory)
    assert bucket.list_buckets()["Buckets"], "the first one still answers"
    bucket.delete_bucket(Bucket="only-in-the-first")


def test_down_removes_nothing_that_is_not_of_the_cloud(directory):
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")
    assert down(directory) == []
    up(directory)
    down(directory)
    assert [path.name for path in directory.iterdir()] == ["notes.txt"]


def test_two_ups_at_once_are_one(directory):
    with ThreadPoolExecutor(2) as pool:
        codes = pool.map(lambda _: json.loads(run_cli(directory, "up", "--json").stdout)["id"], range(2))
        assert len(set(codes)) == 1


def test_another_region_is_another_cloud(directory):
    up(directory, region="us-east-1")
    with pytest.raises(LocalCloudError, match="us-east-1"):
        up(directory, region="eu-west-1")


def test_a_killed_server_is_cleaned_up_and_replaced(directory):
    first = up(directory)
    stray = connect().containers.create(first.python_image, labels=labels(first.id))
    for process in first.processes:
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(process.alive for process in first.processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert status(directory) is None
    second = up(directory)
    assert second.id != first.id
    assert objects(first.id) == []
    assert stray.id not in [one.id for one in connect().containers.list(all=True)]
    assert client_of(second, "sts").get_caller_identity()["Account"] == second.account


def test_an_up_that_fails_leaves_nothing(directory, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    before = {one.id for one in connect().networks.list()}
    with pytest.raises(ToolError, match="needs a registry") as problem:
        up(directory)
    assert "apt install docker-registry" in problem.value.hint
    assert load(directory) is None
    assert {one.id for one in connect().networks.list()} <= before


def test_what_docker_refuses_is_told_in_its_words_and_leaves_nothing(directory, monkeypatch):
    def refuse(client, cloud_id):
        raise docker.errors.APIError("500", explanation="could not find an available IPv4 address pool")

    monkeypatch.setattr("splitbake.local.engine.create_network", refuse)
    with pytest.raises(ToolError, match="making a network: could not find an available") as problem:
        up(directory)
    assert "docker network ls" in problem.value.hint
    assert load(directory) is None


def test_a_gateway_that_is_not_of_this_machine_is_told(directory, monkeypatch):
    monkeypatch.setattr("splitbake.local.engine.create_network", lambda client, cloud_id: ("none", "203.0.113.1"))
    with pytest.raises(LocalCloudError, match=r"cannot listen at 203\.0\.113\.1"):
        up(directory)
    assert load(directory) is None


@pytest.mark.parametrize("moment", ["cloud.json", "registry.log"])
def test_an_up_that_is_ended_cleans_up(directory, moment):
    environment = os.environ | {"SPLITBAKE_LOCAL_DIR": str(directory)}
    command = [sys.executable, "-m", "splitbake", "local", "up"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 30
        while not (directory / moment).exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        run.send_signal(signal.SIGTERM)
        begun = load(directory)
        _, told = run.communicate(timeout=60)
    assert run.returncode == 130, told
    assert "interrupted" in told.lower()
    assert objects(begun.id) == []
    assert not any(process.alive for process in begun.processes)
    assert load(directory) is None


def test_the_commands_speak_json_and_shell(directory):
    made = run_cli(directory, "up", "--json")
    shown = json.loads(made.stdout)
    cloud = status(directory)
    assert shown["endpoint"] == cloud.endpoint
    assert cloud.secret_key not in made.stdout + made.stderr + repr(cloud)
    assert json.loads(run_cli(directory, "env", "--json").stdout) == cloud.environment()
    sourced = subprocess.run(
        ["sh", "-c", f"{run_cli(directory, 'env').stdout}\necho $AWS_ENDPOINT_URL $AWS_CONFIG_FILE"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sourced.stdout.split() == [cloud.endpoint, "/dev/null"]
    assert json.loads(run_cli(directory, "status", "--json").stdout)["running"] is True
    assert run_cli(directory, "throttle", "1").returncode == 0
    with pytest.raises(ClientError, match="503"):
        client_of(cloud, "sts").get_caller_identity()
    assert run_cli(directory, "throttle", "0").returncode == 0
    assert client_of(cloud, "sts").get_caller_identity()["Account"] == cloud.account
    assert run_cli(directory, "down").returncode == 0
    assert not directory.exists()
    stopped = run_cli(directory, "status", "--json")
    assert (json.loads(stopped.stdout), stopped.returncode) == ({"running": False}, 2)
    refused = run_cli(directory, "env")
    assert refused.returncode == 1
    assert "splitbake local up" in refused.stderr


def test_secrets_are_readable_by_the_owner_only(cloud):
    for path in (cloud.directory / "cloud.json", cloud.directory / "registry" / "htpasswd"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for process in cloud.processes:
        command = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert cloud.secret_key not in command
        assert cloud.registry_password not in command


def test_purge_drops_the_shared_base_images_unless_a_container_needs_them(tmp_path, monkeypatch):
    mine = images.Recipe("purge-test", (), {}, {"Cmd": ["none"]})
    monkeypatch.setattr(images, "BASE_LABEL", "splitbake.purge-test")
    monkeypatch.setattr(images, "LABEL", "splitbake.purge-test-cloud")  # the session has a cloud of its own
    monkeypatch.setattr(images, "INSTANCE", mine)
    monkeypatch.setattr(images, "PYTHON", mine)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    layer = tmp_path / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    images.cache().mkdir(parents=True)
    images._pack(mine, layer, images.cache() / "image.tar")
    client = connect()
    client.images.load((images.cache() / "image.tar").read_bytes())
    user = client.containers.create(mine.tag)
    with pytest.raises(LocalCloudError, match="in use"):
        images.purge(client)
    user.remove()
    idle = client.networks.create("splitbake-purge-test", labels={"splitbake.purge-test-cloud": "c0ffee00"})
    try:
        with pytest.raises(LocalCloudError, match="still there: c0ffee00"):
            images.purge(client)
    finally:
        idle.remove()
    assert f"image {mine.tag}" in images.purge(client)
    assert not images.cache().exists()
    assert client.images.list(mine.tag) == []
