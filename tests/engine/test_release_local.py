"""Releases to real objects of the local cloud: what changes, what does not, and what is left after a failure."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from splitbake.artifact import Artifact, Check, Report
from splitbake.contract import Need, Offer
from splitbake.errors import HeldError, InterruptError, ReleaseError, SplitbakeError, StateError, UsageError
from splitbake.lease import held
from splitbake.project import Project
from splitbake.release import plan as planner
from splitbake.release import record as records
from splitbake.release.run import run
from splitbake.release.targets import Pair
from splitbake.smoke import smoke
from splitbake.state import FolderStore
from splitbake.ui import silent

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

REPOSITORY = "docker-hub/library/python"
#: What an earlier release has left on the one image of all tests here, so that none of theirs has to.
RELEASED = "release-local-20260101T000000Z-000000"
TERRAFORM = """\
# The host.   Odd   spacing stays.
resource "aws_launch_template" "gpu" {
  image_id = "%s" # set by the release
}
"""
JOB = """
import json, os
print("hello", os.environ["SESSION_ID"], os.environ["URL"].partition("?")[0])
print(json.dumps({"faces": 2}))
"""


class Site:
    """A project with its objects in the cloud, each under a name of its own."""

    def __init__(self, folder: Path, aws, base_ami: str, ami: str) -> None:
        self.aws, self.base, self.ami = aws, base_ami, ami
        self.name = f"release-{uuid.uuid4().hex[:8]}"
        self.ec2, self.batch = aws("ec2"), aws("batch")
        self.folder = folder
        self.terraform = folder / "terraform/main.tf"
        self.terraform.parent.mkdir()
        self.terraform.write_text(TERRAFORM % base_ami)
        (folder / "splitbake.yaml").write_text(yaml.safe_dump(self.manifest()))
        self.project = Project(folder / "splitbake.yaml")
        self.cloud = self.project.cloud()
        self.store = self.project.store(self.cloud)
        self._create(base_ami)

    def manifest(self) -> dict:
        return {
            "version": 1,
            "project": self.name,
            "state": ".state",
            "models": {"files": [{"path": "etc/m.bin", "from": "m.bin"}], "root": "/opt/dl-models", "budget": "1 MB"},
            "ami": {"base": self.base},
            "image": {
                "base": "python:3.11-slim",
                "include": ["run.py"],
                "mounts": {"etc": "/workspace/etc"},
                "command": ["python", "run.py"],
                "repository": REPOSITORY,
                "budget": "500 MB",
            },
            "environments": {
                "local": {
                    "account": "123456789012",
                    "region": "us-east-1",
                    "endpoint": "custom",
                    "release": [
                        {"batch_job_definition": self.name},
                        {"batch_compute_environment": self.name},
                        {"launch_template": self.name},
                        {
                            "terraform": "terraform/main.tf",
                            "resource": "aws_launch_template.gpu",
                            "attribute": "image_id",
                            "set": "ami.id",
                        },
                    ],
                    "smoke": {
                        "queue": self.name,
                        "job_definition": self.name,
                        "environment": {"SESSION_ID": "smoke-1"},
                        "presign": {"URL": f"s3://{self.name}/in.txt"},
                        "within": "60 s",
                    },
                }
            },
        }

    def _create(self, base_ami: str) -> None:
        volume = self.ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
        snapshot = self.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
        self.ec2.delete_volume(VolumeId=volume)
        self.ec2.create_launch_template(
            LaunchTemplateName=self.name,
            LaunchTemplateData={
                "ImageId": base_ami,
                "UserData": "c2VjcmV0LXVzZXItZGF0YQ==",
                "BlockDeviceMappings": [
                    {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 100, "VolumeType": "gp3"}},
                    {"DeviceName": "/dev/xvdf", "Ebs": {"SnapshotId": snapshot}},
                ],
                "MetadataOptions": {"HttpTokens": "required"},
            },
        )
        self.batch.create_compute_environment(
            computeEnvironmentName=self.name,
            type="MANAGED",
            computeResources={
                "type": "EC2",
                "allocationStrategy": "BEST_FIT_PROGRESSIVE",
                "minvCpus": 0,
                "maxvCpus": 4,
                "instanceTypes": ["g5.xlarge"],
                "instanceRole": self._profile(),
                "subnets": [self.ec2.describe_subnets()["Subnets"][0]["SubnetId"]],
                "securityGroupIds": [self.ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]],
                "launchTemplate": {"launchTemplateName": self.name, "version": "1"},
            },
        )
        self.batch.create_job_queue(
            jobQueueName=self.name,
            priority=1,
            computeEnvironmentOrder=[{"order": 1, "computeEnvironment": self.name}],
        )
        self.register(["python", "-c", JOB])

    def _profile(self) -> str:
        iam = self.aws("iam")
        iam.create_role(RoleName=self.name, AssumeRolePolicyDocument="{}")
        profile = iam.create_instance_profile(InstanceProfileName=self.name)["InstanceProfile"]["Arn"]
        iam.add_role_to_instance_profile(InstanceProfileName=self.name, RoleName=self.name)
        return profile

    def register(self, command: list[str]) -> None:
        self.batch.register_job_definition(
            jobDefinitionName=self.name,
            type="container",
            propagateTags=True,
            tags={"team": "vision"},
            containerProperties={
                "image": "everything-in-one:v1",
                "command": command,
                "environment": [{"name": "PASSWORD", "value": "secret-environment"}],
                "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "256"}],
                "volumes": [{"name": "old", "host": {"sourcePath": "/opt/dl-models/old"}}],
                "mountPoints": [{"sourceVolume": "old", "containerPath": "/old", "readOnly": False}],
            },
        )

    def pair(self) -> Pair:
        """A verified pair: the image is the base image's digest, the AMI was made of the base AMI."""
        ecr = self.aws("ecr")
        uri = ecr.describe_repositories(repositoryNames=[REPOSITORY])["repositories"][0]["repositoryUri"]
        found = ecr.describe_images(repositoryName=REPOSITORY)["imageDetails"][0]
        digest = found["imageDigest"]
        if RELEASED not in found["imageTags"]:
            ecr.put_image(repositoryName=REPOSITORY, imageTag=RELEASED, **self.manifest_of(digest))
        pair = Pair(self.artifact("ami", self.ami, "us-east-1"), self.artifact("image", digest, uri))
        self.verified(pair.ami)
        self.verified(pair.image)
        return pair

    def manifest_of(self, digest: str) -> dict[str, str]:
        asked = {"repositoryName": REPOSITORY, "imageIds": [{"imageDigest": digest}]}
        (image,) = self.aws("ecr").batch_get_image(**asked)["images"]
        return {key: image[key] for key in ("imageManifest", "imageManifestMediaType")}

    def tags(self, digest: str) -> list[str]:
        asked = {"repositoryName": REPOSITORY, "imageIds": [{"imageDigest": digest}]}
        return self.aws("ecr").describe_images(**asked)["imageDetails"][0]["imageTags"]

    def artifact(self, half, name: str, location: str) -> Artifact:
        digest = hashlib.sha256(name.encode()).hexdigest()
        offer = Offer(version=1, root="/opt/dl-models", architecture="x86_64", files={"etc/m.bin": digest})
        need = Need(version=1, architecture="x86_64", paths=("etc/",), mounts={"etc": "/workspace/etc"})
        fits = {"offers": offer} if half == "ami" else {"needs": need}
        known = {"half": half, "id": name, "location": location, "fingerprint": f"sha256:{digest}"}
        return Artifact(**known, **fits, created="now", seconds=1.0, size=1)

    def verified(self, artifact: Artifact, *, passed: bool = True) -> None:
        checks = (Check(name="models", passed=passed),)
        self.project.catalog(self.cloud).keep_report(
            Report(
                half=artifact.half,
                artifact=artifact.id,
                fingerprint=artifact.fingerprint,
                standard="s",
                created="now",
                seconds=1.0,
                checks=checks,
            )
        )

    def plan(self, pair: Pair) -> planner.ReleasePlan:
        return planner.plan(self.project, self.cloud, pair)

    def release(self, pair: Pair) -> records.Record:
        return run(self.plan(pair), self.project, self.cloud, silent)

    def live(self) -> dict:
        """Everything that a release may change."""
        return {
            "templates": self.ec2.describe_launch_template_versions(LaunchTemplateName=self.name)[
                "LaunchTemplateVersions"
            ],
            "environments": self.batch.describe_compute_environments(computeEnvironments=[self.name])[
                "computeEnvironments"
            ],
            "definitions": self.batch.describe_job_definitions(jobDefinitionName=self.name)["jobDefinitions"],
            "files": {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()},
        }

    def definition(self) -> dict:
        return max(self.live()["definitions"], key=lambda one: one["revision"])

    def stored(self) -> list[records.Record]:
        found = [self.store.get(key) for key in self.store.keys("records/local/")]
        return [records.Record.model_validate_json(one.value) for one in found if one]


