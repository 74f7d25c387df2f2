"""The trust policy of a role for GitHub Actions: exactly one repository, on one branch, tag or environment."""

from __future__ import annotations

import re
from typing import Any, Final

from splitbake.errors import UsageError
from splitbake.iam.policies import Scope

#: GitHub's identity provider, and the audience that its action for AWS asks for.
PROVIDER: Final = "token.actions.githubusercontent.com"
AUDIENCE: Final = "sts.amazonaws.com"

#: Repositories made from June 2026 on have the numbers of owner and repository in their claims, so that a name that is
#: given away takes no trust along (GitHub changelog of 2026-04-23; the "@" from github/docs#45221).
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}(?P<id>@[0-9]+)?/[A-Za-z0-9._-]{1,100}(?(id)@[0-9]+)")
_REF = re.compile(r"refs/(?:heads|tags)/[^\s*?$:\[\\^~]+")
_ENVIRONMENT = re.compile(r"[^\s*?$:][^*?$:]{0,254}")


def subject(repository: str, *, ref: str = "", environment: str = "") -> str:
    """Return the ``sub`` claim of the workflows that are trusted.

    A workflow that names an environment has that in its claim and no branch, so it is one or the other.

    Args:
        repository: ``ORG/REPO``, or ``ORG@NUMBER/REPO@NUMBER`` where its claims have numbers.
        ref: ``refs/heads/main`` or ``refs/tags/v1``.
        environment: name of a GitHub environment.

    Raises:
        UsageError: it would trust more than that: a wildcard, or neither branch nor environment.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UsageError(
            f"--repository {repository!r} is not one repository",
            hint="write ORG/REPO as the repository's OIDC settings show it; a wildcard would trust others",
        )
    if bool(ref) == bool(environment):
        raise UsageError(
            "either --ref or --environment must be given: else every branch and pull request would be trusted",
            hint="--ref refs/heads/main, or --environment prod with protection rules in GitHub",
        )
    if ref and not _REF.fullmatch(ref):
        raise UsageError(
            f"--ref {ref!r} is not one branch or tag", hint="write refs/heads/main or refs/tags/v1, without wildcards"
        )
    if environment and not _ENVIRONMENT.fullmatch(environment):
        raise UsageError(f"--environment {environment!r} is not one environment", hint="write its name, no wildcard")
    return f"repo:{repository}:{f'ref:{ref}' if ref else f'environment:{environment}'}"


def trust(scope: Scope, repository: str, *, ref: str = "", environment: str = "") -> dict[str, Any]:
    """Return the trust policy; the account must have GitHub's identity provider.

    Raises:
        UsageError: see ``subject``.
    """
    claims = {"aud": AUDIENCE, "sub": subject(repository, ref=ref, environment=environment)}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "GitHubActions",
                "Effect": "Allow",
                "Principal": {"Federated": scope.iam(f"oidc-provider/{PROVIDER}")},
                "Action": "sts:AssumeRoleWithWebIdentity",
                "Condition": {"StringEquals": {f"{PROVIDER}:{claim}": value for claim, value in claims.items()}},
            }
        ],
    }
