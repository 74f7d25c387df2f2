"""Promotion between accounts that a small fake of EC2 and ECR keeps: what is copied, shared, waited for, refused."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from splitbake import build, ecr, verify
from splitbake.artifact import Artifact, Check, Report
from splitbake.cli.release import command
from splitbake.cloud import Cloud
from splitbake.contract import Need, Offer
from splitbake.ecr import Credentials
from splitbake.errors import CloudError, GuardError, ReleaseError, UsageError
from splitbake.oci.client import Repository
from splitbake.project import Project
from splitbake.release import promote, promote_ami, promote_image, sharing
from splitbake.release import record as records
from splitbake.release.live import Live
from splitbake.ui import silent

DEV, PROD = "111111111111", "222222222222"
MANIFEST = """\
version: 1
project: analysis
state: .state
models: {{files: [{{path: m/x, from: x}}], budget: 1 MB}}
ami: {{base: ami-0123456789abcdef0}}
image:
  {{base: "python:3.11-slim", include: [run.py], mounts: {{m: /m}}, command: [run], repository: app, budget: 1 MB}}
environments:
  dev: {{account: "111111111111", region: eu-west-1, release: [{{launch_template: gpu}}]}}
  prod: {{account: "{account}", region: {region}, promote: {promote}, release: [{{launch_template: gpu}}]}}
  far:
    {{account: "333333333333", region: eu-north-1, promote: {{from: prod}}, release: [{{launch_template: gpu}}]}}
