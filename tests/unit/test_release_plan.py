"""What a release demands before it plans anything: verified, existing, the account's own."""

from __future__ import annotations

import boto3
import pytest
from botocore.stub import Stubber

from splitbake import artifact as artifacts
from splitbake.artifact import Artifact, Check, Report
from splitbake.cloud import Cloud
from splitbake.errors import CloudError, GuardError, ManifestError, ReleaseError, StateError, UsageError
from splitbake.manifest import Environment
from splitbake.project import Project
from splitbake.release import record as records
from splitbake.release.live import Live
from splitbake.release.plan import plan, require_ami, require_image, require_verified
from splitbake.release.targets import Pair, RootVolume
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


def test_an_available_ami_of_the_account_gives_its_root_volume():
    assert require_ami(describing(), artifact(), ACCOUNT) == RootVolume("/dev/xvda", 40)


@pytest.mark.parametrize(
    ("site", "what"),
    [
        (lambda: describing(State="pending"), "is pending, not available"),
        (lambda: describing(OwnerId="999999999999"), "belongs to account 999999999999"),
        (lambda: failing("ec2", "describe_images", "InvalidAMIID.NotFound"), "does not exist in environment 'prod'"),
    ],
)
def test_an_ami_that_cannot_be_used_is_refused(site, what):
    with pytest.raises(ReleaseError, match=what) as caught:
        require_ami(site(), artifact(), ACCOUNT)
    assert caught.value.hint


def test_a_refusal_of_aws_is_not_taken_for_a_missing_ami():
    with pytest.raises(CloudError, match="UnauthorizedOperation"):
        require_ami(failing("ec2", "describe_images", "UnauthorizedOperation"), artifact(), ACCOUNT)


@pytest.mark.parametrize("code", ["ImageNotFoundException", "RepositoryNotFoundException"])
def test_a_digest_that_is_gone_is_refused(code):
    with pytest.raises(ReleaseError, match=r"sha256:1 is not in repository 'app'"):
        require_image(failing("ecr", "describe_images", code), artifact("image", "sha256:1"), "app", ACCOUNT)


def test_only_a_verified_artifact_passes(tmp_path):
    store = FolderStore(tmp_path)
    with pytest.raises(ReleaseError, match="was not verified") as caught:
        require_verified(store, artifact(), "s")
    assert "splitbake verify ami" in caught.value.hint
    for passed, name in ((False, AMI), (True, AMI), (True, "ami-another")):
        checks = (Check(name="checksums", passed=passed), Check(name="mode", passed=True))
        named = {"half": "ami", "artifact": name, "fingerprint": "f", "standard": "s"}
        report = Report(**named, created="now", seconds=1.0, checks=checks)
        artifacts.save(store, report)
        if passed and name == AMI:
            require_verified(store, artifact(), "s")
        else:
            with pytest.raises(ReleaseError, match="was not verified" if passed else "verification: checksums"):
                require_verified(store, artifact(), "s")


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
        plan(project, cloud, Pair(artifact(), artifact("image", "sha256:1")))


def test_an_environment_without_targets_is_told(tmp_path):
    project, cloud = project_of(tmp_path, ACCOUNT)
    with pytest.raises(ReleaseError, match="environment 'prod' has no targets"):
        plan(project, cloud, Pair(artifact(), artifact("image", "sha256:1")))


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
        records.create(store, record)
    assert records.Record.model_validate_json(store.get(record.key) or b"") == record


def test_waiting_has_an_end():
    with pytest.raises(ReleaseError, match=r"not there \(waited 0 s\)"):
        Live(Cloud("prod", Environment(account=ACCOUNT, region="us-east-1")), pause=0).wait(
            lambda: False, 0, "not there"
        )
