"""The AWS side of one environment: clients from standard boto3 configuration, and the guard before any change.

Whether the endpoint is AWS or another one matters to the guard, and to ``bake/ingress.py``, which has AWS tell our own
address; nothing else here or above makes a difference between AWS and the local cloud.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from splitbake.errors import CloudError, GuardError
from splitbake.manifest import Environment

if TYPE_CHECKING:
    from boto3.session import Session

#: Seconds, and how often a throttled or failed call is tried again.
_CONNECT_TIMEOUT, _READ_TIMEOUT, _ATTEMPTS = 5, 60, 5


@dataclass(frozen=True)
class Identity:
    """Who is asking, where, and through which endpoint (None: AWS's own)."""

    account: str
    arn: str
    region: str
    endpoint: str | None

    def __str__(self) -> str:
        return f"account {self.account}, region {self.region}, endpoint {self.endpoint or 'AWS'}"


@dataclass(frozen=True)
class Cloud:
    """AWS as one environment of the manifest sees it."""

    name: str
    environment: Environment
    _clients: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    #: A session of boto3 must not make two clients at once; clients themselves are for all threads (boto3's guide).
    _opening: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @cached_property
    def session(self) -> Session:
        """A boto3 session in the environment's region, with credentials from boto3's usual places."""
        import boto3

        return boto3.session.Session(region_name=self.environment.region)

    def at(self, region: str) -> Cloud:
        """Return the same account in another region."""
        return Cloud(self.name, self.environment.model_copy(update={"region": region}))

    def client(self, service: str, *, region: str | None = None) -> Any:
        """Return the (cached) boto3 client of ``service``, for example ``ec2``; ``region``: another one than ours.

        It asks the endpoint that ``guard`` compares and shows: what configuration says of single services is left
        aside.

        Raises:
            CloudError: the configuration (profile, endpoint) makes no client.
        """
        key = f"{service} {region}" if region else service
        with self._opening:
            if key not in self._clients:
                self._clients[key] = self._open(service, region)
            return self._clients[key]

    def _open(self, service: str, region: str | None) -> Any:
        from botocore.config import Config

        settings: dict[str, Any] = {
            "connect_timeout": _CONNECT_TIMEOUT,
            "read_timeout": _READ_TIMEOUT,
            "retries": {"mode": "standard", "max_attempts": _ATTEMPTS},
            "ignore_configured_endpoint_urls": True,  # the stubs do not know it
            # Presigned URLs of version 4 also open objects that are encrypted with KMS.
            "signature_version": "s3v4" if service == "s3" else None,
        }
        with aws_errors(f"open the {service} client"):
            open_client: Any = self.session.client  # the stubs list every service by name
            try:
                return open_client(service, region_name=region, endpoint_url=self.endpoint, config=Config(**settings))
            except ValueError as problem:
                raise CloudError(
                    f"AWS_ENDPOINT_URL is {self.endpoint!r}: {problem}", hint="correct it, or unset it"
                ) from problem

    @property
    def endpoint(self) -> str | None:
        """The custom endpoint of this process (AWS_ENDPOINT_URL), None for AWS's own."""
        return os.environ.get("AWS_ENDPOINT_URL") or None

    def require_endpoint(self) -> None:
        """Compare the endpoint with the environment's; asks nobody.

        Raises:
            GuardError: they differ.
        """
        wanted = self.environment
        if wanted.endpoint == "custom" and self.endpoint is None:
            raise GuardError(
                f"environment {self.name!r} runs on a custom endpoint, but AWS_ENDPOINT_URL is not set",
                hint='for the local cloud: splitbake local up, then eval "$(splitbake local env)"',
            )
        if wanted.endpoint == "aws" and self.endpoint is not None:
            raise GuardError(
                f"environment {self.name!r} is on AWS, but AWS_ENDPOINT_URL points to {self.endpoint}",
                hint="unset AWS_ENDPOINT_URL, or choose the environment of that endpoint with --env",
            )

    def guard(self) -> Identity:
        """Compare account, region and endpoint with the environment's, before anything is changed.

        Raises:
            GuardError: they differ; the message says in what.
        """
        self.require_endpoint()
        wanted = self.environment
        with aws_errors("ask STS who is calling"):
            caller = self.client("sts").get_caller_identity()
        if caller["Account"] != wanted.account:
            raise GuardError(
                f"environment {self.name!r} belongs to account {wanted.account}, the credentials in use belong to "
                f"{caller['Account']} ({caller['Arn']})",
                hint="choose the right profile (AWS_PROFILE), or another environment with --env",
            )
        return Identity(caller["Account"], caller["Arn"], wanted.region, self.endpoint)


@contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Turn boto3's exceptions into one CloudError that says what was being done.

    Args:
        doing: completes "could not …", for example "describe launch template x".
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as problem:
        error = problem.response.get("Error", {})
        message = f"could not {doing}: {problem.operation_name} answered {error.get('Code')}: {error.get('Message')}"
        raise CloudError(message, hint=_missing(message) or _hint(error.get("Code", ""))) from problem
    except ResponseParserError as problem:
        message = f"could not {doing}: the answer is not one of AWS: {str(problem).splitlines()[0]}"
        hint = "does a proxy answer in its place? check AWS_ENDPOINT_URL and the proxy's settings"
        raise CloudError(message, hint=hint) from problem
    except BotoCoreError as problem:
        raise CloudError(f"could not {doing}: {problem}", hint=_hint(type(problem).__name__)) from problem


_LOG_IN = "the credentials have expired, or are not valid; log in again"
_REACH = "is the endpoint reachable from here? check AWS_ENDPOINT_URL, proxy and network"
_PERMIT = "the role lacks this permission; splitbake iam prints the policies that each role needs"
#: boto3's exception or AWS's error code -> what to do.
_HINTS = {
    "NoCredentialsError": "set credentials: AWS_PROFILE, or the variables of splitbake local env",
    "PartialCredentialsError": "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "ProfileNotFound": "correct AWS_PROFILE, or make the profile with aws configure",
    "EndpointConnectionError": "is the endpoint up? for the local cloud: splitbake local status",
    "ConnectTimeoutError": _REACH,
    "ReadTimeoutError": _REACH,
    "ConnectionClosedError": _REACH,
    "ProxyConnectionError": _REACH,
    "SSLError": "is the proxy's certificate known here? set AWS_CA_BUNDLE",
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidClientTokenId"), _LOG_IN),
    **dict.fromkeys(("SignatureDoesNotMatch", "UnrecognizedClientException", "AuthFailure"), _LOG_IN),
    **dict.fromkeys(("UnauthorizedSSOTokenError", "SSOTokenLoadError", "TokenRetrievalError"), _LOG_IN),
    **dict.fromkeys(("UnauthorizedOperation", "AccessDeniedException"), _PERMIT),
    "AccessDenied": f"{_PERMIT}, or the endpoint refused the key",
    "NoSuchBucket": "create the bucket, or correct its name in the manifest",
}


#: How AWS names the action that a role may not do ("Access denied error messages", IAM user guide).
_LACKED = re.compile(r"is not authorized to perform: (\S+?:\S+)")


def _hint(code: str) -> str:
    return _HINTS.get(code, "")


def _missing(message: str) -> str:
    """Return what to do where ``message`` says which action is not allowed, else nothing."""
    found = _LACKED.search(message)
    return f"the role lacks {found[1]}; splitbake iam prints the policies that each role needs" if found else ""


def error_code(problem: CloudError) -> str:
    """Return AWS's error code behind ``problem``, empty where there was no answer."""
    response = getattr(problem.__cause__, "response", {})
    return str(response.get("Error", {}).get("Code", ""))
