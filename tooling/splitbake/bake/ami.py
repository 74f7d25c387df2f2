"""Baking the AMI: what Packer needs is laid out in a private folder, Packer runs, and what it made is tagged."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from splitbake import contract, files, generate, sources
from splitbake.artifact import Artifact, now
from splitbake.bake import access, packer
from splitbake.bake.access import Access
from splitbake.cloud import Cloud, aws_errors
from splitbake.errors import BuildError, CloudError
from splitbake.generate import Compat
from splitbake.generate import packer as generated
from splitbake.generate.mark import is_marked
from splitbake.project import Project
from splitbake.ui import Say

_VARIABLES = "run.pkrvars.json"
_RECORD = "record.json"
_LOG = Path("build/logs/packer.log")


def bake(project: Project, cloud: Cloud, *, fingerprint: str, say: Say) -> Artifact:
    """Bake the AMI of the project as it is now; the caller has compared the account already.

    Whatever goes wrong, and also after Ctrl-C, no instance, key, security group, volume, AMI or snapshot is left.

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
    builder = project.manifest.ami.builder
    with tempfile.TemporaryDirectory(prefix="splitbake-") as name, _all_or_nothing(cloud, tags["Name"]):
        folder = Path(name)
        hidden = _inputs(project, cloud, fingerprint, folder / "inputs")
        with access.granted(cloud, run, folder=folder, subnet=builder.subnet, tags=tags) as way_in:
            values = _variables(cloud, folder, way_in) | {"run": run, "fingerprint": fingerprint}
            _write_private(folder / _VARIABLES, json.dumps(values))
            _packer(project, cloud, compat, folder=folder, hidden=hidden, say=say)
        ami = packer.artifact_id(folder / _RECORD, cloud.environment.region)
        say(f"waiting for {ami}")
        snapshots = _finish(cloud, ami, tags)
    return Artifact(
        half="ami",
        id=ami,
        location=cloud.environment.region,
        fingerprint=fingerprint,
        created=now(),
        seconds=round(time.monotonic() - started, 1),
        size=project.lock.models_size,
        snapshots=snapshots,
        offers=contract.offer(project.manifest, project.lock),
    )


def discard(cloud: Cloud, artifact: Artifact) -> None:
    """Remove an AMI that nobody needs, with its snapshots.

    Raises:
        CloudError: AWS refused it; what is left is named.
    """
    ec2 = cloud.client("ec2")
    with aws_errors(f"remove the AMI {artifact.id} and its snapshots {', '.join(artifact.snapshots)}"):
        ec2.deregister_image(ImageId=artifact.id)
        for snapshot in artifact.snapshots:
            ec2.delete_snapshot(SnapshotId=snapshot)


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
    if compat == "latest":
        # A current Packer takes the folder as one template.
        foreign = sorted(path.name for path in (project.root / generated.FOLDER).glob("*.pkr.*") if not is_marked(path))
        if foreign:
            raise BuildError(
                f"{generated.FOLDER}/ holds HCL that splitbake did not make, and Packer would read it as well: "
                f"{', '.join(foreign)}",
                hint="move it to another folder",
            )
    for path in project.manifest.ami.provision:
        if not (project.root / path).is_file():
            raise BuildError(f"{path} of ami.provision does not exist", hint="correct ami.provision in the manifest")
    return compat