"""
FINGERPRINT, DIGEST = f"sha256:{'f' * 64}", f"sha256:{'d' * 64}"
SOURCE, SNAPSHOT = "ami-00000000000000001", "snap-00000000000000001"


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "Operation")


class World:
    """Two accounts, as far as promotion asks them; ``caller`` is who calls."""

    def __init__(self) -> None:
        self.caller = PROD
        self.images: dict[tuple[str, str], dict[str, Any]] = {}
        self.repositories: dict[tuple[str, str], dict[str, str]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.tokens: dict[str, str] = {}
        self.templates = {"gpu"}
        self.becomes = "available"
        self.numbers = itertools.count(2)

    def add(self, account: str, region: str, ami: str, snapshot: str, **more: Any) -> None:
        volumes = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot, "VolumeSize": 8}}]
        described = {"ImageId": ami, "OwnerId": account, "BlockDeviceMappings": volumes, "users": set()}
        self.images[region, ami] = {**described, "State": "available", "RootDeviceName": "/dev/xvda", **more}

    def changes(self) -> list[str]:
        return [name for name, _ in self.calls]


class Client:
    """EC2, ECR and STS in one region; what changes something is written down."""

    def __init__(self, world: World, region: str) -> None:
        self.world, self.region = world, region

    def get_caller_identity(self) -> dict[str, str]:
        return {"Account": self.world.caller, "Arn": f"arn:aws:iam::{self.world.caller}:user/me"}

    def _visible(self) -> dict[str, Any]:
        return {
            ami: image
            for (region, ami), image in self.world.images.items()
            if region == self.region and self.world.caller in {image["OwnerId"], *image["users"]}
        }

    def describe_images(self, **asked: Any) -> dict[str, Any]:
        if "repositoryName" in asked:
            held = self.world.repositories.get((self.world.caller, self.region))
            wanted = asked["imageIds"][0]["imageDigest"]
            if held is None or wanted not in held:
                raise refusal("RepositoryNotFoundException" if held is None else "ImageNotFoundException")
            return {"imageDetails": [{"imageDigest": wanted, "imageSizeInBytes": 1, "imageStatus": held[wanted]}]}
        found = self._visible().get(asked["ImageIds"][0])
        if found is None:
            raise refusal("InvalidAMIID.NotFound")
        if found["State"] == "pending" and (self.region, found["ImageId"]) in self.world.images:
            found["looks"] = found.get("looks", 0) + 1
            if found["looks"] > 3:
                found["State"] = self.world.becomes
        return {"Images": [dict(found)]}

    def describe_snapshots(self, **asked: Any) -> dict[str, Any]:
        seen = {one["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"] for one in self._visible().values()}
        if not seen.issuperset(asked["SnapshotIds"]):
            raise refusal("InvalidSnapshot.NotFound")
        return {"Snapshots": []}

    def describe_repositories(self, **_asked: Any) -> dict[str, Any]:
        if (self.world.caller, self.region) not in self.world.repositories:
            raise refusal("RepositoryNotFoundException")
        return {"repositories": [{"repositoryUri": f"{self.world.caller}.{self.region}/app"}]}

    def create_repository(self, **_given: Any) -> dict[str, Any]:
        self.world.calls.append(("create_repository", {}))
        self.world.repositories[self.world.caller, self.region] = {}
        return {"repository": self.describe_repositories()["repositories"][0]}

    def copy_image(self, **given: Any) -> dict[str, Any]:
        self.world.calls.append(("copy_image", given))
        ami = self.world.tokens.get(given["ClientToken"])
        if ami is None:
            number = next(self.world.numbers)
            ami = self.world.tokens[given["ClientToken"]] = f"ami-{number:017d}"
            self.world.add(self.world.caller, self.region, ami, f"snap-{number:017d}", State="pending")
        return {"ImageId": ami}

    def get_paginator(self, name: str) -> Any:
        """Only launch templates are paged here; prod's has one version."""
        assert name == "describe_launch_template_versions"

        def paginate(**asked: Any) -> list[dict[str, Any]]:
            if asked["LaunchTemplateName"] not in self.world.templates:
                raise refusal("InvalidLaunchTemplateName.NotFoundException")
            version = {"LaunchTemplateId": "lt-1", "VersionNumber": 1, "DefaultVersion": True}
            return [{"LaunchTemplateVersions": [{**version, "LaunchTemplateData": {"ImageId": "ami-0"}}]}]

        return SimpleNamespace(paginate=paginate)

    def deregister_image(self, **given: Any) -> dict[str, Any]:
        self.world.calls.append(("deregister_image", given))
        del self.world.images[self.region, given["ImageId"]]
        return {}

    def __getattr__(self, name: str) -> Any:
        if name not in {"create_tags", "modify_image_attribute", "modify_snapshot_attribute", "delete_snapshot"}:
            raise AttributeError(name)

        def call(**given: Any) -> dict[str, Any]:
            self.world.calls.append((name, given))
            return {}

        return call


class Site:
    """A project whose dev has released a pair; ``promote`` of prod is what a test wants."""

    def __init__(self, folder: Any, world: World) -> None:
        self.folder, self.world = folder, world
        self.write()
        self.keep_pair()

    def write(self, *, account: str = PROD, region: str = "us-east-1", promote: str = "{from: dev}") -> None:
        text = MANIFEST.format(account=account, region=region, promote=promote)
        (self.folder / "splitbake.yaml").write_text(text)
        self.project = Project(self.folder / "splitbake.yaml")
        self.prod, self.dev = self.project.cloud("prod"), self.project.cloud("dev")

    def keep_pair(self, number: int = 1, **changes: Any) -> records.Record:
        """Write down a release of dev."""
        made = {"created": "then", "seconds": 1.0, "size": 1, "fingerprint": FINGERPRINT}
        offer = Offer(version=1, root="/opt/dl-models", architecture="x86_64", files={"m/x": "a" * 64})
        need = Need(version=1, architecture="x86_64", paths=("m/",), mounts={"m": "/m"})
        ami = Artifact(half="ami", id=SOURCE, location="eu-west-1", snapshots=(SNAPSHOT,), offers=offer, **made)
        image = Artifact(half="image", id=DIGEST, location=f"{DEV}.eu-west-1/app", needs=need, **made)
        text = {"started": "then", "versions": {}, "diff": "", "steps": (), "who": "me", "endpoint": None}
        where = {"environment": "dev", "account": DEV, "region": "eu-west-1"}
        fields = {"id": f"r{number}", "status": "good", "ami": ami, "image": image, **where, **text, **changes}
        record = records.Record(**fields)
        catalog = self.project.catalog(self.dev)
        for artifact in (record.ami, record.image):
            catalog.keep(artifact, instead_of=catalog.artifact(artifact.half, artifact.fingerprint))
            catalog.keep_report(report(artifact))
        records.create(catalog.store, record)
        return record

    def run(self) -> Any:
        return promote.run(promote.plan(self.project, self.prod), self.project, self.prod, silent)


