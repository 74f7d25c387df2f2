"""The least policies of a project, made from its manifest: pure, nothing is asked and nothing is created."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from splitbake.errors import UsageError
from splitbake.iam.needs import partition
from splitbake.manifest import Environment, Manifest

if TYPE_CHECKING:
    from splitbake.generate import Compat

#: Characters of a managed policy, white space not counted (IAM user guide, "IAM and AWS STS quotas").
LIMIT: Final = 6144
#: What everything of a project carries.
PROJECT_TAG: Final = "splitbake:project"
#: The tag of a resource that exists, and the one that a call gives.
HAS: Final = f"aws:ResourceTag/{PROJECT_TAG}"
GETS: Final = f"aws:RequestTag/{PROJECT_TAG}"

#: Operator -> condition key -> values.
Conditions = Mapping[str, Mapping[str, str | Sequence[str]]]

#: What policies read as syntax, and a policy's own way to write it as plain text: ``${*}``.
_SYNTAX: Final = re.compile(r"[*?$]")
_ESCAPED: Final = re.compile(r"\$\{[*?$]\}")


def literal(text: str) -> str:
    """Return ``text``, of a manifest or an option, as a policy takes it for what it says."""
    return _SYNTAX.sub(r"${\g<0>}", text)


def named(text: str, key: str) -> str:
    """Return ``text``, the name of a thing, which is an ARN's own part.

    Raises:
        UsageError: it holds syntax of policies, which no name can have; ``key`` says where it comes from.
    """
    if _SYNTAX.search(text):
        raise UsageError(f"{key}: {text!r} cannot stand in a policy", hint="*, ? and $ are in no name that AWS gives")
    return text


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One permission.

    Attributes:
        sid: letters and digits, each once in a policy.
        actions: each with its service, ``ec2:RunInstances``.
        resources: ARNs.
        conditions: what must hold as well.
        why: the reason of each wildcard in it; empty where it has none.
    """

    sid: str
    actions: Sequence[str]
    resources: Sequence[str]
    conditions: Conditions = field(default_factory=dict)
    why: str = ""

    @property
    def is_wide(self) -> bool:
        """Whether a wildcard stands in its actions or resources."""
        return any(set("*?") & set(_ESCAPED.sub("", text)) for text in (*self.actions, *self.resources))

    def document(self) -> dict[str, Any]:
        """Return it as IAM takes it."""
        conditions = {
            operator: {key: text if isinstance(text, str) else list(text) for key, text in keys.items()}
            for operator, keys in self.conditions.items()
        }
        return {
            "Sid": self.sid,
            "Effect": "Allow",
            "Action": sorted(self.actions),
            "Resource": sorted(set(self.resources)),
            **({"Condition": conditions} if conditions else {}),
        }


@dataclass(frozen=True)
class Policy:
    """A managed policy.

    Attributes:
        name: unique in the account.
        statements: what it allows.
    """

    name: str
    statements: Sequence[Statement]

    def document(self) -> dict[str, Any]:
        """Return it as IAM takes it."""
        return {"Version": "2012-10-17", "Statement": [one.document() for one in self.statements]}

    @property
    def reasons(self) -> dict[str, str]:
        """Sid -> why it has wildcards; JSON policies cannot carry comments."""
        return {one.sid: one.why for one in self.statements if one.why}

    @property
    def size(self) -> int:
        """Characters, as IAM counts them."""
        return size(self.document())


def size(document: Mapping[str, Any]) -> int:
    """Return the characters of a policy document without white space between its parts.

    IAM takes none beyond U+00FF, so they count as the escapes by which JSON writes them.
    """
    return len(json.dumps(document, separators=(",", ":"), ensure_ascii=True))