@pytest.fixture(scope="module")
def ami(cloud, aws, base_ami):
    """An AMI of the account's own."""
    ec2 = aws("ec2")
    instance = ec2.run_instances(ImageId=base_ami, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})
    made = ec2.create_image(InstanceId=instance, Name="released")["ImageId"]
    ec2.terminate_instances(InstanceIds=[instance])
    ec2.get_waiter("image_available").wait(ImageIds=[made], WaiterConfig={"Delay": 1})
    yield made
    ec2.deregister_image(ImageId=made)


@pytest.fixture
def site(tmp_path, cloud, aws, base_ami, ami) -> Site:
    site = Site(tmp_path, aws, base_ami, ami)
    aws("s3").create_bucket(Bucket=site.name)
    aws("s3").put_object(Bucket=site.name, Key="in.txt", Body=b"frame")
    return site


def test_a_release_moves_every_target(site):
    pair = site.pair()
    record = site.release(pair)

    assert record.status == "good"
    assert [(step.phase, step.status) for step in record.steps] == [
        ("TEXT", "done"),
        ("HOST", "done"),
        ("HOST", "done"),
        ("JOB", "done"),
        ("DEFAULT", "done"),
    ]
    assert site.terraform.read_text() == TERRAFORM % pair.ami.id
    first, second = sorted(site.live()["templates"], key=lambda one: one["VersionNumber"])
    assert (first["DefaultVersion"], second["DefaultVersion"]) == (False, True)
    assert second["LaunchTemplateData"] == {**first["LaunchTemplateData"], "ImageId": pair.ami.id}
    (environment,) = site.live()["environments"]
    assert environment["computeResources"]["launchTemplate"] == {"launchTemplateName": site.name, "version": "2"}
    assert environment["status"] == "VALID"
    definition = site.definition()
    assert definition["revision"] == 2
    assert definition["tags"] == {"team": "vision"}
    container = definition["containerProperties"]
    assert container["image"] == pair.image.uri
    assert container["environment"] == [{"name": "PASSWORD", "value": "secret-environment"}]
    paths = {one["name"]: one["host"]["sourcePath"] for one in container["volumes"]}
    mounts = {paths[one["sourceVolume"]]: one["containerPath"] for one in container["mountPoints"]}
    assert mounts == {
        "/opt/dl-models/etc": "/workspace/etc",
        "/opt/dl-models/.splitbake": "/opt/splitbake/host",
    }
    assert all(one["readOnly"] for one in container["mountPoints"])
    assert definition["retryStrategy"]["evaluateOnExit"][0] == {"onExitCode": "78", "action": "retry"}
    assert [one.model_dump() for one in site.stored()] == [record.model_dump()]
    assert list(record.versions.values()) == ["2"]