def report(artifact: Artifact, *, passed: bool = True) -> Report:
    checks = (Check(name="mode", passed=passed),)
    named = {"half": artifact.half, "artifact": artifact.id, "fingerprint": artifact.fingerprint}
    return Report(**named, standard="s", created="then", seconds=1.0, checks=checks)


@pytest.fixture
def world(monkeypatch) -> World:
    world = World()
    world.add(DEV, "eu-west-1", SOURCE, SNAPSHOT, users={PROD})
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(Cloud, "client", lambda cloud, service: Client(world, cloud.environment.region))
    monkeypatch.setattr(Live.__init__, "__defaults__", (0,))

    def transport(route, source, uri, _say):
        world.calls.append(("transport", {"source": source.uri, "target": uri}))
        world.repositories[PROD, route.target.environment.region][source.id] = "ACTIVE"

    monkeypatch.setattr(promote_image, "_transport", transport)
    return world


@pytest.fixture
def site(tmp_path, world) -> Site:
    return Site(tmp_path, world)


def test_both_halves_are_copied_once_and_known_from_then_on(site, world):
    pair = site.run()
    assert world.changes() == [
        "create_repository", "transport", "copy_image", "create_tags", "modify_image_attribute",
        "modify_snapshot_attribute",
    ]  # fmt: skip
    assert (pair.ami.id, pair.ami.snapshots) == ("ami-00000000000000002", ("snap-00000000000000002",))
    assert (pair.ami.promoted_from, pair.ami.location) == (SOURCE, "us-east-1")
    assert pair.image.uri == f"{PROD}.us-east-1/app@{DIGEST}"
    assert pair.image.promoted_from == f"{DEV}.eu-west-1/app@{DIGEST}"
    assert pair.promoted_from == "records/dev/r1.json"
    catalog = site.project.catalog(site.prod)
    assert [catalog.report(one).passed for one in (pair.ami, pair.image)] == [True, True]

    world.calls.clear()
    again = promote.plan(site.project, site.prod)
    assert (again.pair, site.run(), world.calls) == (pair, pair, [])


def test_the_copy_is_tagged_and_the_next_in_the_chain_may_use_it(site, world):
    site.run()
    calls = dict(world.calls)
    tags = {tag["Key"]: tag["Value"] for tag in calls["create_tags"]["Tags"]}
    assert calls["create_tags"]["Resources"] == ["ami-00000000000000002", "snap-00000000000000002"]
    assert tags == {
        "splitbake:project": "analysis",
        "splitbake:fingerprint": FINGERPRINT,
        "splitbake:contract": "1",
        "splitbake:promoted-from": SOURCE,
    }
    assert calls["modify_image_attribute"]["LaunchPermission"] == {"Add": [{"UserId": "333333333333"}]}
    assert calls["copy_image"]["SourceRegion"] == "eu-west-1"
    assert calls["copy_image"]["CopyImageTags"] is True
    assert calls["copy_image"]["TagSpecifications"] == [
        {"ResourceType": kind, "Tags": calls["create_tags"]["Tags"]} for kind in ("image", "snapshot")
    ]
    assert len(calls["copy_image"]["ClientToken"]) <= 64


