"""How the repository is made, that one which exists is left alone, and the tag that keeps what is released."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Any

import pytest
from moto.ecr.models import ECRBackend

from splitbake import ecr
from splitbake.errors import CloudError
from splitbake.manifest.image import Ecr

LEFT = "repository faces is left as it is, though not as wanted"
ALL = Ecr(immutable=True, scan=True, keep=20)


def described(cloud: Any) -> dict[str, Any]:
    return cloud.client("ecr").describe_repositories(repositoryNames=["faces"])["repositories"][0]


def test_a_repository_is_made_as_the_manifest_wants(cloud):
    said: list[str] = []
    uri = ecr.ensure_repository(cloud, "faces", ALL, said.append)
    there = described(cloud)
    assert (there["repositoryUri"], there["imageTagMutability"]) == (uri, "IMMUTABLE")
    assert there["imageScanningConfiguration"] == {"scanOnPush": True}
    policy = cloud.client("ecr").get_lifecycle_policy(repositoryName="faces")["lifecyclePolicyText"]
    assert policy == ecr.lifecycle(20)
    assert ecr.ensure_repository(cloud, "faces", ALL, said.append) == uri
    assert said == []


def test_without_options_everything_is_left_to_the_registry(cloud):
    ecr.ensure_repository(cloud, "faces", Ecr())
    assert described(cloud)["imageTagMutability"] == "MUTABLE"
    with pytest.raises(cloud.client("ecr").exceptions.LifecyclePolicyNotFoundException):
        cloud.client("ecr").get_lifecycle_policy(repositoryName="faces")
    assert ecr.creation("faces", Ecr()) == ecr.creation("faces") == {"repositoryName": "faces"}


def test_a_repository_that_exists_is_described_and_not_changed(cloud):
    client = cloud.client("ecr")
    client.create_repository(repositoryName="faces")
    before, said = described(cloud), list[str]()
    ecr.ensure_repository(cloud, "faces", ALL, said.append)
    assert said == [f"{LEFT}: its tags are mutable; it does not scan what is pushed; nothing in it expires"]
    client.put_lifecycle_policy(repositoryName="faces", lifecyclePolicyText=ecr.lifecycle(21))
    ecr.ensure_repository(cloud, "faces", Ecr(keep=20), said.append)
    assert said[1:] == [f"{LEFT}: it has a lifecycle policy of its own"]
    assert described(cloud) == before


def test_what_the_manifest_leaves_open_may_be_as_it_likes(cloud):
    ecr.ensure_repository(cloud, "faces", ALL)
    said: list[str] = []
    ecr.ensure_repository(cloud, "faces", Ecr(), said.append)
    ecr.ensure_repository(cloud, "faces", None, said.append)
    assert said == []
    ecr.ensure_repository(cloud, "faces", Ecr(immutable=False, scan=False), said.append)
    assert said[0].endswith("its tags are immutable; it scans what is pushed")


def test_a_policy_that_cannot_be_set_is_told(cloud, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        from moto.ecr.exceptions import InvalidParameterException

        raise InvalidParameterException("no")

    monkeypatch.setattr(ECRBackend, "put_lifecycle_policy", refuse)
    with pytest.raises(CloudError, match="set which images of the ECR repository faces expire"):
        ecr.ensure_repository(cloud, "faces", ALL)


def expired(policy: str, images: list[list[str]]) -> list[int]:
    """Which images go, by the rules of evaluation in AWS's guide; ``images``: the tags of each, the youngest first."""
    protected: set[int] = set()
    gone: set[int] = set()
    for rule in sorted(json.loads(policy)["rules"], key=lambda rule: rule["rulePriority"]):
        wanted = rule["selection"]
        prefixes = wanted.get("tagPrefixList", [])
        matched = [
            number
            for number, tags in enumerate(images)
            if wanted["tagStatus"] == "any"
            or all(any(fnmatchcase(tag, f"{prefix}*") for tag in tags) for prefix in prefixes)
        ]
        gone |= {number for number in matched[wanted["countNumber"] :] if number not in protected}
        protected |= {*matched}
    return sorted(gone)


def test_what_is_released_or_built_on_never_expires():
    images = [["a-1"], ["b-2"], [], ["c-3"], ["deps-1"], ["d-4", "release-prod-1"], ["e-5"], ["deps-0"], []]
    assert expired(ecr.lifecycle(3), images) == [3, 6, 8]
    rules = json.loads(ecr.lifecycle(10))["rules"]
    assert [rule["selection"]["tagStatus"] for rule in rules] == ["tagged", "tagged", "any"]
    assert [len(rule["selection"].get("tagPrefixList", [0])) for rule in rules] == [1, 1, 1], "a list means all of it"


def test_no_two_images_get_one_tag():
    tags = {ecr.unique_tag(f"sha256:{a * 64}", f"sha256:{b * 64}") for a in "ab" for b in "cd"}
    assert min(tags) == f"{'a' * 12}-{'c' * 12}"
    assert len(tags) == 4
