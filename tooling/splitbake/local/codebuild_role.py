"""What CodeBuild does in the name of a project's role, and only where the role's policies allow it.

The role is assumed by CodeBuild, so its trust policy has to say so. Its session is what the commands of a build get;
the source, the secrets and the log are fetched and written by CodeBuild itself, with the same rights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from moto.core.exceptions import JsonRESTError
from moto.iam.exceptions import NotFoundException
from moto.iam.models import iam_backends
from moto.s3.exceptions import MissingBucket
from moto.s3.models import s3_backends
from moto.secretsmanager.models import secretsmanager_backends
from moto.ssm.models import ssm_backends
from moto.sts.exceptions import STSClientError
from moto.sts.models import sts_backends

from splitbake.iam.calls import Call
from splitbake.iam.evaluate import Request, UnjudgedError, evaluate
from splitbake.iam.needs import Asked, partition
from splitbake.local.books import Books
from splitbake.local.codebuild_builds import Build, Context, Failure

#: Life of the credentials of a build: as long as a build may take, and its time in the queue.
SESSION: Final = timedelta(hours=36 + 8)
_SERVICE: Final = "codebuild.amazonaws.com"


def trusts(role: str, account: str, region: str, project: str) -> bool:
    """Return whether CodeBuild may assume the role of that ARN, for the project of that ARN."""
    try:
        found = iam_backends[account][partition(region)].get_role_by_arn(role)
        document = json.loads(found.assume_role_policy_document)
        context = {"aws:sourceaccount": (account,), "aws:sourcearn": (project,)}
        asked = Request("sts:AssumeRole", role, context, principal={"Service": _SERVICE})
        return evaluate([document], asked) == "allowed"
    except (NotFoundException, UnjudgedError, ValueError, KeyError):
        return False


class Role:
    """The role of one build."""

    def __init__(self, build: Build) -> None:
        """Assume it.

        Raises:
            Failure: it is gone.
        """
        self._build = build
        self._arn = str(build.settings["serviceRole"])
        try:
            self._session = sts_backends[build.account][partition(build.region)].assume_role(
                region_name=build.region,
                role_session_name=f"AWSCodeBuild-{build.uuid}",
                role_arn=self._arn,
                policy=None,  # type: ignore[arg-type] # what moto's own response passes where there is none
                duration=int(SESSION.total_seconds()),
                external_id=None,  # type: ignore[arg-type]
            )
        except STSClientError as problem:
            text = f"CodeBuild is not authorized to perform: sts:AssumeRole on {self._arn}"
            raise Failure(Context("ACCESS_DENIED", text)) from problem

    @property
    def credentials(self) -> Mapping[str, str]:
        """The variables of its session."""
        return {
            "AWS_ACCESS_KEY_ID": str(self._session.access_key_id),
            "AWS_SECRET_ACCESS_KEY": str(self._session.secret_access_key),
            "AWS_SESSION_TOKEN": str(self._session.session_token),
        }

    def refusal(self, action: str, *resources: str) -> str:
        """Return in AWS's words why the role may not do ``action``; empty where it may, on one of ``resources``."""
        books = Books(self._build.account, self._build.region)
        call = Call(
            principal=self._session.arn, account=books.account, region=books.region, service="codebuild", operation=""
        )
        asked = Asked(call, books)
        text = f"User: {self._session.arn} is not authorized to perform: {action} on resource: {resources[0]}"
        try:
            policies, boundary = books.policies(self._arn.rpartition("/")[2])
            verdicts = [evaluate(policies, asked.request(action, one), boundary=boundary) for one in resources]
        except UnjudgedError as problem:
            return f"{text}: the local cloud cannot judge it: {problem.message}"
        if "allowed" in verdicts:
            return ""
        return f"{text} because no identity-based policy allows the {action} action"

    def source(self, location: str, version: str | None) -> bytes:
        """Return the object at ``bucket/key``.

        Raises:
            Failure: there is none, or the role may not read it.
        """
        aws = partition(self._build.region)
        bucket, _, key = location.removeprefix(f"arn:{aws}:s3:::").partition("/")
        where = f"for primary source and source version arn:{aws}:s3:::{bucket}/{key}"
        if self.refusal(f"s3:GetObject{'Version' if version else ''}", f"arn:{aws}:s3:::{bucket}/{key}"):
            raise Failure(Context("CLIENT_ERROR", f"AccessDenied: Access Denied status code: 403 {where}"))
        try:
            found = s3_backends[self._build.account][aws].get_object(bucket, key, version_id=version)
        except MissingBucket:
            text = f"NoSuchBucket: The specified bucket does not exist status code: 404 {where}"
            raise Failure(Context("CLIENT_ERROR", text)) from None
        if found is None:
            text = f"NoSuchKey: The specified key does not exist. status code: 404 {where}"
            raise Failure(Context("CLIENT_ERROR", text))
        return bytes(found.value)

    def secret(self, reference: str) -> str:
        """Return a secret of Secrets Manager, ``secret-id:json-key:version-stage:version-id``, or by its ARN.

        Raises:
            Failure: there is none, or the role may not read it.
        """
        name, key, stage, version = split_secret(reference)
        books = secretsmanager_backends[self._build.account][self._build.region]
        arn = (
            str(books.secrets[name].arn) if name in books.secrets else self._arn_of("secretsmanager", f"secret:{name}")
        )
        if refused := self.refusal("secretsmanager:GetSecretValue", arn):
            raise Failure(Context("Secrets Manager Error", f"AccessDeniedException: {refused}"))
        try:
            found = books.get_secret_value(name, version or None, stage)  # type: ignore[arg-type]
            text = str(found["SecretString"])
            return str(json.loads(text)[key]) if key else text
        except JsonRESTError as problem:
            raise Failure(Context("Secrets Manager Error", f"{problem.error_type}: {problem.message}")) from problem
        except (KeyError, TypeError, ValueError) as problem:
            text = f"ResourceNotFoundException: the secret {name} has no text{f' at {key}' if key else ''}"
            raise Failure(Context("Secrets Manager Error", text)) from problem

    def parameter(self, name: str) -> str:
        """Return a parameter of Systems Manager, decrypted.

        Raises:
            Failure: there is none, or the role may not read it.
        """
        if refused := self.refusal("ssm:GetParameters", self._arn_of("ssm", f"parameter/{name.removeprefix('/')}")):
            raise Failure(Context("Decrypted Variables Error", f"AccessDeniedException: {refused}"))
        found: Any = ssm_backends[self._build.account][self._build.region].get_parameters([name]).get(name)
        if found is None:
            raise Failure(Context("Decrypted Variables Error", f"parameter does not exist: {name}"))
        return str(found.decrypt(found.value))

    def _arn_of(self, service: str, resource: str) -> str:
        return f"arn:{partition(self._build.region)}:{service}:{self._build.region}:{self._build.account}:{resource}"


def split_secret(reference: str) -> tuple[str, str, str, str]:
    """Return the id, key in the JSON, stage and version of a secret; the id may be an ARN, which has six colons."""
    parts = reference.split(":")
    size = 7 if reference.startswith("arn:") else 1
    key, stage, version, *_ = [*parts[size:], "", "", ""]
    return ":".join(parts[:size]), key, stage, version