def test_a_first_release_tags_the_image_before_anything_names_it(site, aws):
    pair = site.pair()
    aws("ecr").batch_delete_image(repositoryName=REPOSITORY, imageIds=[{"imageTag": RELEASED}])
    (step, *others) = site.plan(pair).steps
    assert (step.phase.name, step.title) == ("TAG", f"tag the image release-local-{step.title[-23:]}")
    assert [one.phase.name for one in others] == ["TEXT", "HOST", "HOST", "JOB", "DEFAULT"]
    assert not any(tag.startswith("release-") for tag in site.tags(pair.image.id)), "planning changes nothing"

    record = site.release(pair)
    tag = f"release-local-{record.id}"
    assert (record.steps[0].phase, record.steps[0].status) == ("TAG", "done")
    assert [call.model_dump() for call in record.steps[0].calls] == [
        {
            "service": "ecr",
            "operation": "PutImage",
            "parameters": {"repositoryName": REPOSITORY, "imageDigest": pair.image.id, "imageTag": tag},
        }
    ]
    assert tag in site.tags(pair.image.id)
    assert site.plan(pair).steps == []
    aws("ecr").batch_delete_image(repositoryName=REPOSITORY, imageIds=[{"imageTag": tag}])
    assert [one.phase.name for one in site.plan(pair).steps] == ["TAG"], "what is live is tagged again"
    site.pair()  # as the other tests have it


