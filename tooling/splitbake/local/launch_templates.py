"""Launch templates as AWS has them: versions that inherit, are idempotent by token, and can be deleted."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError, InvalidLaunchTemplateVersionNotFound
from moto.ec2.models import EC2Backend
from moto.ec2.models.launch_templates import LaunchTemplate, LaunchTemplateVersion
from moto.ec2.responses import EC2Response
from moto.ec2.responses.launch_templates import LaunchTemplates
from moto.ec2.utils import parse_user_data

from splitbake.local.block_devices import check_rates
from splitbake.local.hooks import Hook, around

#: Most entries of a page (EC2 API model, ``MaxResults``).
_PAGE = 200


def install() -> None:
    """Hook the launch-template calls."""
    versions = Versions()
    around(EC2Backend, "create_launch_template", create)
    around(EC2Backend, "describe_launch_template_versions", describe_versions)
    around(LaunchTemplates, "create_launch_template_version", versions.create)
    around(LaunchTemplates, "describe_launch_templates", describe)
    LaunchTemplate.tags = property(LaunchTemplate.get_tags, lambda *_: None)  # type: ignore[assignment] # as they are now
    around(LaunchTemplate, "create_version", versions.append)
    around(LaunchTemplate, "get_version", get_version)
    around(LaunchTemplate, "default_version", lambda _, template: get_version(_, template, "$Default"))
    EC2Response.delete_launch_template_versions = delete_versions  # type: ignore[attr-defined]


def inherited(source: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a version with a SourceVersion: given fields overwrite inherited ones, whole.

    Snapshots in an inherited block device mapping are dropped: AWS ignores them unless they are given again
    (EC2 API model, ``CreateLaunchTemplateVersion.SourceVersion``).
    """
    data = copy.deepcopy(source)
    for mapping in data.get("BlockDeviceMappings", []):
        mapping.get("Ebs", {}).pop("SnapshotId", None)
    return data | given


class Versions:
    """The versions of all launch templates: a number is never given twice."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = defaultdict(int)

    def append(self, proceed: Hook, template: Any, data: dict[str, Any], description: str) -> LaunchTemplateVersion:
        """Number a version by the highest there ever was (moto: by how many there are now)."""
        self._highest[template.id] += 1
        version = LaunchTemplateVersion(template, self._highest[template.id], data, description)
        template.versions.append(version)
        return version

    def create(self, proceed: Hook, response: Any) -> ActionResult:
        """CreateLaunchTemplateVersion, with SourceVersion."""
        template = _template(response)
        given = response._get_param("LaunchTemplateData", {})
        if "UserData" in given:
            given["UserData"] = parse_user_data(given["UserData"])
        source = response._get_param("SourceVersion")
        response.error_on_dryrun()
        check_rates(given.get("BlockDeviceMappings", []))
        data = inherited(template.get_version(source).data, given) if source else given
        version = template.create_version(data, response._get_param("VersionDescription"))
        return ActionResult({"LaunchTemplateVersion": _described(response, version)})


def create(  # noqa: PLR0917 - moto's own order
    proceed: Hook, backend: Any, name: str, description: str, data: dict[str, Any], tags: dict[str, Any]
) -> LaunchTemplate:
    """CreateLaunchTemplate: the tags of the template are not part of its data (moto writes them into it)."""
    check_rates(data.get("BlockDeviceMappings", []))
    kept = [one for one in data.pop("TagSpecifications", []) if one.get("ResourceType") != "launch-template"]
    data = {key: value for key, value in data.items() if value is not None}
    template: LaunchTemplate = proceed(name, description, data | ({"TagSpecifications": kept} if kept else {}), tags)
    return template


def describe(proceed: Hook, response: Any) -> ActionResult:
    """DescribeLaunchTemplates: a page has up to 200, the most one can ask for (moto: 15, and no next one)."""
    response.params.setdefault("MaxResults", _PAGE)
    answer: ActionResult = proceed()
    return answer


def describe_versions(
    proceed: Hook, backend: Any, *, min_version: int | None, max_version: int | None, max_results: int, **options: Any
) -> list[tuple[LaunchTemplate, LaunchTemplateVersion]]:
    """DescribeLaunchTemplateVersions: bounds are version numbers; a page has up to 200 (moto: 15, and no next one)."""
    found = proceed(min_version=None, max_version=None, max_results=max(max_results, _PAGE), **options)
    lowest, highest = min_version or 0, max_version or float("inf")
    return [(template, version) for template, version in found if lowest <= version.number <= highest]


def get_version(proceed: Hook, template: Any, number: Any) -> LaunchTemplateVersion:
    """Find a version by number, ``$Latest`` or ``$Default``."""
    if str(number).lower() == "$latest":
        wanted = template.versions[-1].number
    elif str(number).lower() == "$default":
        wanted = template.default_version_number
    else:
        wanted = int(number) if str(number).isdecimal() else -1
    for version in template.versions:
        if version.number == wanted:
            return version  # type: ignore[no-any-return]
    raise InvalidLaunchTemplateVersionNotFound(template_id=template.id, version=number)


def delete_versions(response: Any) -> ActionResult:
    """DeleteLaunchTemplateVersions: per version; the default one is refused."""
    template = _template(response)
    response.error_on_dryrun()
    names = {"LaunchTemplateId": template.id, "LaunchTemplateName": template.name}
    done, failed = [], []
    for number in response._get_param("Versions", []):
        try:
            version = template.get_version(number)
        except EC2ClientError as problem:
            failed.append(_failure(names, number, "launchTemplateVersionDoesNotExist", str(problem)))
            continue
        if version.number == template.default_version_number:
            text = "The default version of a launch template cannot be deleted"
            failed.append(_failure(names, number, "unexpectedError", text))
            continue
        template.versions.remove(version)
        done.append(names | {"VersionNumber": version.number})
    return ActionResult(
        {
            "SuccessfullyDeletedLaunchTemplateVersions": done,
            "UnsuccessfullyDeletedLaunchTemplateVersions": failed,
        }
    )


def _failure(names: dict[str, Any], number: str, code: str, message: str) -> dict[str, Any]:
    return names | {"VersionNumber": int(number), "ResponseError": {"Code": code, "Message": message}}


def _template(response: Any) -> LaunchTemplate:
    backend = response.ec2_backend
    if name := response._get_param("LaunchTemplateName"):
        return backend.get_launch_template_by_name(name)  # type: ignore[no-any-return]
    return backend.get_launch_template(response._get_param("LaunchTemplateId"))  # type: ignore[no-any-return]


def _described(response: Any, version: LaunchTemplateVersion) -> dict[str, Any]:
    template = version.template
    return {
        "CreateTime": version.create_time,
        "CreatedBy": f"arn:{response.partition}:iam::{response.current_account}:root",
        "DefaultVersion": template.is_default(version),
        "LaunchTemplateData": version.data,
        "LaunchTemplateId": template.id,
        "LaunchTemplateName": template.name,
        "VersionDescription": version.description,
        "VersionNumber": version.number,
    }
