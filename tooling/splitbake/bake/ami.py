"""Baking the AMI: what Packer needs is laid out in a private folder, Packer runs, and what it made is finished."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from splitbake import contract, files, generate
from splitbake.artifact import Artifact, now
from splitbake.bake import access, amis, finish, packer, recipe, rundir, uploads
from splitbake.bake.access import Access
from splitbake.bake.progress import Output
from splitbake.bake.rundir import RunFolder
from splitbake.cloud import Cloud, aws_errors
from splitbake.errors import BuildError, CloudError, SplitbakeError
from splitbake.generate import Compat, source
from splitbake.generate import packer as generated
from splitbake.project import Project
from splitbake.ui import Say, silent
from splitbake.verify import gate

_VARIABLES = "run.pkrvars.json"
_RECORD = "record.json"
_GATE = "gate"
_LOG = Path("build/logs/packer.log")
#: What Packer 1.6 has no setting for (generate.source has it): the builder answers IMDSv2 only, and no container on it.
_TOKENS = {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}


def bake(
    project: Project, cloud: Cloud, *, fingerprint: str, say: Say, require: Callable[[], None] = lambda: None
) -> Artifact:
    """Bake the AMI of the project as it is now; the caller has compared the account already.

    Whatever goes wrong, and also after Ctrl-C, no instance, key, security group, role or volume is left. An AMI is left
    only where it is complete but for its tags, copies or settings: the next build takes it up.

    Args:
        project: what is baked.
        cloud: where.
        fingerprint: of its inputs.
        say: hears of each step.
        require: is called before an AMI is removed; raises StateError where another run may have taken it up.

    Raises:
        BuildError: ``packer/`` is out of date, or the bake failed.
        ToolError: Packer or ssh-keygen is missing.
        SourceError: a model file has no address any more.
        CloudError: AWS refused something.
    """
    started = time.monotonic()
    compat = _checked(project)
    run = access.new_run()
    tags = generated.tags(project.manifest, fingerprint, run)

    def drop() -> None:
        require()
        _discard(project, cloud, tags)

    try:
        with rundir.opened(run) as room:
            ami = _baked(project, cloud, compat, room, tags=tags, drop=drop, say=say)
        return complete(project, cloud, ami, tags, fingerprint=fingerprint, started=started, say=say)
    except KeyboardInterrupt as problem:
        access.clean_up_after(problem, drop)
        raise


def complete(
    project: Project,
    cloud: Cloud,
    ami: str,
    tags: Mapping[str, str],
    *,
    fingerprint: str,
    started: float,
    say: Say,
) -> Artifact:
    """Finish an AMI that Packer has made and return it as what it is.

    Args:
        project: what it was made from.
        cloud: where it is.
        ami: its id.
        tags: for the AMI, its copies, and their snapshots.
        fingerprint: of its inputs.
        started: when work on it began, on the monotonic clock.
        say: hears of each step.

    Raises:
        BuildError, CloudError: the message names the AMI, which stays.
    """
    say(f"finishing {ami}")
    try:
        finished = finish.finish(project, cloud, ami, tags, say)
    except SplitbakeError as problem:
        _name_what_stays(problem, ami)
        raise
    return Artifact(
        half="ami",
        id=ami,
        location=cloud.environment.region,
        fingerprint=fingerprint,
        created=now(),
        seconds=round(time.monotonic() - started, 1),
        size=project.lock.models_size,
        snapshots=finished.snapshots,
        copies=finished.copies,
        offers=contract.offer(project.manifest, project.lock),
    )


def _name_what_stays(problem: SplitbakeError, ami: str) -> None:
    """Let ``problem`` name the AMI, which stays."""
    problem.message = f"{ami} is baked, but not finished: {problem.message}"
    problem.hint = f"{problem.hint}; splitbake build ami takes this AMI up".removeprefix("; ")


def discard(cloud: Cloud, artifact: Artifact) -> None:
    """Remove an AMI that nobody needs, its copies, and the snapshots of all of them.

    Raises:
        CloudError: AWS refused it; what is left is named.
    """
    amis.discard(cloud, artifact.id, parts=artifact.snapshots)
    for copy in artifact.copies:
        amis.discard(cloud, copy.id, region=copy.region)


def _baked(
    project: Project,
    cloud: Cloud,
    compat: Compat,
    room: RunFolder,
    *,
    tags: Mapping[str, str],
    drop: Callable[[], None],
    say: Say,
) -> str:
    """Run Packer and return the AMI that it made; where it did not ask for any, there is none afterwards."""
    builder, folder = project.manifest.ami.builder, room.path
    run, fingerprint = tags[access.RUN_TAG], tags["splitbake:fingerprint"]
    hidden = uploads.lay_out(project, cloud, fingerprint, folder / "inputs")
    template = recipe.stage(project, fingerprint, compat, folder / "project")
    ami, asked = "", False
    try:
        with access.granted(
            cloud,
            run,
            folder=folder,
            subnet=builder.subnet,
            tags=tags,
            connect=builder.connect,
            boundary=builder.permissions_boundary,
            spot=builder.spot,
            say=say,
        ) as way_in:
            values = variables(cloud, folder, way_in) | {"run": run, "fingerprint": fingerprint}
            values["profile"] = way_in.profile or builder.profile or ""
            uploads.write_private(folder / _VARIABLES, json.dumps(values))
            gated = gate.prepare(
                project,
                cloud,
                fingerprint,
                folder=folder / _GATE,
                private_key=way_in.private_key,
                public_key=way_in.public_key,
            )
            runs = partial(_require_tokens, cloud, say) if compat == "1.6" else silent
            try:
                _packer(project, cloud, template, room, gated=gated, hidden=hidden, runs=runs, say=say)
                asked = True
                ami = _made(folder / _RECORD, cloud.environment.region)
            except packer.AbandonedError as problem:
                asked = True
                ami = _awaited(project, cloud, tags["Name"], problem, drop=drop, say=say)
    except Exception as problem:
        if not asked:
            access.clean_up_after(problem, drop)
        elif ami and isinstance(problem, SplitbakeError):
            _name_what_stays(problem, ami)
        raise
    return ami


def _require_tokens(cloud: Cloud, say: Say, instance: str) -> None:
    """Let the builder insist on IMDSv2. EC2 takes that of an instance that runs, or is stopped."""
    with aws_errors(f"let the builder {instance} insist on IMDSv2"):
        cloud.client("ec2").modify_instance_metadata_options(InstanceId=instance, **_TOKENS)
    say(f"{instance}: answers IMDSv2 only (set through the API)")


def _made(record: Path, region: str) -> str:
    made = packer.amis(record)
    if region not in made:
        hint = "run splitbake build ami again: it takes up an AMI that was made"
        raise BuildError(f"Packer's record names {made or 'no AMI'}; expected one AMI of {region}", hint=hint)
    return made[region]


def _awaited(
    project: Project,
    cloud: Cloud,
    name: str,
    problem: packer.AbandonedError,
    *,
    drop: Callable[[], None],
    say: Say,
) -> str:
    """Return the AMI that Packer asked for and did not finish, once EC2 has made it.

    Raises:
        AbandonedError: ``problem``: there is no such AMI, or EC2 failed to make it; then its rest is removed.
        BuildError, CloudError: it takes too long, or AWS does not tell; the message names the AMI, which stays.
    """
    there = amis.own(cloud, name)
    if not there:
        raise problem
    ami = str(there[0]["ImageId"])
    say(f"Packer did not finish {ami}; splitbake does")
    try:
        amis.wait(cloud, ami, within=source.wait_seconds(project.manifest, project.lock))
    except amis.FailedError as failure:
        access.clean_up_after(problem, drop)
        raise problem from failure
    except SplitbakeError as failure:
        _name_what_stays(failure, ami)
        raise
    return ami


def _discard(project: Project, cloud: Cloud, tags: Mapping[str, str]) -> None:
    """Remove the AMI of a run and its copies, found by name: Packer tags them only when they are complete."""
    for region in (None, *(copy.region for copy in project.manifest.ami.copies)):
        for image in amis.own(cloud, tags["Name"], region):
            amis.discard(cloud, image["ImageId"], region=region, tags=tags)


def _checked(project: Project) -> Compat:
    """Return which Packer ``packer/`` is for; BuildError unless it is what manifest and lock say."""
    installed = packer.installed_compat()
    compat = generate.committed_compat(project)
    if compat is None:
        raise BuildError(f"{project.root / generated.MAIN} is missing", hint="run splitbake generate")
    if compat == "latest" and installed == "1.6":
        raise BuildError(
            "packer/ is generated for a current Packer, the one installed here is 1.6",
            hint="splitbake generate --packer-compat 1.6, or install a current Packer",
        )
    for path, text in generated.render(project.manifest, project.lock, compat).items():
        if generate.read(project.root / path) != text:
            raise BuildError(f"{path} is not what manifest and lock say", hint="run splitbake generate")
    for path in project.manifest.ami.provision:
        if not (project.root / path).is_file():
            raise BuildError(f"{path} of ami.provision does not exist", hint="correct ami.provision in the manifest")
    return compat


def variables(cloud: Cloud, folder: Path, way_in: Access) -> dict[str, str]:
    """Return the values of the template's variables that are the same for each bake in ``folder``."""
    return {
        "inputs": str(folder / "inputs"),
        "record": str(folder / _RECORD),
        "ec2_endpoint": cloud.endpoint or "",
        "key_pair": way_in.name,
        "private_key": str(way_in.private_key),
        "security_group": way_in.group,
    }


