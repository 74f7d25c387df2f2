"""AMIs of our account: found by their names, waited for, and removed with their snapshots."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from splitbake.bake.things import (
    FINGERPRINT_TAG,
    PROJECT_TAG,
    RUN_TAG,
    Thing,
    as_tags,
    insist,
    moment,
    tags_of,
)
from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import BuildError, CloudError

Image = Mapping[str, Any]

#: Seconds between two looks at an AMI, and until a new one is seen everywhere.
_PAUSE, _SEEN_WITHIN = 2, 60
#: Exceptions of botocore that say nothing about the AMI: the way to AWS is interrupted.
_NO_ANSWER: Final = {
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ConnectionClosedError",
    "ProxyConnectionError",
}
#: What EC2 writes into the description of a snapshot, by CreateImage and by CopyImage.
_MADE_FROM = re.compile(
    r"(?:Created by CreateImage\((?P<instance>i-\w+)\) for|Copied for DestinationAmi) (?P<ami>ami-\w+)"
)


class FailedError(BuildError):
    """EC2 failed to make an AMI: it will not come to be."""


def unfinished_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return those of ``tags`` that an AMI carries before it is finished: its fingerprint says that it is."""
    return {key: value for key, value in tags.items() if key != FINGERPRINT_TAG}


def own(cloud: Cloud, name: str, region: str | None = None) -> list[Image]:
    """Return our AMIs of this name (``*`` stands for anything), the newest first, whatever their state.

    Raises:
        CloudError: AWS could not be asked.
    """
    with aws_errors(f"look for AMIs named {name}"):
        pages = (
            cloud.client("ec2", region=region)
            .get_paginator("describe_images")
            .paginate(
                Owners=["self"],
                Filters=[{"Name": "name", "Values": [name]}],
                IncludeDeprecated=True,
                IncludeDisabled=True,
            )
        )
        found = [image for page in pages for image in page["Images"]]
    return sorted(found, key=lambda image: str(image["CreationDate"]), reverse=True)


def snapshots(image: Image) -> tuple[str, ...]:
    """Return the snapshots that an AMI names; a pending one names none yet."""
    volumes = [device.get("Ebs", {}) for device in image.get("BlockDeviceMappings", [])]
    return tuple(volume["SnapshotId"] for volume in volumes if "SnapshotId" in volume)


def wait(cloud: Cloud, ami: str, *, within: float, region: str | None = None) -> Image:
    """Wait until ``ami`` is available and describe it; a lost connection only makes it take longer.

    Args:
        cloud: where.
        ami: its id.
        within: seconds.
        region: another one than that of ``cloud``.

    Raises:
        FailedError: EC2 failed to make it.
        BuildError: it takes too long.
        CloudError: AWS refused to tell.
    """
    started = time.monotonic()
    while True:
        waited = time.monotonic() - started
        try:
            with aws_errors(f"wait for {ami}"):
                images: Sequence[Image] = cloud.client("ec2", region=region).describe_images(ImageIds=[ami])["Images"]
        except CloudError as problem:
            fleeting = type(problem.__cause__).__name__ in _NO_ANSWER and waited < within
            unseen = error_code(problem).startswith("InvalidAMIID") and waited < _SEEN_WITHIN
            if not (fleeting or unseen):
                raise
        else:
            state = images[0]["State"] if images else "gone"
            if state == "available":
                return images[0]
            if state != "pending":
                reason = images[0].get("StateReason", {}).get("Message", "EC2 does not say why") if images else ""
                raise FailedError(
                    f"{ami} is {state}{f': {reason}' if reason else ''}", hint="run splitbake build again"
                )
            if waited > within:
                hint = "run splitbake build ami again later: it takes up this AMI when EC2 is done"
                raise BuildError(f"{ami} is still pending after {waited / 60:.0f} minutes", hint=hint)
        time.sleep(_PAUSE)


