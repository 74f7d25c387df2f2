"""What a release demands before it plans anything: verified, existing, the account's own."""

from __future__ import annotations

import datetime
import re

import boto3
import pytest
from botocore.stub import Stubber

from splitbake.artifact import Artifact, Check, Report
from splitbake.catalog import Catalog
from splitbake.cloud import Cloud
from splitbake.contract import Need, Offer
from splitbake.errors import CloudError, GuardError, ManifestError, ReleaseError, StateError, UsageError
from splitbake.manifest import Environment
from splitbake.project import Project
from splitbake.release import demands
from splitbake.release import record as records
from splitbake.release.live import Live
from splitbake.release.plan import plan
from splitbake.release.targets import DataVolume, Pair, RootVolume
from splitbake.state import FolderStore

ACCOUNT = "123456789012"
AMI = "ami-00000000000000001"
DESCRIBED = {
    "ImageId": AMI,
    "State": "available",
    "OwnerId": ACCOUNT,
    "RootDeviceName": "/dev/xvda",
    "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 40}}],
}


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


def artifact(half="ami", name=AMI) -> Artifact:
    return Artifact(half=half, id=name, location="registry/app", fingerprint="f", created="now", seconds=1.0, size=1)


def live(service: str, fill) -> Live:
    client = boto3.client(service, region_name="us-east-1")
    stubber = Stubber(client)
    fill(stubber)
    stubber.activate()
    environment = Environment(account=ACCOUNT, region="us-east-1")
    return Live(Cloud("prod", environment, {service: client}), pause=0)


def describing(**changes) -> Live:
    return live("ec2", lambda stub: stub.add_response("describe_images", {"Images": [{**DESCRIBED, **changes}]}))


def failing(service: str, method: str, code: str) -> Live:
    return live(service, lambda stub: stub.add_client_error(method, code))


def test_the_volumes_are_those_of_the_ami():
    data = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 99, "SnapshotId": "snap-2"}}
    instance_store = {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}
    (root,) = DESCRIBED["BlockDeviceMappings"]
    found = demands.volumes(describing(BlockDeviceMappings=[instance_store, data, root]), artifact(), initialize=300)
    assert found == (RootVolume("/dev/xvda", 40), (DataVolume("/dev/sdf", "snap-2", 99, 300),))


@pytest.mark.parametrize(
    ("site", "what"),
    [
        (lambda: describing(State="pending"), "is pending"),
        (lambda: describing(OwnerId="999999999999"), "belongs to account 999999999999"),
        (lambda: describing(DeprecationTime="2020-01-01T00:00:00.000Z"), "is deprecated since 2020"),
        (lambda: failing("ec2", "describe_images", "InvalidAMIID.NotFound"), "is gone from us-east-1"),
    ],
)
def test_an_ami_that_cannot_be_used_is_refused(site, what):
    with pytest.raises(ReleaseError, match=f"{AMI} cannot be released to 'prod': .*{what}") as caught:
        demands.require_usable(site().cloud, artifact(), "app")
    assert caught.value.hint


def test_a_shared_ami_belongs_to_another_account_and_may():
    shared = artifact().model_copy(update={"promoted_from": AMI})
    demands.require_usable(describing(OwnerId="999999999999").cloud, shared, "app")


def test_a_refusal_of_aws_is_not_taken_for_a_missing_ami():
    with pytest.raises(CloudError, match="UnauthorizedOperation"):
        demands.require_usable(failing("ec2", "describe_images", "UnauthorizedOperation").cloud, artifact(), "app")


def test_a_repository_that_is_gone_is_told():
    cloud = failing("ecr", "describe_repositories", "RepositoryNotFoundException").cloud
    with pytest.raises(ReleaseError, match=r"is gone: there is no repository app"):
        demands.require_usable(cloud, artifact("image", "sha256:1"), "app")


def report(name: str, *, passed: bool = True, standard: str = "s") -> Report:
    checks = (Check(name="checksums", passed=passed), Check(name="mode", passed=True))
    named = {"half": "ami", "artifact": name, "fingerprint": "f", "standard": standard}
    return Report(**named, created="now", seconds=1.0, checks=checks)


def test_only_a_verified_artifact_passes(tmp_path):
    catalog = Catalog(FolderStore(tmp_path), ACCOUNT, "us-east-1")
    with pytest.raises(ReleaseError, match="was not verified in account") as caught:
        demands.require_verified(catalog, artifact())
    assert "splitbake verify ami" in caught.value.hint
    for kept, told in (
        (report("ami-another"), "was not verified by what the manifest demands"),
        (report(AMI, passed=False), "verification: checksums"),
        (report(AMI, standard="laxer"), "was not verified by what the manifest demands"),
    ):
        catalog.keep_report(kept)
        with pytest.raises(ReleaseError, match=told):
            demands.require_verified(catalog, artifact(), "s")
    assert demands.require_verified(catalog, artifact()).standard == "laxer", "any will do where none is named"
    catalog.keep_report(report(AMI))
    assert demands.require_verified(catalog, artifact(), "s").passed


OFFER = Offer(version=1, root="/opt/dl-models", architecture="x86_64", files={"m/x": "a" * 64})
NEED = Need(version=1, architecture="x86_64", paths=("m/",), mounts={"m": "/m"})


def pair(offers: Offer | None = OFFER, needs: Need | None = NEED) -> Pair:
    image = artifact("image", "sha256:1")
    return Pair(artifact().model_copy(update={"offers": offers}), image.model_copy(update={"needs": needs}))


def test_a_pair_that_fits_tells_what_both_say():
    assert demands.require_fit(pair()) == (OFFER, NEED)