def test_an_image_that_cannot_be_tagged_changes_nothing(site, aws, monkeypatch):
    pair = site.pair()
    aws("ecr").batch_delete_image(repositoryName=REPOSITORY, imageIds=[{"imageTag": RELEASED}])
    plan, before = site.plan(pair), site.live()

    def refuse(**_parameters):
        from botocore.exceptions import ClientError

        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "PutImage")

    monkeypatch.setattr(site.cloud.client("ecr"), "put_image", refuse)
    with pytest.raises(ReleaseError, match=r"stopped at step 1 of 6, tag the image.*by API: perhaps repository"):
        run(plan, site.project, site.cloud, silent)
    assert {**site.live(), "files": {}} == {**before, "files": {}}
    assert site.terraform.read_text() == TERRAFORM % site.base
    site.pair()


def test_the_record_can_take_the_release_back_and_holds_no_secret(site):
    before = site.live()
    record = site.release(site.pair())
    text = record.model_dump_json()
    assert "secret-environment" not in text
    assert "c2VjcmV0" not in text
    assert "predicted" not in text

    for step in reversed(record.steps):
        for call in step.undo:
            method = {
                "ModifyLaunchTemplate": site.ec2.modify_launch_template,
                "UpdateComputeEnvironment": site.batch.update_compute_environment,
                "DeregisterJobDefinition": site.batch.deregister_job_definition,
            }[call.operation]
            method(**call.parameters)
    after = site.live()
    assert [one["DefaultVersion"] for one in after["templates"] if one["VersionNumber"] == 1] == [True]
    assert (
        after["environments"][0]["computeResources"]["launchTemplate"]
        == before["environments"][0]["computeResources"]["launchTemplate"]
    )
    active = site.batch.describe_job_definitions(jobDefinitionName=site.name, status="ACTIVE")["jobDefinitions"]
    assert [one["revision"] for one in active] == [1]


def test_a_second_release_of_the_same_pair_plans_nothing(site):
    pair = site.pair()
    site.release(pair)
    before = site.live()
    plan = site.plan(pair)
    assert plan.steps == []
    assert list(plan.versions.values()) == ["2"]
    assert site.live() == before


def test_a_new_image_alone_touches_the_job_definition_alone(site, aws):
    pair = site.pair()
    site.release(pair)
    site.register(["python", "-V"])  # somebody's revision with another image
    assert [step.phase.name for step in site.plan(pair).steps] == ["JOB"]


def test_dry_run_of_the_command_changes_nothing_and_shows_all(site, monkeypatch):
    from splitbake import build
    from splitbake.cli.release import command

    pair = site.pair()
    monkeypatch.setattr(build, "current", lambda project, cloud, half: getattr(pair, half))
    monkeypatch.setattr(Project, "standard", lambda project, half: "s")
    before = site.live()
    shown = CliRunner().invoke(command, ["--dry-run", "--manifest", str(site.project.manifest_path)])
    assert shown.exit_code == 0, shown.output
    assert f'+  image_id = "{pair.ami.id}" # set by the release' in shown.stdout
    assert "ec2 CreateLaunchTemplateVersion" in shown.stdout
    assert "version: 1 -> 2 (predicted)" in shown.stdout
    assert "secret" not in shown.output
    answer = CliRunner().invoke(command, ["--dry-run", "--json", "--manifest", str(site.project.manifest_path)])
    data = json.loads(answer.stdout)
    assert (data["terraform_diff_lines"], data["launch_template_version"], data["record"]) == (1, 2, None)
    assert len(data["steps"]) == 5
    unasked = CliRunner().invoke(command, ["--manifest", str(site.project.manifest_path)])
    assert isinstance(unasked.exception, UsageError), "nobody can be asked here"
    assert site.live() == before

    done = CliRunner().invoke(command, ["--yes", "--json", "--manifest", str(site.project.manifest_path)])
    data = json.loads(done.stdout)
    assert (data["status"], data["launch_template_version"]) == ("good", 2)
    assert data["record"] == site.stored()[0].key