def test_within_an_account_the_tags_of_the_ami_come_along(site, world):
    """Given twice they might be refused."""
    world.caller = DEV
    site.write(account=DEV)
    route = promote.Route(site.project, site.dev, site.prod)
    call = promote_ami._copy_call(route, promote.plan(site.project, site.prod).ami.source, instead_of=None)
    assert [one["ResourceType"] for one in call.parameters["TagSpecifications"]] == ["snapshot"]


def test_planning_shows_the_calls_and_makes_none(site, world):
    promotion = promote.plan(site.project, site.prod)
    assert promotion.pair is None
    assert promotion.image.calls[0].startswith("ecr CreateRepository")
    assert promotion.image.calls[1] == f"copy {DEV}.eu-west-1/app@{DIGEST} to app:{'f' * 12}-{'d' * 12}"
    names = [call.split()[1] for call in promotion.ami.calls]
    assert names == ["CopyImage", "CreateTags", "ModifyImageAttribute", "ModifySnapshotAttribute"]
    assert world.calls == []


def test_a_copy_on_its_way_is_waited_for_and_not_made_twice(site, world, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(promote_ami, "_COPIED_WITHIN", -1)
        with pytest.raises(ReleaseError, match="ami-00000000000000002 is still being copied"):
            site.run()
    promotion = promote.plan(site.project, site.prod)
    assert promotion.ami.calls[0].split()[1] == "CreateTags"
    assert site.run().ami.id == "ami-00000000000000002"
    assert world.changes().count("copy_image") == 1


def test_a_copy_that_was_not_written_down_is_found_by_its_token(site, world):
    promotion = promote.plan(site.project, site.prod)
    route = promote.Route(site.project, site.dev, site.prod)
    lost = promote_ami._copy_call(route, promotion.ami.source, instead_of=None)
    site.prod.client("ec2").copy_image(**lost.parameters)
    assert site.run().ami.id == "ami-00000000000000002"


def test_a_failed_copy_is_removed_and_the_next_one_is_another(site, world):
    world.becomes = "failed"
    with pytest.raises(ReleaseError, match=r"copying ami-0+1 failed, ami-0+2 is failed: EC2 does not say why"):
        site.run()
    assert world.changes()[-2:] == ["deregister_image", "delete_snapshot"]
    world.becomes = "available"
    assert site.run().ami.id == "ami-00000000000000003"


def test_a_failed_copy_that_cannot_be_removed_is_told_beside_why_it_failed(site, world, monkeypatch):
    def refuse(self, **_given):
        raise refusal("UnauthorizedOperation")

    monkeypatch.setattr(Client, "deregister_image", refuse)
    world.becomes = "failed"
    with pytest.raises(ReleaseError, match=r"ami-0+2 is failed") as caught:
        site.run()
    assert "cleaning up failed as well: could not remove the failed copy ami-00000000000000002" in caught.value.hint


def test_a_copy_that_nobody_needs_is_named(site):
    """Another run had it that an earlier copy was lost, so its own has another token and another id."""
    theirs = site.run().ami
    route = promote.Route(site.project, site.dev, site.prod)
    ours = theirs.model_copy(update={"id": "ami-00000000000000009"})
    with pytest.raises(ReleaseError, match=f"as {theirs.id}") as caught:
        promote_ami._keep(route, ours, instead_of=None)
    assert f"the copy {ours.id} is not used" in caught.value.hint


def test_a_copy_that_was_deleted_behind_its_back_is_made_again(site, world):
    site.run()
    del world.images["us-east-1", "ami-00000000000000002"]
    assert promote.plan(site.project, site.prod).pair is None
    assert site.run().ami.id == "ami-00000000000000003"


def test_a_shared_ami_is_used_as_it_is(site, world):
    site.write(region="eu-west-1", promote="{from: dev, ami: share}")
    promotion = promote.plan(site.project, site.prod)
    assert (promotion.ami.there, promotion.ami.calls) == (None, ())
    pair = site.run()
    assert (pair.ami.id, pair.ami.promoted_from) == (SOURCE, SOURCE)
    assert "copy_image" not in world.changes()
    assert promote.plan(site.project, site.prod).pair == pair

    site.write(region="eu-west-1", promote="{from: dev, ami: copy}")
    assert site.run().ami.id == "ami-00000000000000002", "who wants a copy from now on gets one"


@pytest.mark.parametrize(("region", "ami"), [("us-east-1", "copy"), ("eu-west-1", "share")])
def test_an_ami_that_was_not_shared_says_who_shares_it(site, world, region, ami):
    site.write(region=region, promote=f"{{from: dev, ami: {ami}}}" if ami == "share" else "{from: dev}")
    world.images["eu-west-1", SOURCE]["users"] = set()
    with pytest.raises(ReleaseError, match=f"{SOURCE} of account {DEV}, eu-west-1 cannot be used by") as caught:
        promote.plan(site.project, site.prod)
    assert "splitbake verify ami --env dev with that account's credentials" in caught.value.hint


def test_an_ami_that_is_only_used_where_it_comes_from_is_shared_by_its_owner(site, world):
    site.write(region="eu-west-1", promote="{from: dev, ami: share}")
    pair = site.run()
    site.keep_pair(2, environment="prod", account=PROD, ami=pair.ami, image=pair.image)
    world.caller = "333333333333"
    with pytest.raises(ReleaseError, match=f"{SOURCE} of account {DEV}, eu-west-1 .*333333333333.*, or not") as caught:
        promote.plan(site.project, site.project.cloud("far"))
    assert "splitbake verify ami --env dev with that account's credentials" in caught.value.hint


def test_snapshots_that_were_not_shared_are_told_before_anything_is_copied(site, world, monkeypatch):
    monkeypatch.setattr(promote_ami, "_sees_snapshots", lambda live, snapshots: False)
    with pytest.raises(ReleaseError, match="or not shared"):
        promote.plan(site.project, site.prod)
    assert world.calls == []


def test_the_same_place_needs_nothing(site, world):
    world.caller = DEV
    site.write(account=DEV, region="eu-west-1")
    promotion = promote.plan(site.project, site.prod)
    assert (promotion.ami.way, promotion.image.way) == ("same", "same")
    assert promotion.pair.ami.id == SOURCE
    assert world.calls == []


def test_an_image_that_is_there_is_not_copied(site, world):
    world.repositories[PROD, "us-east-1"] = {DIGEST: "ACTIVE"}
    assert promote.plan(site.project, site.prod).image.calls == ()
    site.run()
    assert "transport" not in world.changes()


def test_an_archived_image_is_told(site, world):
    world.repositories[PROD, "us-east-1"] = {DIGEST: "ARCHIVED"}
    with pytest.raises(ReleaseError, match="but archived") as caught:
        promote.plan(site.project, site.prod)
    assert "restore it" in caught.value.hint


def test_an_image_that_arrives_with_another_digest_is_refused(site, world, monkeypatch):
    def transport(route, source, _uri, _say):
        world.repositories[PROD, "us-east-1"]["sha256:other"] = "ACTIVE"

    monkeypatch.setattr(promote_image, "_transport", transport)
    with pytest.raises(ReleaseError, match="did not arrive with its digest"):
        site.run()
    assert "copy_image" not in world.changes()


def test_the_last_good_release_counts_or_the_one_that_is_named(site):
    other = f"sha256:{'e' * 64}"
    made = site.keep_pair(2)
    site.keep_pair(3, image=made.image.model_copy(update={"id": other, "fingerprint": "g"}))
    site.keep_pair(4, status="failed")
    assert promote.plan(site.project, site.prod).image.source.id == other
    named = promote.plan(site.project, site.prod, "records/dev/r2.json")
    assert (named.record, named.image.source.id) == ("records/dev/r2.json", DIGEST)
    for key, told in (
        ("records/dev/r4.json", "it is failed"),
        ("records/dev/r9.json", "no record"),
        ("records/prod/r2.json", "no record records/prod/r2.json of environment 'dev'"),
    ):
        with pytest.raises(ReleaseError, match=told):
            promote.plan(site.project, site.prod, key)


def test_a_target_that_is_missing_is_told_before_anything_is_copied(site, world):
    world.templates.clear()
    with pytest.raises(ReleaseError, match="there is no launch template"):
        site.run()
    assert world.calls == []


def test_what_was_never_released_cannot_be_promoted(tmp_path, world):
    site = Site.__new__(Site)
    site.folder, site.world = tmp_path, world
    site.write()
    with pytest.raises(ReleaseError, match="no good release of 'dev'") as caught:
        promote.plan(site.project, site.prod)
    assert "--env dev" in caught.value.hint


def test_a_pair_whose_verification_failed_since_is_refused(site):
    record = records.last_good(site.project.store(site.dev), "dev")
    site.project.catalog(site.dev).keep_report(report(record.ami, passed=False))
    with pytest.raises(ReleaseError, match=r"records/dev/r1.json .* did not pass its verification: mode") as caught:
        promote.plan(site.project, site.prod)
    assert "splitbake release --env dev" in caught.value.hint


def test_a_pair_that_does_not_fit_is_refused_before_anything_is_copied(site, world):
    need = Need(version=2, architecture="arm64", paths=("m/", "other/"), mounts={"m": "/m"})
    made = site.keep_pair(2)
    site.keep_pair(3, image=made.image.model_copy(update={"needs": need}))
    with pytest.raises(ReleaseError, match=r"contract 2.*arm64.*other/") as caught:
        promote.plan(site.project, site.prod)
    assert caught.value.hint
    assert world.calls == []


def test_the_credentials_of_the_other_account_are_refused(site, world):
    world.caller = DEV
    with pytest.raises(GuardError, match=f"belongs to account {PROD}"):
        promote.plan(site.project, site.prod)


def test_an_environment_that_promotes_nothing_is_told(site):
    with pytest.raises(UsageError, match="promotes from no other"):
        promote.plan(site.project, site.dev)


def test_an_ami_is_shared_when_it_has_passed_and_by_its_owner_only(site, world):
    ami = records.last_good(site.project.store(site.dev), "dev").ami
    manifest = site.project.manifest
    sharing.share_verified(manifest, site.dev, ami, report(ami, passed=False), silent)
    shared = ami.model_copy(update={"promoted_from": ami.uri})
    sharing.share_verified(manifest, site.dev, shared, report(ami), silent)
    sharing.share_verified(manifest, site.project.cloud("far"), ami, report(ami), silent)
    assert world.calls == []
    sharing.share_verified(manifest, site.dev, ami, report(ami), silent)
    (image, given), (snapshot, _) = world.calls
    assert (image, snapshot) == ("modify_image_attribute", "modify_snapshot_attribute")
    assert given["LaunchPermission"] == {"Add": [{"UserId": PROD}]}


@pytest.mark.parametrize("half", ["ami", "image"])
def test_verifying_shares_the_ami_and_only_that(site, world, monkeypatch, half):
    world.caller = DEV
    artifact = getattr(records.last_good(site.project.store(site.dev), "dev"), half)
    found = report(artifact).model_copy(update={"created": "2026-11-21T12:00:00+00:00"})
    monkeypatch.setattr(build, "current", lambda project, cloud, half: artifact)
    monkeypatch.setattr(f"splitbake.verify.{half}.verify", lambda *_args, **_options: found)
    assert verify.verify(site.project, site.dev, half, junit=None, say=silent) == found
    assert site.project.catalog(site.dev).report(artifact) == found
    shared = ["modify_image_attribute", "modify_snapshot_attribute"] if half == "ami" else []
    assert world.changes() == shared


@pytest.mark.parametrize("refused", ["it answered 403 DENIED not you", "it answered 401 UNAUTHORIZED"])
def test_a_repository_that_may_not_be_read_says_which_policy_opens_it(site, world, monkeypatch, refused):
    monkeypatch.undo()
    route = promote.Route(site.project, site.dev, site.prod)
    source = records.last_good(site.project.store(site.dev), "dev").image
    seen = []

    def manifest(repository, digest):
        seen.append((repository.uri, digest))
        raise CloudError(refused)

    with monkeypatch.context() as patch:
        patch.setattr(ecr, "credentials", lambda cloud: Credentials(f"{cloud.environment.account}.ecr", "c2VjcmV0"))
        patch.setattr(Repository, "manifest", manifest)
        with pytest.raises(ReleaseError, match=refused) as caught:
            promote_image._transport(route, source, "target/app", silent)
        assert (
            f"the policy of repository app in account {DEV}, eu-west-1 must allow account {PROD}" in caught.value.hint
        )
        patch.setattr(Repository, "manifest", lambda *_: None)
        with pytest.raises(ReleaseError, match="is gone"):
            promote_image._transport(route, source, "target/app", silent)
    assert seen == [(source.location, DIGEST)]


def test_a_repository_is_made_there_as_the_manifest_has_it(site, world):
    path = site.folder / "splitbake.yaml"
    path.write_text(path.read_text().replace("repository: app,", "repository: app, ecr: {immutable: true, keep: 20},"))
    site.project = Project(path)
    create, expire, _ = promote.plan(site.project, site.prod).image.calls
    assert create == 'ecr CreateRepository {"repositoryName": "app", "imageTagMutability": "IMMUTABLE"}'
    assert expire.startswith('ecr PutLifecyclePolicy {"repositoryName": "app", "lifecyclePolicyText": ')


def test_a_dry_run_shows_what_is_missing_and_changes_nothing(site, world):
    arguments = ["--manifest", str(site.folder / "splitbake.yaml"), "--env", "prod", "--dry-run"]
    shown = CliRunner().invoke(command, arguments, catch_exceptions=False).stdout
    assert "from environment dev, records/dev/r1.json" in shown
    assert "ec2 CopyImage" in shown
    assert f"copy {DEV}.eu-west-1/app@{DIGEST}" in shown
    assert "The targets are planned when this is done." in shown
    data = json.loads(CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert data["promoted"]["ami"]["artifact"] is None
    assert (data["promoted"]["record"], data["status"]) == ("records/dev/r1.json", "planned")
    assert world.calls == []


def test_nothing_is_copied_where_nobody_can_be_asked(site, world):
    arguments = ["--manifest", str(site.folder / "splitbake.yaml"), "--env", "prod"]
    outcome = CliRunner().invoke(command, arguments)
    assert isinstance(outcome.exception, UsageError)
    assert world.calls == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["image", "--env", "prod"], "promotes whole pairs"),
        (["--env", "dev", "--record", "records/dev/r1.json"], "promotes from no other"),
    ],
)
def test_what_a_promotion_does_not_take_is_told(site, world, arguments, told):
    world.caller = DEV if "dev" in arguments else PROD
    outcome = CliRunner().invoke(command, ["--manifest", str(site.folder / "splitbake.yaml"), *arguments])
    assert isinstance(outcome.exception, UsageError)
    assert told in outcome.exception.message


def test_accounts_of_the_manifest_get_the_ami_as_well(site, world):
    ami = records.last_good(site.project.store(site.dev), "dev").ami
    manifest = site.project.manifest
    wanted = manifest.model_copy(update={"ami": manifest.ami.model_copy(update={"share": ("9" * 12, DEV)})})
    sharing.share_verified(wanted, site.dev, ami, report(ami), silent)
    (_, given), (_, permission) = world.calls
    assert given["LaunchPermission"] == {"Add": [{"UserId": account} for account in sorted([PROD, "9" * 12])]}
    assert permission["UserIds"] == sorted([PROD, "9" * 12])
