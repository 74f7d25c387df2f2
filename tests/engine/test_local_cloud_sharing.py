"""AMIs across accounts and regions of the local cloud: shared, copied, disabled and deprecated, as on AWS."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from splitbake.local.engine import connect

pytestmark = pytest.mark.engine

PROD, THIRD, ELSEWHERE = "222222222222", "333333333333", "eu-west-1"
QUICK = {"Delay": 0.2, "MaxAttempts": 300}
IMAGE_TAG, SNAPSHOT_TAG = {"Key": "of", "Value": "image"}, {"Key": "of", "Value": "snapshot"}


@pytest.fixture(scope="module")
def home(aws):
    return aws("ec2")


@pytest.fixture(scope="module")
def prod(aws):
    return aws("ec2", PROD)


@pytest.fixture(scope="module")
def builder(cloud, home, base_ami):
    """An instance with a file that tells it from others."""
    instance = home.run_instances(ImageId=base_ami, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    home.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig=QUICK)
    assert shell(cloud, instance, "echo weights >/opt/model; cat /opt/model") == "weights"
    yield instance
    home.terminate_instances(InstanceIds=[instance])


@pytest.fixture
def ami(home, builder, request):
    made = home.create_image(
        InstanceId=builder,
        Name=request.node.name,
        Description="what it is",
        TagSpecifications=[
            {"ResourceType": "image", "Tags": [IMAGE_TAG]},
            {"ResourceType": "snapshot", "Tags": [SNAPSHOT_TAG]},
        ],
    )["ImageId"]
    available(home, made)
    yield made
    if home.describe_images(ImageIds=[made], IncludeDisabled=True)["Images"]:
        home.deregister_image(ImageId=made, DeleteAssociatedSnapshots=True)


def available(ec2, ami):
    ec2.get_waiter("image_available").wait(ImageIds=[ami], WaiterConfig=QUICK)


def shell(cloud, instance, script):
    done = connect().containers.get(f"splitbake-{cloud.id}-{instance}").exec_run(["sh", "-c", script])
    assert done.exit_code == 0, done.output
    return done.output.decode().strip()


def boots(cloud, ec2, ami):
    """Start an instance of ``ami`` and return what its file says."""
    instance = ec2.run_instances(ImageId=ami, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    try:
        return shell(cloud, instance, "cat /opt/model")
    finally:
        ec2.terminate_instances(InstanceIds=[instance])


def described(ec2, ami, **options):
    return ec2.describe_images(ImageIds=[ami], **options)["Images"][0]


def snapshot_of(ec2, ami):
    return described(ec2, ami)["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]


def share(ec2, ami, account=PROD, *, storage=True):
    ec2.modify_image_attribute(ImageId=ami, LaunchPermission={"Add": [{"UserId": account}]})
    if storage:
        ec2.modify_snapshot_attribute(
            SnapshotId=snapshot_of(ec2, ami),
            Attribute="createVolumePermission",
            OperationType="add",
            UserIds=[account],
        )


def listed(ec2, **options):
    return {one["ImageId"] for one in ec2.describe_images(**options)["Images"]}


def test_an_ami_that_is_not_shared_is_not_there_for_others(prod, ami):
    """EC2 error codes: AuthFailure for "trying to use an AMI for which you do not have permissions"."""
    with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
        prod.describe_images(ImageIds=[ami])
    with pytest.raises(ClientError, match=r"AuthFailure.*Not authorized for images"):
        prod.run_instances(ImageId=ami, MinCount=1, MaxCount=1)
    with pytest.raises(ClientError, match="AuthFailure"):
        prod.copy_image(SourceImageId=ami, SourceRegion="us-east-1", Name="stolen")
    assert ami not in listed(prod)


def test_a_shared_ami_is_seen_and_boots_in_the_other_account(cloud, aws, home, prod, ami):
    """DescribeImages: "private images owned by other accounts for which you have explicit launch permissions"."""
    share(home, ami, storage=False)
    permissions = home.describe_image_attribute(ImageId=ami, Attribute="launchPermission")["LaunchPermissions"]
    assert permissions == [{"UserId": PROD}]
    image = described(prod, ami)
    assert (image["OwnerId"], image["State"]) == (cloud.account, "available")
    assert ami in listed(prod)
    assert listed(prod, ExecutableUsers=["self"]) == {ami}
    assert ami in listed(prod, Owners=[cloud.account])
    assert ami not in listed(prod, Owners=["self"])
    assert boots(cloud, prod, ami) == "weights"
    for stranger in (aws("ec2", THIRD), aws("ec2", PROD, ELSEWHERE)):
        with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
            stranger.describe_images(ImageIds=[ami])
    home.modify_image_attribute(ImageId=ami, Attribute="launchPermission", OperationType="remove", UserIds=[PROD])
    with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
        prod.describe_images(ImageIds=[ami])


def test_tags_are_not_shared(home, prod, ami):
    """EC2 user guide, sharing AMIs: "user-defined tags that you attach to a shared AMI are available only to" you."""
    share(home, ami)
    assert described(home, ami)["Tags"] == [IMAGE_TAG]
    assert described(prod, ami).get("Tags", []) == []
    assert ami not in listed(prod, Filters=[{"Name": "tag:of", "Values": ["image"]}])
    prod.create_tags(Resources=[ami], Tags=[{"Key": "mine", "Value": "too"}])
    assert described(prod, ami)["Tags"] == [{"Key": "mine", "Value": "too"}]
    assert described(home, ami)["Tags"] == [IMAGE_TAG]


def test_only_the_owner_changes_an_ami(home, prod, ami, base_ami):
    share(home, ami)
    calls = [
        lambda: prod.modify_image_attribute(ImageId=ami, LaunchPermission={"Add": [{"UserId": THIRD}]}),
        lambda: prod.describe_image_attribute(ImageId=ami, Attribute="launchPermission"),
        lambda: prod.disable_image(ImageId=ami),
        lambda: prod.enable_image_deprecation(ImageId=ami, DeprecateAt=datetime.now(UTC) + timedelta(days=1)),
        lambda: prod.deregister_image(ImageId=ami),
        lambda: home.deregister_image(ImageId=base_ami),
    ]
    for call in calls:
        with pytest.raises(ClientError, match=r"AuthFailure.*Not authorized for image:"):
            call()
    assert described(home, ami)["State"] == "available"


def test_a_shared_snapshot_is_seen_by_the_other_account(home, prod, ami):
    snapshot = snapshot_of(home, ami)
    with pytest.raises(ClientError, match=r"InvalidSnapshot\.NotFound"):
        prod.describe_snapshots(SnapshotIds=[snapshot])
    share(home, ami)
    found = prod.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]
    assert found["OwnerId"] != PROD
    assert found.get("Tags", []) == []
    mine = {one["SnapshotId"] for one in prod.describe_snapshots(OwnerIds=["self"])["Snapshots"]}
    assert snapshot not in mine
    permissions = home.describe_snapshot_attribute(SnapshotId=snapshot, Attribute="createVolumePermission")
    assert permissions["CreateVolumePermissions"] == [{"UserId": PROD}]


def test_a_copy_needs_the_storage_as_well(home, prod, ami):
    """EC2 user guide, copy an AMI: "the owner … must grant you read permissions for the storage that backs the AMI"."""
    share(home, ami, storage=False)
    with pytest.raises(ClientError, match=r"InvalidRequest.*permission to access the storage of this ami"):
        prod.copy_image(SourceImageId=ami, SourceRegion="us-east-1", Name="no storage")


def test_a_shared_ami_is_copied_into_another_account_and_region(cloud, aws, home, ami):
    """CopyImage: "initiated in the destination Region"; "we don't copy launch permissions, user-defined tags"."""
    share(home, ami)
    there = aws("ec2", PROD, ELSEWHERE)
    copy = there.copy_image(SourceImageId=ami, SourceRegion=cloud.region, Name="promoted")["ImageId"]
    assert described(there, copy)["State"] == "pending"
    with pytest.raises(ClientError, match=r"InvalidAMIID\.Unavailable"):
        there.run_instances(ImageId=copy, MinCount=1, MaxCount=1)
    available(there, copy)
    image, source = described(there, copy), described(home, ami)
    assert (image["OwnerId"], image["SourceImageId"], image["SourceImageRegion"]) == (PROD, ami, cloud.region)
    assert image.get("Tags", []) == []
    for same in ("Architecture", "RootDeviceName", "RootDeviceType", "VirtualizationType", "Description"):
        assert image[same] == source[same]
    copied, original = image["BlockDeviceMappings"][0]["Ebs"], source["BlockDeviceMappings"][0]["Ebs"]
    assert copied["SnapshotId"] != original["SnapshotId"]
    assert copied["VolumeSize"] == original["VolumeSize"]
    snapshot = there.describe_snapshots(SnapshotIds=[copied["SnapshotId"]])["Snapshots"][0]
    assert (snapshot["OwnerId"], snapshot["State"]) == (PROD, "completed")
    assert there.describe_image_attribute(ImageId=copy, Attribute="launchPermission")["LaunchPermissions"] == []
    assert copy not in listed(aws("ec2", PROD))
    home.deregister_image(ImageId=ami, DeleteAssociatedSnapshots=True)
    assert boots(cloud, there, copy) == "weights"
    there.deregister_image(ImageId=copy, DeleteAssociatedSnapshots=True)
    assert connect().images.list(filters={"label": f"splitbake.ami={ami}"}) == []


def test_a_copy_can_go_before_its_source(cloud, aws, home, ami):
    """EC2 user guide: "you can change or deregister the source AMI with no effect on the target AMI. The reverse"."""
    there = aws("ec2", region=ELSEWHERE)
    of_cloud = {"label": f"splitbake.cloud={cloud.id}"}
    before = connect().images.list(all=True, filters=of_cloud)
    copy = there.copy_image(SourceImageId=ami, SourceRegion=cloud.region, Name="short")["ImageId"]
    available(there, copy)
    assert connect().images.list(all=True, filters=of_cloud) == before
    there.deregister_image(ImageId=copy, DeleteAssociatedSnapshots=True)
    assert boots(cloud, home, ami) == "weights"


def test_tags_of_a_copy_are_those_asked_for(aws, home, prod, cloud, ami):
    there = aws("ec2", region=ELSEWHERE)
    given = [
        {"ResourceType": "image", "Tags": [{"Key": "new", "Value": "image"}]},
        {"ResourceType": "snapshot", "Tags": [{"Key": "new", "Value": "snapshot"}]},
    ]
    source = {"SourceImageId": ami, "SourceRegion": cloud.region}
    copy = there.copy_image(Name="tagged", CopyImageTags=True, TagSpecifications=given, **source)["ImageId"]
    tags = {one["Key"]: one["Value"] for one in described(there, copy)["Tags"]}
    assert tags == {"of": "image", "new": "image"}
    snapshot = there.describe_snapshots(SnapshotIds=[snapshot_of(there, copy)])["Snapshots"][0]
    assert snapshot["Tags"] == [{"Key": "new", "Value": "snapshot"}]
    share(home, ami)
    foreign = prod.copy_image(Name="tagged", CopyImageTags=True, **source)["ImageId"]
    assert described(prod, foreign).get("Tags", []) == []
    there.deregister_image(ImageId=copy)
    prod.deregister_image(ImageId=foreign)


def test_a_client_token_makes_one_copy_and_a_name_is_taken_once(aws, cloud, ami):
    there = aws("ec2", region=ELSEWHERE)
    source = {"SourceImageId": ami, "SourceRegion": cloud.region}
    copy = there.copy_image(Name="once", ClientToken="t1", **source)["ImageId"]
    assert there.copy_image(Name="once", ClientToken="t1", **source)["ImageId"] == copy
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        there.copy_image(Name="twice", ClientToken="t1", **source)
    with pytest.raises(ClientError, match=r"InvalidAMIName\.Duplicate"):
        there.copy_image(Name="once", **source)
    with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
        there.copy_image(Name="other", SourceImageId="ami-0123456789abcdef0", SourceRegion=cloud.region)
    with pytest.raises(ClientError, match="DryRunOperation"):
        there.copy_image(Name="dry", DryRun=True, **source)
    there.deregister_image(ImageId=copy)


def test_an_ami_of_amazon_can_be_copied(cloud, aws, home, base_ami):
    there = aws("ec2", PROD, ELSEWHERE)
    copy = there.copy_image(SourceImageId=base_ami, SourceRegion=cloud.region, Name="frozen base")["ImageId"]
    available(there, copy)
    assert described(there, copy)["OwnerId"] == PROD
    there.deregister_image(ImageId=copy)
    assert described(home, base_ami)["State"] == "available"
    assert connect().images.get(cloud.instance_image)


def test_a_disabled_ami_is_hidden_and_no_longer_shared(home, prod, ami):
    """DisableImage: "removes all launch permissions", "does not appear in DescribeImages API calls by default"."""
    share(home, ami)
    home.disable_image(ImageId=ami)
    assert ami not in listed(home, Owners=["self"])
    assert described(home, ami, IncludeDisabled=True)["State"] == "disabled"
    with pytest.raises(ClientError, match=r"InvalidAMIID\.Unavailable"):
        home.run_instances(ImageId=ami, MinCount=1, MaxCount=1)
    with pytest.raises(ClientError, match=r"InvalidAMIID\.Unavailable"):
        share(home, ami, storage=False)
    with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
        prod.describe_images(ImageIds=[ami], IncludeDisabled=True)
    home.enable_image(ImageId=ami)
    assert described(home, ami)["State"] == "available"
    assert home.describe_image_attribute(ImageId=ami, Attribute="launchPermission")["LaunchPermissions"] == []


def test_a_deprecation_is_shown_and_can_be_taken_back(home, ami):
    """EnableImageDeprecation: "rounds the seconds to the nearest minute", "you can't specify a date in the past"."""
    moment = (datetime.now(UTC) + timedelta(days=1)).replace(hour=1, minute=2, second=31, microsecond=0)
    home.enable_image_deprecation(ImageId=ami, DeprecateAt=moment)
    assert described(home, ami)["DeprecationTime"] == f"{moment:%Y-%m-%d}T01:03:00.000Z"
    home.disable_image_deprecation(ImageId=ami)
    assert "DeprecationTime" not in described(home, ami)
    with pytest.raises(ClientError, match="in the past"):
        home.enable_image_deprecation(ImageId=ami, DeprecateAt=datetime.now(UTC) - timedelta(minutes=5))


def test_a_deprecated_ami_is_hidden_from_others_unless_they_name_it(home, prod, ami):
    """EC2 user guide: hidden "unless you specify its ID or specify that deprecated AMIs must appear"."""
    share(home, ami)
    # The nearest full minute lies behind us for half of each minute; where it does not, it is at most 30 s away.
    home.enable_image_deprecation(ImageId=ami, DeprecateAt=datetime.now(UTC) + timedelta(seconds=1))
    moment = datetime.fromisoformat(described(home, ami)["DeprecationTime"])
    wait_until(moment)
    assert ami not in listed(prod, ExecutableUsers=["self"])
    assert ami in listed(prod, ExecutableUsers=["self"], IncludeDeprecated=True)
    assert described(prod, ami)["DeprecationTime"]
    assert ami in listed(home, Owners=["self"])


def wait_until(moment):
    import time

    time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds() + 0.1))