def _inputs(project: Project, cloud: Cloud, fingerprint: str, folder: Path) -> list[str]:
    """Lay out in ``folder`` what travels to the builder; return the addresses that no log may show."""
    uploads = folder / "files"
    uploads.mkdir(parents=True)
    source_of = sources.opener(cloud, project.root)
    lines, hidden = [], []
    for number, file in enumerate(project.lock.files):
        where = source_of(file.source).url(file)
        if isinstance(where, Path):
            (uploads / str(number)).symlink_to(where.resolve())
            address = f"upload:{number}"
        else:
            address = _plain(where)
            hidden.append(address)
        lines.append(f"{file.sha256}\t{file.size}\t{file.path}\t{address}\n")
    _write_private(folder / "models.tsv", "".join(lines))
    _write_private(folder / contract.OFFER_FILE, contract.offer_text(project.manifest, project.lock))
    inventory = generated.inventory(project.manifest, project.lock, fingerprint)
    _write_private(folder / "ami.json", json.dumps(inventory, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    return hidden


def _plain(url: str) -> str:
    """Return ``url`` as curl's configuration takes it between quotes."""
    return url.replace("\\", "%5C").replace('"', "%22").replace(" ", "%20")


def _write_private(path: Path, text: str) -> None:
    with (
        files.writing(path, BuildError),
        os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file,
    ):
        file.write(text)


def _variables(cloud: Cloud, folder: Path, way_in: Access) -> dict[str, str]:
    return {
        "inputs": str(folder / "inputs"),
        "record": str(folder / _RECORD),
        "ec2_endpoint": cloud.endpoint or "",
        "key_pair": way_in.name,
        "private_key": str(way_in.private_key),
        "security_group": way_in.group,
    }


def _packer(project: Project, cloud: Cloud, compat: Compat, *, folder: Path, hidden: Sequence[str], say: Say) -> None:
    """Run Packer on the generated files; its log stays in the project."""
    keys = _credentials(cloud)
    log = project.root / _LOG
    template = project.root / generated.MAIN
    if compat == "latest":
        # versions.pkr.hcl belongs to it, so the whole folder is the template.
        template = template.parent
        packer.init(template, say)
    with files.writing(log, BuildError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file:
            output = packer.Output(file, say, hidden=(*hidden, *(keys[name] for name in _SECRET if name in keys)))
            packer.build(template, folder / _VARIABLES, env=packer.environment(keys, folder), output=output)


_SECRET = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def _credentials(cloud: Cloud) -> dict[str, str]:
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


def _finish(cloud: Cloud, ami: str, tags: Mapping[str, str]) -> tuple[str, ...]:
    """Wait until ``ami`` is available, put its tags where Packer did not, and return its snapshots."""
    ec2 = cloud.client("ec2")
    with aws_errors(f"wait for {ami}"):
        ec2.get_waiter("image_available").wait(ImageIds=[ami], WaiterConfig={"Delay": 2, "MaxAttempts": 900})
        image = ec2.describe_images(ImageIds=[ami])["Images"][0]
    snapshots = _snapshots(image)
    with aws_errors(f"tag {ami} and its snapshots"):
        found = ec2.describe_snapshots(SnapshotIds=list(snapshots))["Snapshots"]
        marked = {ami: image.get("Tags", []), **{one["SnapshotId"]: one.get("Tags", []) for one in found}}
        bare = [
            name
            for name, has in marked.items()
            if not tags.items() <= {tag["Key"]: tag["Value"] for tag in has}.items()
        ]
        if bare:
            ec2.create_tags(Resources=bare, Tags=[{"Key": key, "Value": value} for key, value in tags.items()])
    return snapshots


def _snapshots(image: Mapping[str, Any]) -> tuple[str, ...]:
    volumes = [device.get("Ebs", {}) for device in image.get("BlockDeviceMappings", [])]
    return tuple(volume["SnapshotId"] for volume in volumes if "SnapshotId" in volume)


@contextmanager
def _all_or_nothing(cloud: Cloud, ami_name: str) -> Iterator[None]:
    """Remove the AMI of this run and its snapshots unless the block comes to its end.

    They are found by name: Packer tags them only when they are complete.
    """
    try:
        yield
    except BaseException as problem:
        access.clean_up_after(problem, lambda: _discard(cloud, ami_name))
        raise


def _discard(cloud: Cloud, ami_name: str) -> None:
    ec2 = cloud.client("ec2")
    with aws_errors(f"remove the unfinished AMI {ami_name}"):
        by_name = [{"Name": "name", "Values": [ami_name]}]
        for image in ec2.describe_images(Owners=["self"], Filters=by_name)["Images"]:
            # A pending image does not name its snapshots yet; they name it.
            made_for = [{"Name": "description", "Values": [f"Created by CreateImage(*) for {image['ImageId']}*"]}]
            found = ec2.describe_snapshots(OwnerIds=["self"], Filters=made_for)["Snapshots"]
            ec2.deregister_image(ImageId=image["ImageId"])
            for snapshot in {*_snapshots(image), *(one["SnapshotId"] for one in found)}:
                ec2.delete_snapshot(SnapshotId=snapshot)
