"""From where a temporary instance may be reached by SSH: as narrow as can be known."""

from __future__ import annotations

import ipaddress
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

from splitbake.cloud import Cloud, aws_errors
from splitbake.errors import CloudError
from splitbake.ui import Say

ANYWHERE: Final = "0.0.0.0/0"
#: Private addresses (RFC 1918) and those of carriers and overlay networks (RFC 6598).
_PRIVATE: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
#: AWS's own service that answers with the address from which it was asked.
_WHO_AM_I: Final = "https://checkip.amazonaws.com/"
_TIMEOUT = 5
_LONGEST = 64


def sources(cloud: Cloud, connect: str, vpc: Mapping[str, Any], say: Say) -> list[str]:
    """Return the networks that need port 22 of an instance in ``vpc``; none for Session Manager.

    Args:
        cloud: where. Nobody outside is asked for the sake of an endpoint that is not AWS's.
        connect: of ``ami.builder``.
        vpc: as DescribeVpcs has it.
        say: is told where the port stays open to everybody.
    """
    if connect == "session-manager":
        return []
    if connect == "private-ip":
        blocks = [one["CidrBlock"] for one in vpc.get("CidrBlockAssociationSet", [])]
        return sorted({vpc["CidrBlock"], *blocks, *_PRIVATE})
    address = public_address() if cloud.endpoint is None else None
    if address is None:
        if cloud.endpoint is None:
            say(f"port 22 of the instance is open to every address: {_WHO_AM_I} does not say which one is ours")
        return [ANYWHERE]
    return [f"{address}/32"]


def public_address() -> str | None:
    """Return the public IPv4 address from which this machine talks to AWS; None where it cannot be told.

    It is asked directly, as SSH goes, and twice: a network with several ways out may answer differently.
    """
    answers = {_ask(), _ask()}
    return answers.pop() if len(answers) == 1 else None


def vpc_of(ec2: Any, subnet: str | None) -> Mapping[str, Any]:
    """Return the VPC of ``subnet``; without one the default VPC.

    Raises:
        CloudError: AWS could not be asked, or there is none.
    """
    with aws_errors(f"look for the VPC of {subnet or 'this region'}"):
        if subnet:
            vpc = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"]
            found = ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"]
        else:
            found = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not found:
        raise CloudError("this region has no default VPC", hint="name a subnet in ami.builder.subnet")
    vpc_found: Mapping[str, Any] = found[0]
    return vpc_found


def _ask() -> str | None:
    # A proxy for HTTPS has another address than SSH, which does not use it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(_WHO_AM_I, timeout=_TIMEOUT) as answer:
            address = ipaddress.IPv4Address(answer.read(_LONGEST).decode("ascii").strip())
    except (OSError, ValueError):
        return None
    return str(address) if address.is_global else None
