"""The inputs folder: what travels to the builder beside the scripts."""

from __future__ import annotations

import json
import os
from pathlib import Path

from splitbake import contract, ecr, files, sources
from splitbake import runtime as runtimes
from splitbake.cloud import Cloud
from splitbake.errors import BuildError
from splitbake.generate import host
from splitbake.generate import packer as generated
from splitbake.project import Project


def lay_out(project: Project, cloud: Cloud, fingerprint: str, folder: Path) -> list[str]:
    """Lay out in ``folder`` what travels to the builder; return the addresses and logins that no log may show.

    Raises:
        BuildError: there is no room.
        SourceError: a model file has no address any more.
        CloudError: AWS gives no login for its registry.
    """
    manifest, lock = project.manifest, project.lock
    (folder / "files").mkdir(parents=True)
    # As generated, not as it lies in the project: somebody may be editing there since it was compared.
    write_private(folder / "fetch.py", generated.scripts(manifest, lock)[generated.FETCH])
    write_private(folder / contract.OFFER_FILE, contract.offer_text(manifest, lock))
    inventory = generated.inventory(manifest, lock, fingerprint)
    write_private(folder / "ami.json", json.dumps(inventory, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    _lay_out_runtime(project, folder)
    return [*_lay_out_models(project, cloud, folder), *_lay_out_preload(project, cloud, folder)]


def _lay_out_models(project: Project, cloud: Cloud, folder: Path) -> list[str]:
    source_of = sources.opener(cloud, project.root)
    lines, hidden = [], []
    for number, file in enumerate(project.lock.files):
        where = source_of(file.source).url(file)
        if isinstance(where, Path):
            (folder / "files" / str(number)).symlink_to(where.resolve())
            address = f"upload:{number}"
        else:
            address = where
            hidden.append(address)
        lines.append(f"{file.sha256}\t{file.size}\t{file.path}\t{address}\n")
    write_private(folder / "models.tsv", "".join(lines))
    return hidden


def _lay_out_runtime(project: Project, folder: Path) -> None:
    if runtime := project.lock.runtime:
        uv = runtime.installer
        write_private(folder / "runtime.txt", runtimes.requirements(runtime))
        write_private(folder / "installer.tsv", f"{uv.sha256}\t{uv.size}\tinstaller.whl\t{uv.url}\n")


def _lay_out_preload(project: Project, cloud: Cloud, folder: Path) -> list[str]:
    """Write which images to pull, and a login for the account's own registry where one of them is there."""
    images = project.manifest.ami.preload
    if not any(image.startswith("ecr://") for image in images):
        write_private(folder / "preload.tsv", host.preload_list(images, ""))
        return []
    login = ecr.credentials(cloud)
    write_private(folder / "preload.tsv", host.preload_list(images, login.host))
    (folder / "docker").mkdir(mode=0o700)
    logins = {"auths": {login.host: {"auth": login.token}}}
    write_private(folder / "docker/config.json", json.dumps(logins))
    return [login.token]


def write_private(path: Path, text: str) -> None:
    """Write a new file that only we can read.

    Raises:
        BuildError: there is no room.
    """
    with (
        files.writing(path, BuildError),
        os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file,
    ):
        file.write(text)
