"""Packer's amazon-ebs builder bakes unchanged in the local cloud."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from splitbake.local.engine import connect

pytestmark = pytest.mark.engine

TEMPLATE = """
source "amazon-ebs" "models" {
  region              = "us-east-1"
  custom_endpoint_ec2 = "%(endpoint)s"
  source_ami          = "%(source)s"
  instance_type       = "m6i.xlarge"
  ssh_username        = "ec2-user"
  ami_name            = "packer-in-the-local-cloud"
  tags                = { made_by = "packer" }
  snapshot_tags       = { made_by = "packer" }
  run_volume_tags     = { made_by = "packer" }
  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_size           = 40
    volume_type           = "gp3"
    iops                  = 3000
    throughput            = 125
    delete_on_termination = true
  }
}
build {
  sources = ["source.amazon-ebs.models"]
  provisioner "shell" {
    inline = ["sudo mkdir -p /opt/dl-models", "echo weights | sudo tee /opt/dl-models/model.bin"]
  }
  post-processor "manifest" {}
}
"""


def instances_of(cloud) -> list[str]:
    labels = [f"splitbake.cloud={cloud.id}", "splitbake.instance"]
    return [one.name for one in connect().containers.list(all=True, filters={"label": labels})]


def test_amazon_ebs_bakes_an_ami_that_boots(cloud, aws, base_ami, tmp_path):
    (tmp_path / "bake.pkr.hcl").write_text(TEMPLATE % {"endpoint": cloud.endpoint, "source": base_ami})
    before = instances_of(cloud)
    bake = subprocess.run(
        ["packer", "build", "-color=false", "bake.pkr.hcl"],
        cwd=tmp_path, env=os.environ | cloud.environment() | {"CHECKPOINT_DISABLE": "1", "AWS_POLL_DELAY_SECONDS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert bake.returncode == 0, bake.stdout + bake.stderr
    ami = json.loads((tmp_path / "packer-manifest.json").read_text())["builds"][0]["artifact_id"].partition(":")[2]

    ec2 = aws("ec2")
    image = ec2.describe_images(ImageIds=[ami])["Images"][0]
    assert image["State"] == "available"
    assert image["Tags"] == [{"Key": "made_by", "Value": "packer"}]
    root = image["BlockDeviceMappings"][0]
    assert (root["DeviceName"], root["Ebs"]["VolumeSize"]) == ("/dev/xvda", 40)
    snapshot = ec2.describe_snapshots(SnapshotIds=[root["Ebs"]["SnapshotId"]])["Snapshots"][0]
    assert snapshot["Tags"] == [{"Key": "made_by", "Value": "packer"}]
    assert snapshot["FullSnapshotSizeInBytes"] > 50e6
    assert ec2.describe_key_pairs()["KeyPairs"] == []
    assert instances_of(cloud) == before, "Packer's builder is gone"

    instance = ec2.run_instances(ImageId=ami, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})
    container = connect().containers.get(f"splitbake-{cloud.id}-{instance}")
    assert container.exec_run(["cat", "/opt/dl-models/model.bin"]).output == b"weights\n"
    ec2.terminate_instances(InstanceIds=[instance])
    ec2.deregister_image(ImageId=ami)
    assert instances_of(cloud) == before