def test_a_pair_that_every_target_names_but_no_record_is_written_down_once(site, monkeypatch):
    """Else no half could be released alone, and nothing promoted, where the state is new."""
    from splitbake import build
    from splitbake.cli.release import command

    pair = site.pair()
    site.release(pair)
    for key in site.store.keys("records/"):
        (site.folder / ".state" / key).unlink()
    monkeypatch.setattr(build, "current", lambda project, cloud, half: getattr(pair, half))
    monkeypatch.setattr(Project, "standard", lambda project, half: "s")
    arguments = ["--json", "--manifest", str(site.project.manifest_path)]
    answers = [json.loads(CliRunner().invoke(command, arguments).stdout) for _ in range(2)]
    assert [(one["status"], one["steps"]) for one in answers] == [("good", []), ("unchanged", [])]
    assert [one.key for one in site.stored()] == [answers[0]["record"]]


def test_of_two_that_release_one_plan_at_once_one_acts(site):
    pair = site.pair()
    plan = site.plan(pair)
    start = threading.Barrier(2)

    def act(_number: int) -> records.Record | SplitbakeError:
        start.wait()
        try:
            return run(plan, site.project, site.cloud, silent)
        except SplitbakeError as problem:
            return problem

    with ThreadPoolExecutor(2) as pool:
        good, refusal = sorted(pool.map(act, range(2)), key=lambda one: isinstance(one, SplitbakeError))
    assert isinstance(good, records.Record)
    assert isinstance(refusal, HeldError | ReleaseError)
    assert "is held by arn:" in str(refusal) or "no longer what is live" in str(refusal)
    assert [one.model_dump() for one in site.stored()] == [good.model_dump()]
    assert len(site.live()["templates"]) == 2
    assert site.definition()["revision"] == 2


def test_a_release_is_refused_while_another_one_acts(site):
    plan = site.plan(site.pair())
    before = site.live()
    with (
        held(site.store, "release/local", who="arn:of:bob", doing="release 1"),
        pytest.raises(HeldError, match=r"release/local is held by arn:of:bob .*: release 1"),
    ):
        run(plan, site.project, site.cloud, silent)
    assert site.stored() == []
    assert {**site.live(), "files": {}} == {**before, "files": {}}


def test_a_plan_that_another_release_has_made_untrue_is_refused(site):
    pair = site.pair()
    early = site.plan(pair)
    during: list[planner.ReleasePlan] = []
    record = run(site.plan(pair), site.project, site.cloud, lambda _line: during.append(site.plan(pair)))
    live = site.live()
    for plan in (early, *during):
        with pytest.raises(ReleaseError, match=r"another release of local was at work, by arn:.*: release ") as caught:
            run(plan, site.project, site.cloud, silent)
        assert "it plans anew" in caught.value.hint
    assert {**site.live(), "files": {}} == {**live, "files": {}}
    assert [one.id for one in site.stored()] == [record.id]
    run(site.plan(pair), site.project, site.cloud, silent)  # a new plan is carried out


def test_a_release_that_loses_its_lease_stops_before_the_next_step(site, monkeypatch):
    text = site.terraform.read_bytes()
    plan = site.plan(site.pair())
    monkeypatch.setattr("splitbake.release.run.held", functools.partial(held, life=1.5))

    def rob(line: str) -> None:
        if line == plan.steps[2].title:
            there = site.store.get("leases/release/local.json")
            other = there.value.replace(plan.id.encode(), b"of somebody else")
            site.store.put("leases/release/local.json", re.sub(rb'"holder": ".*"', b'"holder": "0"', other))
            time.sleep(1)

    with pytest.raises(ReleaseError, match=r"stopped at step 3 of 5.*taken over by arn:.* of somebody else.*as it was"):
        run(plan, site.project, site.cloud, rob)
    assert site.terraform.read_bytes() == text
    (failed,) = site.stored()
    assert [step.status for step in failed.steps] == ["done", "done", "failed", "planned", "planned"]
    environment = site.live()["environments"][0]["computeResources"]["launchTemplate"]
    assert environment["version"] == "1", "the third step did nothing"