_ROLE_ARN: Final = r"arn:aws[a-z-]*:iam::\d{12}:role/[A-Za-z0-9_+=,.@/-]+"
_KEY_ARN: Final = r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+"
#: Attribute of Scope -> the option that it comes from, the form of each of its values, and how such a value looks.
_OPTIONS: Final = {
    "profile_role": ("--profile-role", r"[A-Za-z0-9_+=,.@-]+", "my-builders"),
    "job_roles": ("--job-role", _ROLE_ARN, "arn:aws:iam::123456789012:role/job"),
    "launch_templates": ("--launch-template", "lt-[0-9a-f]{8,17}", "lt-0a1b2c3d4e5f60718"),
    "kms_keys": ("--kms-key", _KEY_ARN, "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
}


@dataclass(frozen=True)
class Scope:
    """The project in one of its environments: where the resources of its policies are.

    Attributes:
        manifest: of the project.
        name: of the environment.
        profile_role: name of the role in ``ami.builder.profile``.
        job_roles: ARNs of the roles that job definitions hand to their jobs.
        launch_templates: ids of those that the releaser may change; none: all that carry the project's tag.
        kms_keys: ARNs of the keys by which the buckets of models and state are encrypted.
        packer: which Packer bakes. 1.6 tags what it makes when it is there; a current one with the call that makes it.

    Raises:
        UsageError: an option does not name one thing.
    """

    manifest: Manifest
    name: str
    _: KW_ONLY
    profile_role: str = ""
    job_roles: Sequence[str] = ()
    launch_templates: Sequence[str] = ()
    kms_keys: Sequence[str] = ()
    packer: Compat = "1.6"

    def __post_init__(self) -> None:
        """Check the options."""
        for name, (option, form, example) in _OPTIONS.items():
            given = getattr(self, name)
            texts = ([given] if given else []) if isinstance(given, str) else given
            for text in texts:
                if not re.fullmatch(form, text, re.ASCII):
                    raise UsageError(
                        f"{option} {text!r} has not the form that it must have", hint=f"for example {example}"
                    )

    @property
    def environment(self) -> Environment:
        """The environment."""
        return self.manifest.environments[self.name]

    @property
    def project(self) -> str:
        """Name of the project."""
        return self.manifest.project

    @property
    def place(self) -> str:
        """Account and region, as keys of the state begin."""
        return f"{self.environment.account}/{self.environment.region}"

    @property
    def regions(self) -> list[str]:
        """Its own region, and those that the AMI is copied to once it is baked."""
        return list(dict.fromkeys([self.environment.region, *(one.region for one in self.manifest.ami.copies)]))

    def arn(self, service: str, resource: str, *, account: str | None = None, region: str | None = None) -> str:
        """Return an ARN of the environment's account and region unless others are given."""
        where = self.environment.region if region is None else region
        owner = self.environment.account if account is None else account
        return f"arn:{partition(self.environment.region)}:{service}:{where}:{owner}:{resource}"

    def ec2(self, kind: str, name: str = "*") -> str:
        """Return the ARN of a resource of EC2; AMIs and snapshots have no account in theirs."""
        return self.arn("ec2", f"{kind}/{name}", account="" if kind in {"image", "snapshot"} else None)

    def everywhere(self, *kinds: str) -> list[str]:
        """Return the ARNs of all AMIs or snapshots in all regions of the AMI."""
        return [self.arn("ec2", f"{kind}/*", account="", region=region) for kind in kinds for region in self.regions]

    def s3(self, path: str) -> str:
        """Return the ARN of a bucket, or with a key of objects."""
        return self.arn("s3", path, account="", region="")

    def iam(self, resource: str) -> str:
        """Return an ARN of IAM, which has no regions."""
        return self.arn("iam", resource, region="")

    @property
    def owned(self) -> Conditions:
        """On what carries the project's tag."""
        return {"StringEquals": {HAS: self.project}}

    @property
    def marked(self) -> Conditions:
        """On what gets the project's tag by this very call."""
        return {"StringEquals": {GETS: self.project}}

    def via(self, service: str, *regions: str) -> Conditions:
        """For a KMS key that ``service`` uses in the name of the caller."""
        end = ".cn" if partition(self.environment.region) == "aws-cn" else ""
        return {"StringEquals": {"kms:ViaService": [f"{service}.{one}.amazonaws.com{end}" for one in regions]}}


#: Role -> what it may do, in the order in which they are printed.
_MAKERS: Final[Mapping[str, str]] = {
    "builder": "splitbake.iam.building:builder",
    "instance": "splitbake.iam.building:instance",
    "codebuild": "splitbake.iam.codebuild:service",
    "verifier": "splitbake.iam.verifying:verifier",
    "releaser": "splitbake.iam.releasing:releaser",
}
ROLES: Final = tuple(_MAKERS)


def statements(scope: Scope, role: str) -> list[Statement]:
    """Return what ``role`` may do: a name of ``ROLES``."""
    import importlib

    module, _, name = _MAKERS[role].partition(":")
    make: Callable[[Scope], Iterable[Statement]] = getattr(importlib.import_module(module), name)
    return list(make(scope))


def policies(scope: Scope, role: str) -> list[Policy]:
    """Return the policies of ``role``, none where it needs none, several where one would be too large.

    Raises:
        UsageError: a single statement is larger than a policy may be.
    """
    name = f"splitbake-{scope.project}-{scope.name}-{role}"
    groups: list[list[Statement]] = []
    for one in statements(scope, role):
        if groups and Policy(name, [*groups[-1], one]).size <= LIMIT:
            groups[-1].append(one)
        else:
            groups.append([one])
    made = [Policy(name if len(groups) == 1 else f"{name}-{i}", group) for i, group in enumerate(groups, start=1)]
    if large := [one for one in made if one.size > LIMIT]:
        raise UsageError(
            f"the policy {large[0].name} would have {large[0].size} characters, IAM takes {LIMIT}",
            hint="name folders in models.files instead of single files",
        )
    return made
