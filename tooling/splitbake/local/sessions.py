"""Sessions of roles: the keys that AssumeRole gives, as real as those of an account.

moto keeps them in its books, with the role that they stand for; the guard finds them there. They are made of real
chance here, and only for a role that exists.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from splitbake.iam.needs import partition
from splitbake.local.hooks import Hook, around
from splitbake.local.keys import Key


@dataclass(frozen=True)
class Session(Key):
    """The temporary key of a role.

    Attributes:
        arn: of the session, ``arn:aws:sts::…:assumed-role/ROLE/NAME``.
        role: name of the role.
        token: the session token, which must come with every call.
        expires: when the key ends.
    """

    arn: str
    role: str
    token: str = field(repr=False)
    expires: datetime


def install() -> None:
    """Hook AssumeRole and its two kindred."""
    from moto.sts.models import STSBackend
    from moto.sts.responses import TokenResponse

    around(STSBackend, "assume_role", _assume)
    for name in ("assume_role", "assume_role_with_saml", "assume_role_with_web_identity"):
        around(TokenResponse, name, _without_policies)


def find(key_id: str) -> Session | None:
    """Return the session whose access key is ``key_id``, expired or not; None where there is none."""
    from moto.sts.models import sts_backends

    for _, partitions in list(sts_backends.items()):
        for _, books in list(partitions.items()):
            found = books.get_assumed_role_from_access_key(key_id)
            if found is not None:
                return Session(
                    account=found.account_id,
                    id=found.access_key_id,
                    secret=found.secret_access_key,
                    arn=found.arn,
                    role=found.role_arn.rpartition("/")[2],
                    token=found.session_token,
                    expires=found.expiration.replace(tzinfo=UTC),
                )
    return None


def assume(environment: Mapping[str, str], key: Key, role: str) -> dict[str, str]:
    """Return the variables of a new session of ``role``, to lie over those of its account's own key.

    Raises:
        CloudError: there is no such role.
    """
    import boto3

    from splitbake.cloud import aws_errors

    session = boto3.Session(key.id, key.secret, region_name=environment["AWS_REGION"])
    with aws_errors(f"assume the role {role}"):
        answer = session.client("sts", endpoint_url=environment["AWS_ENDPOINT_URL"]).assume_role(
            RoleArn=f"arn:{partition(environment['AWS_REGION'])}:iam::{key.account}:role/{role}",
            RoleSessionName="splitbake-local",
        )["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": answer["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": answer["SecretAccessKey"],
        "AWS_SESSION_TOKEN": answer["SessionToken"],
    }


def _without_policies(proceed: Hook, response: Any) -> Any:
    """Refuse session policies: nothing here would hold the session to them."""
    from moto.sts.exceptions import STSClientError

    if response._get_param("Policy") or response._get_param("PolicyArns"):
        raise STSClientError("UnsupportedOperation", "The local cloud knows no session policies (Policy, PolicyArns)")
    return proceed()


def _assume(proceed: Hook, books: Any, **options: Any) -> Any:
    """AssumeRole: of a role that exists, with a key that nobody can guess."""
    from moto.iam.exceptions import NotFoundException
    from moto.iam.models import iam_backends
    from moto.sts.exceptions import STSClientError

    arn = options["role_arn"]
    account = arn.split(":")[4] if arn.count(":") > 4 else ""  # noqa: PLR2004 - the fifth part of an ARN
    try:
        iam_backends[account or books.account_id][books.partition].get_role_by_arn(arn)
    except NotFoundException:
        text = f"User is not authorized to perform: sts:AssumeRole on resource: {arn}"
        raise STSClientError("AccessDenied", text) from None
    role = proceed(**options)
    role.secret_access_key = secrets.token_urlsafe(30)
    role.session_token = secrets.token_urlsafe(90)
    return role