def test_a_failure_in_the_middle_restores_text_and_says_how_to_go_on(site, monkeypatch):
    pair = site.pair()
    text = site.terraform.read_bytes()
    plan = site.plan(pair)
    batch = site.cloud.client("batch")

    def refuse(**parameters):
        from botocore.exceptions import ClientError

        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "RegisterJobDefinition")

    with monkeypatch.context() as patch:
        patch.setattr(batch, "register_job_definition", refuse)
        with pytest.raises(ReleaseError, match=r"stopped at step 4 of 5, register a revision") as caught:
            run(plan, site.project, site.cloud, silent)
    assert "goes on from what is live" in caught.value.hint
    assert site.terraform.read_bytes() == text
    (failed,) = site.stored()
    assert failed.status == "failed"
    assert failed.failure is not None
    assert [step.status for step in failed.steps] == ["done", "done", "done", "failed", "planned"]
    assert failed.steps[4].undo[0].parameters["DefaultVersion"] == "1"

    again = site.release(pair)
    assert again.status == "good"
    assert len(site.live()["templates"]) == 2, "the version of the failed release is used, none is made anew"
    assert site.terraform.read_text() == TERRAFORM % pair.ami.id


def test_an_interrupt_leaves_a_true_record_and_whole_text(site, monkeypatch):
    text = site.terraform.read_bytes()
    plan = site.plan(site.pair())

    def interrupt(**parameters):
        raise KeyboardInterrupt

    monkeypatch.setattr(site.cloud.client("ec2"), "create_launch_template_version", interrupt)
    with pytest.raises(InterruptError, match=r"interrupted. Changed by API: perhaps launch_template .* is as it was"):
        run(plan, site.project, site.cloud, silent)
    assert site.terraform.read_bytes() == text
    (record,) = site.stored()
    assert (record.status, record.steps[1].status) == ("failed", "failed")


@pytest.mark.parametrize("line", ["title of step 2", "done in"])
def test_an_interrupt_between_two_steps_leaves_a_true_record_and_whole_text(site, line):
    text = site.terraform.read_bytes()
    plan = site.plan(site.pair())

    def interrupt(said: str) -> None:
        if said == plan.steps[1].title or said.startswith(line):
            raise KeyboardInterrupt

    with pytest.raises(InterruptError, match=r"Changed by API: .* is as it was"):
        run(plan, site.project, site.cloud, interrupt)
    assert site.terraform.read_bytes() == text
    (record,) = site.stored()
    assert record.status == "failed"


def test_a_state_that_fails_in_the_middle_puts_text_back_too(site, monkeypatch):
    text = site.terraform.read_bytes()
    plan = site.plan(site.pair())
    put = FolderStore.put

    def fail_after_the_text_is_patched(store, key, value):
        if site.terraform.read_bytes() != text:
            raise StateError("the disk is full", hint="make room")
        put(store, key, value)

    monkeypatch.setattr(FolderStore, "put", fail_after_the_text_is_patched)
    with pytest.raises(
        ReleaseError, match=r"stopped at step 1 of 5.*disk is full.*by API: nothing.*as it was"
    ) as caught:
        run(plan, site.project, site.cloud, silent)
    assert "make room" in caught.value.hint
    assert site.terraform.read_bytes() == text
    assert len(site.live()["templates"]) == 1


def test_a_file_that_changed_after_planning_stops_the_release_before_any_call(site):
    plan = site.plan(site.pair())
    site.terraform.write_text("# edited\n" + site.terraform.read_text())
    live = {**site.live(), "files": {}}
    with pytest.raises(ReleaseError, match="has changed since it was read"):
        run(plan, site.project, site.cloud, silent)
    assert {**site.live(), "files": {}} == live


@pytest.mark.parametrize("kind", ["launch_template", "batch_compute_environment", "batch_job_definition"])
def test_a_missing_target_is_told_before_anything_changes(site, kind):
    data = site.manifest()
    for target in data["environments"]["local"]["release"]:
        if kind in target:
            target[kind] = "not-there"
    (site.folder / "splitbake.yaml").write_text(yaml.safe_dump(data))
    pair = site.pair()
    before = site.live()
    project = Project(site.folder / "splitbake.yaml")
    with pytest.raises(ReleaseError, match=r"there is no .*'not-there'"):
        planner.plan(project, project.cloud(), pair)
    assert site.live() == before


