"""How an instance may ask for its metadata, and what else of a launch moto does not take over.

Options of RunInstances win over those of a launch template, and both over what the AMI says (EC2 user guide, "Order of
precedence for instance metadata options"). An AMI with ``ImdsSupport`` v2.0 asks for tokens, and lets them get as far
as a container of the instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend
from moto.ec2.models.amis import Ami
from moto.ec2.models.instances import MetadataOptions
from moto.ec2.responses.amis import AmisResponse

from splitbake.local import sharing
from splitbake.local.hooks import Hook, around

#: What ``ImdsSupport`` v2.0 sets where nobody says otherwise (EC2 API model, ``Image.ImdsSupport``).
_V2 = {"HttpTokens": "required", "HttpPutResponseHopLimit": 2}


def install() -> None:
    """Hook the calls about ImdsSupport and metadata options."""
    Ami.imds_support = None  # type: ignore[attr-defined]
    around(EC2Backend, "_load_amis", _load)
    around(EC2Backend, "modify_instance_metadata_options", _modify_options)
    around(AmisResponse, "modify_image_attribute", _modify_image)
    around(AmisResponse, "describe_image_attribute", _describe_image)
    around(AmisResponse, "register_image", _register)
    around(AmisResponse, "copy_image", _copy)


def of_template(template: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of RunInstances that a launch template adds to the ``given`` ones, in moto's names."""
    offered = {
        "metadata_options": template.get("MetadataOptions"),
        "instance_initiated_shutdown_behavior": template.get("InstanceInitiatedShutdownBehavior"),
    }
    return {name: value for name, value in offered.items() if value and not given.get(name)}


def settle(instances: list[Any], ami: Any, template: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Give new instances their metadata options and their profile."""
    asked = given.get("metadata_options") or {}
    for instance in instances:
        instance.metadata_options = MetadataOptions((_V2 if ami.imds_support == "v2.0" else {}) | asked)
    names = {"Name": given.get("iam_instance_profile_name"), "Arn": given.get("iam_instance_profile_arn")}
    given_itself = any(names.values())
    profile = names if given_itself else template.get("IamInstanceProfile", {})
    if not profile:
        return
    for instance in instances[1:] if given_itself else instances:  # moto does the first one then
        instance.ec2_backend.associate_iam_instance_profile(
            instance_id=instance.id,
            iam_instance_profile_name=profile.get("Name"),
            iam_instance_profile_arn=profile.get("Arn"),
        )


def _load(proceed: Hook, backend: Any) -> None:
    """Amazon Linux 2023 comes with ImdsSupport v2.0 (its user guide)."""
    proceed()
    for ami in backend.amis.values():
        if ami.owner_alias == "amazon" and ami.name.startswith("al2023-"):
            ami.imds_support = "v2.0"


def _modify_options(proceed: Hook, backend: Any, instance_id: str, **asked: Any) -> MetadataOptions:
    """ModifyInstanceMetadataOptions: what is not named stays as it is (moto: becomes empty)."""
    before = backend.get_instance(instance_id).metadata_options
    options: MetadataOptions = proceed(instance_id=instance_id, **asked)
    members = {
        "http_tokens": "http_tokens",
        "hop_limit": "http_put_response_hop_limit",
        "http_endpoint": "http_endpoint",
        "http_protocol": "http_protocol_ipv6",
        "metadata_tags": "instance_metadata_tags",
    }
    for argument, member in members.items():
        if asked.get(argument) is None:
            setattr(options, member, getattr(before, member))
    return options


def _modify_image(proceed: Hook, response: Any) -> Any:
    """ModifyImageAttribute: ImdsSupport, which can be set and never taken back (EC2 API model)."""
    value = response._get_param("ImdsSupport", {}).get("Value")
    if response._get_param("Attribute") == "imdsSupport":
        value = response._get_param("Value")
    if value is None:
        return proceed()
    ami: Any = sharing.own(response.ec2_backend, response._get_param("ImageId"))
    if value != "v2.0":
        raise EC2ClientError("InvalidParameterValue", f"Value ({value}) for parameter imdsSupport is invalid")
    response.error_on_dryrun()
    ami.imds_support = value
    return EmptyResult()


def _describe_image(proceed: Hook, response: Any) -> Any:
    if response._get_param("Attribute") != "imdsSupport":
        return proceed()
    ami: Any = sharing.own(response.ec2_backend, response._get_param("ImageId"))
    told = {"Value": ami.imds_support} if ami.imds_support else {}
    return ActionResult({"ImageId": ami.id, "ImdsSupport": told})


def _register(proceed: Hook, response: Any) -> Any:
    answer = proceed()
    response.ec2_backend.amis[answer.result["ImageId"]].imds_support = response._get_param("ImdsSupport")
    return answer


def _copy(proceed: Hook, response: Any) -> Any:
    """CopyImage: the copy of an AMI for IMDSv2 is one as well."""
    answer = proceed()
    copied = response.ec2_backend.amis[answer.result["ImageId"]]
    copied.imds_support = _source(response).imds_support
    return answer


def _source(response: Any) -> Any:
    from moto.ec2.models import ec2_backends

    there = ec2_backends[response.current_account][response._get_param("SourceRegion")]
    return sharing.find(there, response._get_param("SourceImageId"))