@pytest.mark.parametrize(
    ("wrong", "told", "hint"),
    [
        (pair(offers=None), "the ami does not say what it offers", "ami --force .*, then release both halves"),
        (pair(needs=None), "the image does not say what it needs", "image --force .*, then release both halves"),
        (pair(needs=Need(version=2, architecture="arm64", paths=("m/y", "n/"), mounts={})),
         "contract 2, the AMI offers 1; .*arm64.*; .* m/y, .*; .* n/, ", "the other half"),
    ],
)  # fmt: skip
def test_a_pair_that_does_not_fit_names_every_difference(wrong, told, hint):
    with pytest.raises(ReleaseError, match=told) as caught:
        demands.require_fit(wrong)
    assert re.search(hint, caught.value.hint)


MANIFEST = """\
version: 1
project: analysis
state: .state
models: {files: [{path: m/x, from: x}], budget: 1 MB}
ami: {base: ami-0123456789abcdef0}
image:
  {base: "python:3.11-slim", include: [run.py], mounts: {m: /m}, command: [run], repository: app, budget: 1 MB}
environments:
  prod: {account: "123456789012", region: us-east-1}
"""


ATTRIBUTE = "resource: x.y, attribute: z, set: ami.id"


def project_of(tmp_path, account: str) -> tuple[Project, Cloud]:
    (tmp_path / "splitbake.yaml").write_text(MANIFEST)
    project = Project(tmp_path / "splitbake.yaml")
    cloud = project.cloud()
    client = boto3.client("sts", region_name="us-east-1")
    stubber = Stubber(client)
    arn = f"arn:aws:iam::{account}:user/me"
    stubber.add_response("get_caller_identity", {"Account": account, "Arn": arn, "UserId": "U"})
    stubber.activate()
    cloud.__dict__["_clients"]["sts"] = client
    return project, cloud


def test_the_wrong_account_is_told_before_anything_is_read(tmp_path):
    project, cloud = project_of(tmp_path, "999999999999")
    with pytest.raises(GuardError, match="belongs to account 123456789012"):
        plan(project, cloud, pair())


def test_an_environment_without_targets_is_told(tmp_path):
    project, cloud = project_of(tmp_path, ACCOUNT)
    with pytest.raises(ReleaseError, match="environment 'prod' has no targets"):
        plan(project, cloud, pair())


def test_an_environment_is_chosen_by_its_name_alone(tmp_path):
    project, cloud = project_of(tmp_path, ACCOUNT)
    assert project.cloud() == cloud
    for name in ("", "staging"):
        with pytest.raises(UsageError, match="has no environment"):
            project.cloud(name)


@pytest.mark.parametrize(
    ("items", "twice"),
    [
        ("[{launch_template: a}, {launch_template: b}]", ""),
        ("[{launch_template: a}, {launch_template: a}]", "launch_template a"),
        ("[{batch_compute_environment: a}, {batch_compute_environment: a, pin: true}]", "batch_compute_environment a"),
        (f"[{{terraform: a.tf, {ATTRIBUTE}}}, {{terraform: b.tf, {ATTRIBUTE}}}]", ""),
        (f"[{{terraform: a.tf, {ATTRIBUTE}}}, {{terraform: a.tf, {ATTRIBUTE}}}]", "terraform x.y.z"),
    ],
)
def test_a_target_has_one_owner(tmp_path, items, twice):
    path = tmp_path / "splitbake.yaml"
    path.write_text(MANIFEST.replace("region: us-east-1}", f"region: us-east-1, release: {items}}}"))
    if not twice:
        assert len(Project(path).manifest.environments["prod"].release) == 2
        return
    with pytest.raises(ManifestError, match=f"yaml:9:.*listed again: {twice}"):
        _ = Project(path).manifest


def test_a_record_is_never_written_over(tmp_path):
    record = records.Record(
        id="r1",
        status="started",
        environment="prod",
        account=ACCOUNT,
        region="us-east-1",
        endpoint=None,
        who="arn:aws:iam::123456789012:user/me",
        started="now",
        ami=artifact(),
        image=artifact("image", "sha256:1"),
        steps=(),
        versions={},
        diff="",
    )
    store = FolderStore(tmp_path)
    records.create(store, record)
    with pytest.raises(StateError, match=r"records/prod/r1\.json"):
        records.create(store, record.model_copy(update={"who": "somebody else"}))
    assert records.read(store, record.key) == record


def test_a_damaged_record_is_told(tmp_path):
    store = FolderStore(tmp_path)
    store.put("records/prod/r1.json", b"{}")
    with pytest.raises(StateError, match=r"records/prod/r1\.json in the state is damaged") as caught:
        records.last_good(store, "prod")
    assert caught.value.hint.startswith("remove it, then release")  # which is no way to begin with: a release reads it


def test_waiting_has_an_end():
    with pytest.raises(ReleaseError, match=r"not there \(waited 0 s\)"):
        Live(Cloud("prod", Environment(account=ACCOUNT, region="us-east-1")), pause=0).wait(
            lambda: False, 0, "not there"
        )


@pytest.mark.parametrize("ahead", [-5, 0, 3600])
def test_a_new_release_sorts_after_every_other_whatever_the_clocks_say(tmp_path, ahead):
    store = FolderStore(tmp_path)
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ahead)
    older = f"{moment:%Y%m%dT%H%M%SZ}-ffffff"
    store.put(f"records/prod/{older}.json", b"{}")
    new = records.new_id(store, "prod")
    assert new > older
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}", new)
    assert records.new_id(store, "dev") < f"{datetime.datetime.now(datetime.UTC).year + 1}"
