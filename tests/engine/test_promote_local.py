"""From one account and region of the local cloud to another: the pair that dev has released, nothing built anew."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from typing import Any

import pytest
import yaml

from splitbake import dockercli, ecr
from splitbake.artifact import Artifact, Check, Report
from splitbake.contract import Need, Offer
from splitbake.project import Project
from splitbake.release import plan as planner
from splitbake.release import record as records
from splitbake.release import sharing
from splitbake.release.run import run
from splitbake.release.targets import Pair
from splitbake.ui import silent

pytestmark = pytest.mark.engine

PROD, ELSEWHERE = "222222222222", "eu-west-1"
MANIFEST = {
    "version": 1,
    "models": {"files": [{"path": "m/x", "from": "x"}], "budget": "1 MB"},
    "ami": {"base": "ami-0123456789abcdef0"},
    "image": {
        "base": "python:3.11-slim",
        "include": ["run.py"],
        "mounts": {"m": "/m"},
        "command": ["run"],
        "budget": "1 MB",
    },
}
QUICK = {"Delay": 1, "MaxAttempts": 60}


class Site:
    """A project with an AMI and an image in dev, and a launch template in both accounts; each name is its own."""

    def __init__(self, folder, cloud, aws, base_ami: str) -> None:
        self.folder, self.local, self.aws = folder, cloud, aws
        self.name = f"promote-{uuid.uuid4().hex[:8]}"
        self.state = f"s3://{self.name}/state"
        aws("s3").create_bucket(Bucket=self.name)
        self.write(ELSEWHERE, {"from": "dev"})
        self.places = [(None, None), (PROD, ELSEWHERE), (PROD, None)]
        for place in self.places:
            data = {"ImageId": "ami-0123456789abcdef0", "InstanceType": "m6i.large"}
            aws("ec2", *place).create_launch_template(LaunchTemplateName=self.name, LaunchTemplateData=data)
        self.pair = Pair(self._ami(base_ami), self._image())

    def write(self, region: str, promote: dict[str, str]) -> None:
        targets = {"endpoint": "custom", "release": [{"launch_template": self.name}]}
        dev = {"account": self.local.account, "region": "us-east-1", **targets}
        prod = {"account": PROD, "region": region, "promote": promote, **targets}
        own = {"project": self.name, "state": self.state, "environments": {"dev": dev, "prod": prod}}
        image = {"image": {**MANIFEST["image"], "repository": self.name}}
        path = self.folder / "splitbake.yaml"
        path.write_text(yaml.safe_dump({**MANIFEST, **own, **image}, sort_keys=False))
        self.project = Project(path)
        self.dev = self.project.cloud("dev")

    def _ami(self, base: str) -> Artifact:
        ec2 = self.aws("ec2")
        instance = ec2.run_instances(ImageId=base, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
        ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig=QUICK)
        ami = ec2.create_image(InstanceId=instance, Name=self.name)["ImageId"]
        ec2.terminate_instances(InstanceIds=[instance])
        ec2.get_waiter("image_available").wait(ImageIds=[ami], WaiterConfig=QUICK)
        volume = ec2.describe_images(ImageIds=[ami])["Images"][0]["BlockDeviceMappings"][0]["Ebs"]
        offer = Offer(version=1, root="/opt/dl-models", architecture="x86_64", files={"m/x": "a" * 64})
        return self._artifact("ami", ami, "us-east-1", offers=offer, snapshots=(volume["SnapshotId"],))

    def _image(self) -> Artifact:
        uri = ecr.ensure_repository(self.dev, self.name)
        (self.folder / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        with dockercli.login(ecr.credentials(self.dev)) as docker:
            docker.build(self.folder, tags=f"{uri}:v1", load=True, provenance=False, progress="quiet")
            docker.image.push(f"{uri}:v1", quiet=True)
            docker.image.remove(f"{uri}:v1")
        found = ecr.find_image(self.dev, self.name, tag="v1")
        need = Need(version=1, architecture="x86_64", paths=("m/",), mounts={"m": "/m"})
        return self._artifact("image", found.digest, uri, needs=need)

    def _artifact(self, half: str, name: str, location: str, **more: Any) -> Artifact:
        made = {"created": "then", "seconds": 1.0, "size": 1, "fingerprint": f"sha256:{half[0] * 64}"}
        artifact = Artifact(half=half, id=name, location=location, **made, **more)
        checks = (Check(name="models", passed=True),)
        named = {"half": half, "artifact": name, "fingerprint": artifact.fingerprint}
        catalog = self.project.catalog(self.dev)
        catalog.keep(artifact, instead_of=None)
        catalog.keep_report(Report(**named, standard="s", created="then", seconds=1.0, checks=checks))
        return artifact

    def share(self) -> None:
        """Do what verification does when the AMI has passed, with dev's credentials."""
        report = self.project.catalog(self.dev).report(self.pair.ami)
        sharing.share_verified(self.project.manifest, self.dev, self.pair.ami, report, silent)

    def release(self) -> records.Record:
        """Release the pair in dev."""
        return run(planner.plan(self.project, self.dev, self.pair), self.project, self.dev, silent)

    def promote(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``splitbake release --env prod`` with prod's credentials."""
        call = [sys.executable, "-m", "splitbake", "release", "--env", "prod", *arguments]
        variables = self.local.environment(PROD, ELSEWHERE)
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root", **variables}
        return subprocess.run(call, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def promoted(self) -> dict[str, Any]:
        done = self.promote("--yes", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def template(self, region: str = ELSEWHERE) -> str:
        """The AMI that new instances of prod get."""
        versions = self.aws("ec2", PROD, region).describe_launch_template_versions(
            LaunchTemplateName=self.name, Versions=["$Default"]
        )
        return versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]["ImageId"]

    def own(self, region: str = ELSEWHERE) -> dict[str, Any]:
        """The AMIs of prod, by id."""
        images = self.aws("ec2", PROD, region).describe_images(Owners=["self"])["Images"]
        return {one["ImageId"]: one for one in images if one["Name"].startswith(self.name)}

    def changed(self) -> str:
        """Everything that a promotion may change, as one text."""
        templates = self.aws("ec2", PROD, ELSEWHERE).describe_launch_template_versions(LaunchTemplateName=self.name)
        repository = f"{self.name}"
        images = self.aws("ecr", PROD, ELSEWHERE).describe_repositories()["repositories"]
        found = [one for one in images if one["repositoryName"] == repository]
        keys = self.project.store(self.dev).keys("")
        return json.dumps([self.own(), templates["LaunchTemplateVersions"], found, keys], default=str, sort_keys=True)

    def close(self) -> None:
        for place in self.places:
            ec2 = self.aws("ec2", *place)
            ec2.delete_launch_template(LaunchTemplateName=self.name)
            for image in ec2.describe_images(Owners=["self"])["Images"]:
                if image["Name"].startswith(self.name):
                    ec2.deregister_image(ImageId=image["ImageId"])
            registry = self.aws("ecr", *place)
            names = [one["repositoryName"] for one in registry.describe_repositories()["repositories"]]
            if self.name in names:
                registry.delete_repository(repositoryName=self.name, force=True)


@pytest.fixture
def site(tmp_path, cloud, aws, base_ami):
    site = Site(tmp_path, cloud, aws, base_ami)
    yield site
    site.close()


def test_a_pair_is_copied_to_another_account_and_region_once(site, aws):
    record = site.release()
    site.share()
    before = site.changed()
    shown = site.promote("--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert f'ec2 CopyImage {{"Name": "{site.name}' in shown.stdout
    tag = f"iiiiiiiiiiii-{site.pair.image.id[7:19]}"
    assert f"copy {site.pair.image.uri} to {site.name}:{tag}" in shown.stdout
    assert site.changed() == before

    data = site.promoted()
    ami = data["promoted"]["ami"]["artifact"]
    assert ami != site.pair.ami.id
    assert (data["ami"], data["status"], site.template()) == (ami, "good", ami)
    ((name, image),) = site.own().items()
    assert (name, image["OwnerId"], image["State"]) == (ami, PROD, "available")
    assert {"Key": "splitbake:promoted-from", "Value": site.pair.ami.id} in image["Tags"]
    snapshot = image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    (of_snapshot,) = aws("ec2", PROD, ELSEWHERE).describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
    assert {"Key": "splitbake:project", "Value": site.name} in of_snapshot["Tags"]

    assert data["image"].endswith(f"@{site.pair.image.id}")
    assert data["image"] != site.pair.image.uri
    wanted = [{"imageDigest": site.pair.image.id}]
    found = aws("ecr", PROD, ELSEWHERE).describe_images(repositoryName=site.name, imageIds=wanted)["imageDetails"]
    assert [one["imageDigest"] for one in found] == [site.pair.image.id]
    released = f"release-prod-{data['record'].removeprefix('records/prod/').removesuffix('.json')}"
    assert sorted(found[0]["imageTags"]) == [tag, released]
    with dockercli.login(ecr.credentials(site.dev)) as docker:
        docker.image.pull(data["image"], quiet=True)
        docker.image.remove(data["image"])

    stored = records.last_good(site.project.store(site.dev), "prod")
    assert (stored.key, stored.promoted_from) == (data["record"], record.key)
    assert (stored.ami.id, stored.ami.promoted_from) == (ami, site.pair.ami.id)

    after = site.changed()
    (site.folder / "splitbake.yaml").write_text((site.folder / "splitbake.yaml").read_text() + "# changed\n")
    again = site.promoted()
    assert (again["status"], again["promoted"]["ami"]["calls"]) == ("unchanged", [])
    assert site.changed() == after


def test_a_copy_that_was_deleted_behind_its_back_is_made_again(site, aws):
    site.release()
    site.share()
    first = site.promoted()["ami"]
    aws("ec2", PROD, ELSEWHERE).deregister_image(ImageId=first)
    second = site.promoted()["ami"]
    assert second != first
    assert [*site.own()] == [second]
    assert site.template() == second


def test_a_shared_ami_is_launched_as_it_is(site):
    site.write("us-east-1", {"from": "dev", "ami": "share"})
    site.release()
    refused = site.promote("--yes")
    assert refused.returncode == 1
    assert "splitbake verify ami --env dev with that account's credentials" in refused.stderr
    site.share()
    data = site.promoted()
    assert (data["ami"], data["promoted"]["ami"]["way"]) == (site.pair.ami.id, "share")
    assert site.own("us-east-1") == {}
    assert site.template("us-east-1") == site.pair.ami.id
    assert site.promoted()["status"] == "unchanged"


def test_what_is_not_shared_is_not_copied(site):
    site.release()
    before = site.changed()
    refused = site.promote("--yes")
    assert refused.returncode == 1
    assert (
        f"{site.pair.ami.id} of account {site.local.account}, us-east-1 cannot be used by account {PROD}"
        in refused.stderr
    )
    assert site.changed() == before