def _packer(
    project: Project,
    cloud: Cloud,
    template: Path,
    room: RunFolder,
    *,
    gated: Mapping[str, str],
    hidden: Sequence[str],
    runs: Say,
    say: Say,
) -> None:
    """Run Packer on ``template``, with the variables of the gate; its log stays in the project.

    ``runs`` is told the id of the builder as soon as that answers.
    """
    keys = credentials(cloud)
    log = project.root / _LOG
    if template.is_dir():
        packer.init(template, say)
    with files.writing(log, BuildError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file:
            secrets = (*hidden, *(keys[name] for name in _SECRET if name in keys))
            output = Output(file, say, hidden=secrets, runs=runs)
            env = packer.environment(keys, room.path) | dict(gated)
            packer.build(template, room.path / _VARIABLES, env=env, output=output, lock=room.lock)


_SECRET = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def credentials(cloud: Cloud) -> dict[str, str]:
    """Return the session's keys as the variables that every AWS SDK reads, whatever profile they came from."""
    with aws_errors("read the AWS credentials"):
        found = cloud.session.get_credentials()
    if found is None:
        raise CloudError(
            "there are no AWS credentials", hint="set AWS_PROFILE, or the variables of splitbake local env"
        )
    keys = found.get_frozen_credentials()
    region = cloud.environment.region
    values = {
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_SESSION_TOKEN": keys.token,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_CA_BUNDLE": os.environ.get("AWS_CA_BUNDLE"),
    }
    return {name: value for name, value in values.items() if value}