def discard(
    cloud: Cloud,
    ami: str,
    *,
    parts: Sequence[str] = (),
    region: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Remove an AMI and its snapshots; what is gone already is fine.

    Args:
        cloud: where.
        ami: its id.
        parts: snapshots that are known to be of it; those that AWS knows go as well.
        region: another one than that of ``cloud``.
        tags: of project and run, put on what may have none yet: on the snapshots, so that gc finds them where this
            process dies on the way, and on the AMI, because a role may remove only what carries them.

    Raises:
        CloudError: AWS refused it; what is left is named.
    """
    ec2 = cloud.client("ec2", region=region)
    found = sorted({*parts, *_parts(ec2, ami)})
    if tags:
        for part in found:
            mark(ec2, part, tags)
        mark(ec2, ami, unfinished_tags(tags))
    insist(f"remove the AMI {ami} and its snapshots {', '.join(found)}", partial(ec2.deregister_image, ImageId=ami))
    for part in found:
        insist(f"remove {part}, a snapshot of the AMI {ami}", partial(ec2.delete_snapshot, SnapshotId=part))


def mark(ec2: Any, resource: str, tags: Mapping[str, str]) -> None:
    """Put ``tags`` on what is to be removed; gone already is fine.

    Raises:
        CloudError: AWS refused it.
    """
    insist(f"tag {resource}", lambda: ec2.create_tags(Resources=[resource], Tags=as_tags(tags)))


def _parts(ec2: Any, ami: str) -> Iterator[str]:
    """Yield the snapshots of an AMI. A pending one does not name them yet; they name it."""
    with aws_errors(f"look for the snapshots of {ami}"):
        by_id = [{"Name": "image-id", "Values": [ami]}]
        for image in ec2.describe_images(Owners=["self"], Filters=by_id)["Images"]:
            yield from snapshots(image)
        words = [f"Created by CreateImage(*) for {ami}*", f"Copied for DestinationAmi {ami} *"]
        made_for = [{"Name": "description", "Values": words}]
        for one in ec2.describe_snapshots(OwnerIds=["self"], Filters=made_for)["Snapshots"]:
            yield one["SnapshotId"]


def unfinished(cloud: Cloud, project: str, region: str) -> list[Thing]:
    """Return AMIs that a bake or a copy of ``project`` began and nobody finished: not available, or without tags.

    Raises:
        CloudError: AWS could not be asked.
    """
    things = []
    for image in own(cloud, f"{project}-*", region):
        name = re.fullmatch(f"{re.escape(project)}-([0-9a-f]{{12}})-([0-9a-f]{{12}})", image.get("Name", ""))
        if not name:
            continue
        why = "" if image["State"] in {"available", "disabled"} else f"it is {image['State']}"
        if not why and not {PROJECT_TAG, FINGERPRINT_TAG} <= tags_of(image).keys():
            why = "its bake did not come to its end; splitbake build would take it up"
        if why:
            since = moment(image["CreationDate"])
            things.append(Thing("AMI", image["ImageId"], region, name[2], since, f"sha256:{name[1]}", why=why))
    return things


def strays(cloud: Cloud, project: str, region: str) -> list[Thing]:
    """Return snapshots of runs of ``project`` that belong to no AMI.

    Those without tags are known by the instance that they were made from, for the hour that EC2 remembers it.

    Raises:
        CloudError: AWS could not be asked.
    """
    return list(_strays(cloud, project, region))


def _strays(cloud: Cloud, project: str, region: str) -> Iterator[Thing]:
    ec2 = cloud.client("ec2", region=region)
    with aws_errors("look for snapshots without an AMI"):
        images = own(cloud, "*", region)
        of_project = [{"Name": f"tag:{PROJECT_TAG}", "Values": [project]}, {"Name": "tag-key", "Values": [RUN_TAG]}]
        pages = ec2.get_paginator("describe_instances").paginate(Filters=of_project)
        builders = {
            one["InstanceId"]: tags_of(one)
            for page in pages
            for each in page["Reservations"]
            for one in each["Instances"]
        }
        snapshot_pages = ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"])
        found = [one for page in snapshot_pages for one in page["Snapshots"]]
    used = {part for image in images for part in snapshots(image)}
    known = {image["ImageId"] for image in images}
    for one in found:
        origin = _MADE_FROM.match(one.get("Description", ""))
        if one["SnapshotId"] in used or (origin and origin["ami"] in known):
            continue
        marks = tags_of(one)
        if marks.get(PROJECT_TAG) != project or RUN_TAG not in marks:
            marks = builders.get(origin["instance"], {}) if origin else {}
        if RUN_TAG in marks:
            since, fingerprint = moment(one["StartTime"]), marks.get(FINGERPRINT_TAG, "")
            run, why = marks[RUN_TAG], "it is of no AMI"
            yield Thing("snapshot", one["SnapshotId"], region, run, since, fingerprint, why=why)
