"""AMIs that are on their way out: disabled ones and deprecated ones, as DescribeImages then shows or hides them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend
from moto.ec2.models.amis import Ami
from moto.ec2.responses import EC2Response
from moto.ec2.responses.amis import AmisResponse

from splitbake.local.hooks import Hook, around
from splitbake.local.sharing import own


def install() -> None:
    """Hook the calls that retire an AMI."""
    around(EC2Backend, "disable_image", disable)
    around(AmisResponse, "describe_images", describe)
    EC2Response.enable_image_deprecation = deprecate  # type: ignore[attr-defined]
    EC2Response.disable_image_deprecation = cancel  # type: ignore[attr-defined]


def disable(proceed: Hook, backend: Any, ami_id: str) -> None:
    """DisableImage "removes all launch permissions from the AMI" (EC2 API model)."""
    proceed(ami_id)
    backend.amis[ami_id].launch_permissions.clear()


def deprecate(response: Any) -> ActionResult:
    """EnableImageDeprecation: the moment is rounded to the minute, and cannot be in the past (EC2 API model)."""
    response.error_on_dryrun()
    ami: Any = own(response.ec2_backend, response._get_param("ImageId"))
    moment = _utc(response._get_param("DeprecateAt"))
    if moment < datetime.now(UTC):
        raise EC2ClientError("InvalidParameterValue", "DeprecateAt cannot be in the past")
    ami.deprecation_time = f"{rounded(moment):%Y-%m-%dT%H:%M:%S.000Z}"
    return ActionResult({"Return": True})


def cancel(response: Any) -> ActionResult:
    """DisableImageDeprecation."""
    response.error_on_dryrun()
    ami: Any = own(response.ec2_backend, response._get_param("ImageId"))
    ami.deprecation_time = None
    return ActionResult({"Return": True})


def describe(proceed: Hook, response: Any) -> ActionResult:
    """DescribeImages: IncludeDisabled and IncludeDeprecated, which moto ignores."""
    named = response._get_param("ImageIds", [])
    disabled = response._get_bool_param("IncludeDisabled", False)
    deprecated = response._get_bool_param("IncludeDeprecated", False)

    def shown(ami: Ami) -> bool:
        if ami.state == "disabled":
            return bool(disabled)
        mine = ami.owner_id == response.current_account
        return bool(deprecated or mine or ami.id in named or not is_deprecated(ami, datetime.now(UTC)))

    return ActionResult({"Images": [ami for ami in proceed().result["Images"] if shown(ami)]})


def is_deprecated(ami: Ami, now: datetime) -> bool:
    """Whether the moment of its deprecation has come; who knows its id can still use it (EC2 user guide)."""
    moment = getattr(ami, "deprecation_time", None)
    return moment is not None and datetime.fromisoformat(moment) <= now


def rounded(moment: datetime) -> datetime:
    """Round to the nearest minute."""
    return (moment + timedelta(seconds=30)).replace(second=0, microsecond=0)


def _utc(moment: datetime | str) -> datetime:
    parsed = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
