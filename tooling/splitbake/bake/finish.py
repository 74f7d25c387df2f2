"""The last steps of an AMI, through the API: its copies, its tags, and the settings that Packer could not make.

Each step looks first and does what is missing, so it does not matter who began, or how often it is done.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from splitbake.artifact import RegionalCopy
from splitbake.bake import amis
from splitbake.bake.things import as_tags, tags_of
from splitbake.cloud import Cloud, aws_errors
from splitbake.generate import source
from splitbake.manifest.ami import Ami, Copy
from splitbake.project import Project
from splitbake.ui import Say

#: Instances of the AMI answer to IMDSv2 only.
_IMDS = "v2.0"


@dataclass(frozen=True)
class Finished:
    """A complete AMI.

    Attributes:
        snapshots: of the AMI itself.
        copies: of the AMI, in other regions.
    """

    snapshots: tuple[str, ...]
    copies: tuple[RegionalCopy, ...]


def finish(project: Project, cloud: Cloud, ami: str, tags: Mapping[str, str], say: Say) -> Finished:
    """Wait until ``ami`` and its copies are available, and give all of them their tags and settings.

    Args:
        project: says which copies and settings.
        cloud: where the AMI is.
        ami: its id.
        tags: for AMI, copies and snapshots.
        say: hears of what was set.

    Raises:
        BuildError: EC2 failed to make the AMI or a copy, or takes too long.
        CloudError: AWS refused something.
    """
    wanted, home = project.manifest.ami, cloud.environment.region
    within = source.wait_seconds(project.manifest, project.lock)
    image = amis.wait(cloud, ami, within=within)
    copies = {
        one.region: _copied(cloud, image, one, wanted, tags=tags, say=say)
        for one in wanted.copies
        if one.region != home
    }
    for region, each in {home: ami, **copies}.items():
        done = amis.wait(cloud, each, within=within, region=region)
        _tag(cloud, done, region, tags)
        _set(cloud, done, region, wanted, say)
    made = tuple(RegionalCopy(region=region, id=copy) for region, copy in copies.items())
    return Finished(amis.snapshots(image), made)


def _copied(cloud: Cloud, image: amis.Image, copy: Copy, wanted: Ami, *, tags: Mapping[str, str], say: Say) -> str:
    """Return the copy of ``image`` in another region: Packer's, where it came so far, or one that is begun now.

    An earlier one is found by its name, so botocore's own token, of this very call, is enough: with one that never
    changes EC2 would answer with a copy that has failed.
    """
    there = [one for one in amis.own(cloud, image["Name"], copy.region) if one["State"] in {"pending", "available"}]
    if there:
        return str(there[0]["ImageId"])
    ami = image["ImageId"]
    say(f"copying {ami} to {copy.region}")
    encryption = {"Encrypted": True} if copy.kms_key or wanted.encrypt else {}
    with aws_errors(f"copy {ami} to {copy.region}"):
        answer = cloud.client("ec2", region=copy.region).copy_image(
            Name=image["Name"],
            Description=image.get("Description", ""),
            SourceImageId=ami,
            SourceRegion=cloud.environment.region,
            TagSpecifications=[
                {"ResourceType": "image", "Tags": as_tags(amis.unfinished_tags(tags))},
                {"ResourceType": "snapshot", "Tags": as_tags(tags)},
            ],
            **encryption,
            **({"KmsKeyId": copy.kms_key} if copy.kms_key else {}),
        )
    return str(answer["ImageId"])


def _tag(cloud: Cloud, image: amis.Image, region: str, tags: Mapping[str, str]) -> None:
    """Put ``tags`` on an AMI and its snapshots where Packer did not."""
    ec2, parts = cloud.client("ec2", region=region), list(amis.snapshots(image))
    with aws_errors(f"tag {image['ImageId']} and its snapshots"):
        found = ec2.describe_snapshots(SnapshotIds=parts)["Snapshots"]
        marked = {image["ImageId"]: tags_of(image), **{one["SnapshotId"]: tags_of(one) for one in found}}
        # The AMI comes last: its tags say that everything else has them.
        bare = [name for name in (*parts, image["ImageId"]) if not tags.items() <= marked[name].items()]
        for name in bare:
            ec2.create_tags(Resources=[name], Tags=as_tags(tags))


def _set(cloud: Cloud, image: amis.Image, region: str, wanted: Ami, say: Say) -> None:
    ec2, ami = cloud.client("ec2", region=region), image["ImageId"]
    if image.get("ImdsSupport") != _IMDS:
        with aws_errors(f"let instances of {ami} insist on IMDSv2"):
            ec2.modify_image_attribute(ImageId=ami, ImdsSupport={"Value": _IMDS})
        say(f"{ami}: its instances answer IMDSv2 only (set through the API)")
    if wanted.deprecate and not image.get("DeprecationTime"):
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=wanted.deprecate)
        with aws_errors(f"let {ami} be deprecated"):
            ec2.enable_image_deprecation(ImageId=ami, DeprecateAt=until)
        say(f"{ami}: deprecated from {until:%Y-%m-%d} on (set through the API)")