def test_an_ami_or_digest_that_is_gone_is_refused(site):
    pair = site.pair()
    gone = site.artifact("image", "sha256:" + "0" * 64, pair.image.location)
    site.verified(gone)
    with pytest.raises(ReleaseError, match="is gone from repository"):
        site.plan(Pair(pair.ami, gone))
    foreign = site.artifact("ami", site.base, "us-east-1")
    site.verified(foreign)
    with pytest.raises(ReleaseError, match="belongs to account"):
        site.plan(Pair(foreign, pair.image))
    gone = site.artifact("ami", "ami-0123456789abcdef0", "us-east-1")
    site.verified(gone)
    with pytest.raises(ReleaseError, match=f"{gone.id}, is gone from us-east-1"):
        site.plan(Pair(gone, pair.image))


def test_an_ami_that_no_host_can_boot_stops_at_the_host_and_never_meets_the_jobs(site):
    gone = site.ec2.copy_image(Name=site.name, SourceImageId=site.ami, SourceRegion="us-east-1")["ImageId"]
    site.ec2.get_waiter("image_available").wait(ImageIds=[gone], WaiterConfig={"Delay": 1})
    pair = Pair(site.artifact("ami", gone, "us-east-1"), site.pair().image)
    site.verified(pair.ami)
    plan = site.plan(pair)
    site.ec2.deregister_image(ImageId=gone)
    with pytest.raises(ReleaseError, match=r"stopped at step 3 of 5.*is INVALID: CLIENT_ERROR"):
        run(plan, site.project, site.cloud, silent)
    assert site.definition()["revision"] == 1
    assert site.release(site.pair()).status == "good", "a good AMI is the cure"


def test_smoke_runs_a_job_on_what_is_released(site):
    site.release(site.pair())
    lines: list[str] = []
    result = smoke(site.project, site.cloud, lines.append)
    assert (result.status, result.exit_code, result.result) == ("SUCCEEDED", 0, {"faces": 2})
    assert result.definition == f"{site.name}:2"
    assert result.log[0].startswith("hello smoke-1 http")
    assert "SUCCEEDED" in lines
    assert not any("X-Amz-Signature" in line for line in lines)


def test_a_failing_smoke_job_says_why(site):
    site.register(["python", "-c", "print('no model'); raise SystemExit(3)"])
    site.release(site.pair())
    with pytest.raises(ReleaseError, match=r"(?s)FAILED.*exit code 3.*no model"):
        smoke(site.project, site.cloud, silent)


def test_a_smoke_job_that_does_not_end_is_terminated(site):
    data = site.manifest()
    data["environments"]["local"]["smoke"]["within"] = "2 s"
    (site.folder / "splitbake.yaml").write_text(yaml.safe_dump(data))
    site.register(["python", "-c", "import time; time.sleep(60)"])
    site.release(site.pair())
    project = Project(site.folder / "splitbake.yaml")
    with pytest.raises(ReleaseError, match="has not ended in time"):
        smoke(project, project.cloud(), silent)
    deadline = 20
    while deadline and site.batch.list_jobs(jobQueue=site.name, jobStatus="RUNNING")["jobSummaryList"]:
        deadline -= 1
        time.sleep(0.5)
    (job,) = site.batch.list_jobs(jobQueue=site.name, jobStatus="FAILED")["jobSummaryList"]
    assert "gave up" in site.batch.describe_jobs(jobs=[job["jobId"]])["jobs"][0]["statusReason"]


def test_a_missing_queue_or_object_is_told_before_a_job_is_submitted(site):
    site.aws("s3").delete_object(Bucket=site.name, Key="in.txt")
    with pytest.raises(ReleaseError, match=r"in.txt does not exist"):
        smoke(site.project, site.cloud, silent)
    data = site.manifest()
    data["environments"]["local"]["smoke"]["queue"] = "not-there"
    (site.folder / "splitbake.yaml").write_text(yaml.safe_dump(data))
    project = Project(site.folder / "splitbake.yaml")
    with pytest.raises(ReleaseError, match="there is no Batch job queue 'not-there'"):
        smoke(project, project.cloud(), silent)
