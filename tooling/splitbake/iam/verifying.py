"""What the verifier may do: boot AMIs of the project, pull its image, write reports."""

from __future__ import annotations

from collections.abc import Iterator

from splitbake.catalog import leases
from splitbake.iam import access, common
from splitbake.iam.building import SSH_DOCUMENT
from splitbake.iam.policies import Scope, Statement
from splitbake.manifest import ways


def verifier(scope: Scope) -> Iterator[Statement]:
    """Yield what verify needs: it starts nothing but AMIs of the project, and ends nothing but its own."""
    manifest = scope.manifest
    yield common.describing(
        scope,
        *("DescribeImages", "DescribeInstances", "DescribeKeyPairs", "DescribeNetworkInterfaces"),
        *("DescribeSecurityGroups", "DescribeSubnets", "DescribeVolumes", "DescribeVpcs"),
    )
    yield from common.models(scope)
    found = (f"{what}/{scope.place}/*" for what in ("reports", "inventories", "sboms"))
    own = (*found, f"runs/{scope.place}/*/verify/*")
    held = leases("verify", scope.environment.account, scope.environment.region)
    yield from common.state(scope, *own, f"leases/{held}*")
    yield from common.bucket_keys(scope)
    yield from common.registry(scope, [manifest.image.repository])
    yield from access.granted(scope)
    booted = Statement(
        sid="RunOwnAmi",
        actions=["ec2:RunInstances"],
        resources=[scope.ec2("image")],
        conditions=scope.owned,
        why=common.TAGGED,
    )
    yield from access.launching(scope, instance_type=manifest.verify.instance_type, image=booted, tokens=True)
    if manifest.ami.builder.connect == "session-manager":  # else the instance has no role
        yield from access.passing(scope)
        yield from access.temporary_role(scope)
        yield from access.sessions(scope, SSH_DOCUMENT)
    yield from common.sharing(scope, receivers(scope))
    if key := manifest.ami.kms_key:
        here = scope.environment
        yield from common.ebs_key(scope, key=key, account=here.account, region=here.region)


def receivers(scope: Scope) -> list[str]:
    """Return the accounts that a verified AMI is shared with."""
    others = ways.receivers(scope.manifest.environments, scope.name)
    return sorted({*others, *scope.manifest.ami.share} - {scope.environment.account})
