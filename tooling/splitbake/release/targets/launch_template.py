"""An EC2 launch template: a new version with the AMI, and the default moved to it at the end.

AWS facts used here: a version is immutable and AWS numbers it; a new version without ``SourceVersion`` holds only
what is passed, and with it snapshots in block device mappings are left out (EC2 API model): so everything of the
source version is passed explicitly, and only ``ImageId`` and the snapshots of the AMI's data volumes differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from splitbake.errors import CloudError, ReleaseError
from splitbake.release.steps import ApiCall, ApiStep, Output, Outputs, Phase, resolve
from splitbake.release.targets import Context, Planned, Target, block_devices
from splitbake.spec import Text

if TYPE_CHECKING:
    from splitbake.release.live import Live

#: What a version says that a new one may not be given, by the key it stands under (EC2 API model 2016-11-15).
_RESPONSE_ONLY = {
    "Ipv6Addresses": {"IsPrimaryIpv6"},
    "MetadataOptions": {"State"},
    "Operator": {"HiddenByDefault", "Managed"},
}
#: Seconds until a change can be read everywhere; EC2 is eventually consistent.
_CONSISTENT_WITHIN = 60


class LaunchTemplate(Target):
    """A launch template by its name."""

    kind: ClassVar[str] = "launch_template"
    launch_template: Text

    def plan(self, context: Context) -> Planned:
        """See Target."""
        return steps(self.label, read(context.live, self.launch_template), context)


@dataclass(frozen=True)
class Template:
    """A launch template as it is: the data of each version, and which number is the default."""

    id: str
    name: str
    default: int
    versions: Mapping[int, Mapping[str, Any]]

    @property
    def latest(self) -> int:
        """The highest number."""
        return max(self.versions)


def read(live: Live, name: str) -> Template:
    """Read the launch template ``name`` with all its versions.

    Raises:
        ReleaseError: there is none.
    """
    from splitbake.cloud import error_code

    try:
        versions = live.pages(
            "ec2",
            "DescribeLaunchTemplateVersions",
            "LaunchTemplateVersions",
            f"read launch template {name}",
            LaunchTemplateName=name,
        )
    except CloudError as problem:
        if "NotFound" in error_code(problem):
            versions = []
        else:
            raise
    if not versions:
        raise ReleaseError(
            f"there is no launch template {name!r} in environment {live.where}",
            hint="create it first (a release changes what is there), or correct launch_template in the manifest",
        )
    return Template(
        id=versions[0]["LaunchTemplateId"],
        name=name,
        default=next(one["VersionNumber"] for one in versions if one["DefaultVersion"]),
        versions={one["VersionNumber"]: one["LaunchTemplateData"] for one in versions},
    )


def steps(label: str, template: Template, context: Context) -> Planned:
    """Plan the new version and the move of the default to it; pure.

    A version that already holds exactly what is wanted is used again, so a release that failed half-way makes no
    second one.
    """
    ami = context.pair.ami.id
    source = _sendable(template.versions[template.default])
    wanted = {**source, "ImageId": ami}
    mappings = source.get("BlockDeviceMappings", [])
    if mapped := block_devices.with_data(label, mappings, context.data):
        wanted["BlockDeviceMappings"] = mapped
    old = source.get("ImageId", "none")
    if old.startswith("resolve:ssm:"):
        raise ReleaseError(
            f"{label}: version {template.default} takes its AMI from {old}, so who writes that parameter releases",
            hint="give the template an AMI id, or release the parameter instead of the template",
        )
    block_devices.check_root(label, mappings, context.volume)
    same = [number for number, data in template.versions.items() if _sendable(data) == wanted]
    if template.default in same:
        return Planned(versions={template.id: str(template.default)})
    if same:
        number: str | Output = str(max(same))
        return Planned(steps=(_move_default(label, template, number, old, ami),), versions={template.id: number})
    changed = {key: value for key, value in wanted.items() if source.get(key) != value}
    number = Output(f"version of {template.id}", str(template.latest + 1))
    create = ApiStep(
        phase=Phase.HOST,
        target=label,
        title=f"create a version of launch template {template.name}",
        before={"ImageId": old, "version": template.default},
        after={"ImageId": ami, "version": number},
        call=ApiCall(
            "ec2",
            "CreateLaunchTemplateVersion",
            {
                "LaunchTemplateId": template.id,
                "VersionDescription": f"splitbake {context.release}",
                "ClientToken": f"{context.release}-{template.id}",
                "LaunchTemplateData": wanted,
            },
            {
                "LaunchTemplateId": template.id,
                "LaunchTemplateData": {**changed, "all else": f"as in version {template.default}"},
            },
            gives=lambda answer: {number: str(answer["LaunchTemplateVersion"]["VersionNumber"])},
        ),
        check=lambda live, outputs: _check_version(live, template, wanted, resolve(number, outputs)),
    )
    return Planned(
        steps=(create, _move_default(label, template, number, old, ami)),
        versions={template.id: number},
    )


def _move_default(label: str, template: Template, number: str | Output, old: str, new: str) -> ApiStep:
    def call(version: str | Output) -> ApiCall:
        return ApiCall.plain("ec2", "ModifyLaunchTemplate", LaunchTemplateId=template.id, DefaultVersion=version)

    def check(live: Live, outputs: Outputs) -> None:
        wanted = int(resolve(number, outputs))
        live.wait(
            lambda: read(live, template.name).default == wanted,
            _CONSISTENT_WITHIN,
            f"the default version of launch template {template.name} is not {wanted}, although AWS accepted it",
        )

    return ApiStep(
        phase=Phase.DEFAULT,
        target=label,
        title=f"make the new version the default of launch template {template.name}",
        before={"default": template.default, "ImageId": old},
        after={"default": number, "ImageId": new},
        undo=(call(str(template.default)),),
        call=call(number),
        check=check,
    )


def _check_version(live: Live, template: Template, wanted: Mapping[str, Any], number: str) -> None:
    """Read the new version back: the call accepts what it then leaves out (snapshots, for one)."""
    live.wait(
        lambda: int(number) in read(live, template.name).versions,
        _CONSISTENT_WITHIN,
        f"version {number} of launch template {template.name} cannot be read",
    )
    found = _sendable(read(live, template.name).versions[int(number)])
    differing = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if differing:
        raise ReleaseError(
            f"version {number} of launch template {template.name} differs from what was sent in {', '.join(differing)}",
            hint="nothing uses this version yet; compare it with the default version, then delete it",
        )


def _sendable(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a version as a new version may be given it."""
    kept = {key: _without_response_only(value, key) for key, value in data.items()}
    return {key: value for key, value in kept.items() if value != {}}


def _without_response_only(value: Any, key: str) -> Any:
    match value:
        case Mapping():
            dropped = _RESPONSE_ONLY.get(key, set())
            return {name: _without_response_only(item, name) for name, item in value.items() if name not in dropped}
        case list():
            return [_without_response_only(item, key) for item in value]
        case _:
            return value
