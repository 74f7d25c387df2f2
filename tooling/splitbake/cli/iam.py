"""``splitbake iam``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitbake import ui
from splitbake.cli import options
from splitbake.errors import SplitbakeError, UsageError
from splitbake.project import Project

if TYPE_CHECKING:
    from splitbake.generate import Compat
    from splitbake.iam.policies import Conditions, Policy, Scope

_GITHUB = "github"
_ROLES = ("builder", "instance", "codebuild", "verifier", "releaser")


@click.command()
@click.argument("role", type=click.Choice([*_ROLES, _GITHUB]), required=False)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write each policy to a file there.")
@click.option("--profile-role", metavar="NAME", default="", help="The role in ami.builder.profile; default: its name.")
@click.option("--job-role", "job_roles", metavar="ARN", multiple=True, help="A role that job definitions hand to jobs.")
@click.option(
    "--launch-template",
    "launch_templates",
    metavar="ID",
    multiple=True,
    help="A launch template that releases may change; default: those with the project's tag.",
)
@click.option(
    "--kms-key", "kms_keys", metavar="ARN", multiple=True, help="A KMS key of the buckets of models and state."
)
@click.option(
    "--packer-compat",
    type=click.Choice(["auto", "1.6", "latest"]),
    default="auto",
    show_default=True,
    help="Which Packer bakes. auto: the one that the HCL on disk is for, 1.6 without any.",
)
@click.option("--repository", metavar="ORG/REPO", default="", help="github: the repository that is trusted.")
@click.option("--ref", metavar="REF", default="", help="github: its branch, refs/heads/main.")
@click.option("--environment", metavar="NAME", default="", help="github: its GitHub environment, in place of --ref.")
@options.project
@options.environment
@options.as_json
def command(
    *,
    role: str | None,
    out: Path | None,
    profile_role: str,
    job_roles: tuple[str, ...],
    launch_templates: tuple[str, ...],
    kms_keys: tuple[str, ...],
    packer_compat: str,
    repository: str,
    ref: str,
    environment: str,
    project: Project,
    env: str | None,
    as_json: bool,
) -> None:
    """Print the least permissions that the roles of this project need. Asks nobody and creates nothing.

    builder: lock, plan, build, gc. instance: the instance that it starts. codebuild: builds of images in CodeBuild.
    verifier: verify. releaser: release, smoke. github: the trust policy of a role for GitHub Actions. Without a role:
    all but that.

    \b
    Examples:
      splitbake iam builder
      splitbake iam --env prod --out iam/
      splitbake iam github --repository my-org/my-repo --ref refs/heads/main
    """
    from splitbake.iam.policies import Scope, policies

    scope = Scope(
        project.manifest,
        project.cloud(env).name,
        profile_role=profile_role,
        job_roles=job_roles,
        launch_templates=launch_templates,
        kms_keys=kms_keys,
        packer=_packer(project, packer_compat),
    )
    if role == _GITHUB:
        _trust(scope, repository, ref=ref, environment=environment, out=out)
        return
    if repository or ref or environment:
        raise UsageError("--repository, --ref and --environment are for: splitbake iam github")
    made = {each: policies(scope, each) for each in ([role] if role else _ROLES)}
    written = [_write(out, policy.name, policy.document()) for each in made.values() for policy in each] if out else []
    if as_json:
        ui.emit_json({each: [_data(policy) for policy in found] for each, found in made.items()})
        return
    for each, found in made.items():
        _show(each, found)
    _tell_how([*made.values()], written)


def _packer(project: Project, wanted: str) -> Compat:
    from splitbake import generate

    if wanted == "auto":
        return generate.committed_compat(project) or "1.6"
    return "1.6" if wanted == "1.6" else "latest"


def _trust(scope: Scope, repository: str, *, ref: str, environment: str, out: Path | None) -> None:
    from splitbake.iam import github

    policy = github.trust(scope, repository, ref=ref, environment=environment)
    if out:
        click.echo(f"wrote {_write(out, f'splitbake-{scope.project}-{scope.name}-trust', policy)}", err=True)
    click.echo(_text(policy))


def _data(policy: Policy) -> dict[str, Any]:
    return {"name": policy.name, "policy": policy.document(), "reasons": policy.reasons, "size": policy.size}


def _write(folder: Path, name: str, document: dict[str, Any]) -> Path:
    from splitbake import files

    path = folder / f"{name}.json"
    files.replace(path, _text(document) + "\n", SplitbakeError)
    return path


def _text(document: dict[str, Any]) -> str:
    """Return a policy as IAM takes it, which is without any character beyond U+00FF."""
    return json.dumps(document, indent=2, ensure_ascii=True)


def _show(role: str, found: list[Policy]) -> None:
    if not found:
        click.echo(f"{role}: no permission at all; no role is needed\n")
    for policy in found:
        click.secho(f"{role}: policy {policy.name} ({policy.size} characters)\n", bold=True)
        for one in policy.statements:
            conditions = [f"{operator} {key}: {_listed(values)}" for operator, key, values in _flat(one.conditions)]
            click.echo(f"  {one.sid}")
            _lines("allow", sorted(one.actions))
            _lines("on", one.resources)
            _lines("if", conditions)
            _lines("wide:", [one.why] if one.why else [])


def _lines(title: str, texts: Sequence[str]) -> None:
    for number, text in enumerate(texts):
        click.echo(f"    {'' if number else title:6} {text}")


def _flat(conditions: Conditions) -> list[tuple[str, str, str | Sequence[str]]]:
    return [(operator, key, values) for operator, keys in conditions.items() for key, values in keys.items()]


def _listed(values: str | Sequence[str]) -> str:
    return values if isinstance(values, str) else ", ".join(values)


def _tell_how(made: list[list[Policy]], written: list[Path]) -> None:
    for path in written:
        click.echo(f"wrote {path}", err=True)
    names = [policy.name for found in made for policy in found]
    if names and not written:
        click.echo("To create them: splitbake iam --out iam, then for each policy", err=True)
        click.echo(
            f"  aws iam create-policy --policy-name {names[0]} --policy-document file://iam/{names[0]}.json", err=True
        )
