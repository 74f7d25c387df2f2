"""A bake by Packer alone: ``python -m benchmarks.plain_bake fill|bake PROJECT PATH``.

``fill`` uploads the models in PATH; ``bake`` bakes, and writes to PATH how many seconds Packer took.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks import process
from splitbake import fingerprint
from splitbake.bake import access, ami, packer, recipe, rundir, uploads
from splitbake.generate import packer as generated
from splitbake.project import Project
from splitbake.ui import silent
from splitbake.verify import gate


def fill(project: Project, weights: Path) -> None:
    """Make the bucket of state and models, and fill it from ``weights``."""
    bucket, _, _ = project.manifest.state.removeprefix("s3://").partition("/")
    s3 = project.cloud().client("s3")
    s3.create_bucket(Bucket=bucket)
    for path in sorted(weights.iterdir()):
        s3.upload_file(str(path), bucket, f"models/{path.name}")


def bake(project: Project, figure: Path) -> None:
    """Bake with Packer alone, and write the seconds of its process to ``figure``."""
    cloud, run = project.cloud(), access.new_run()
    builder, wanted = project.manifest.ami.builder, fingerprint.inputs(project, "ami").fingerprint
    tags = generated.tags(project.manifest, wanted, run)
    with rundir.opened(run) as room:
        folder = room.path
        uploads.lay_out(project, cloud, wanted, folder / "inputs")
        template = recipe.stage(project, wanted, packer.installed_compat(), folder / "project")
        with access.granted(
            cloud, run, folder=folder, subnet=None, tags=tags, connect=builder.connect, boundary=None, say=silent
        ) as way_in:
            variables = folder / "run.pkrvars.json"
            values = ami.variables(cloud, folder, way_in) | {"run": run, "fingerprint": wanted, "profile": ""}
            uploads.write_private(variables, json.dumps(values))
            gated = gate.prepare(
                project,
                cloud,
                wanted,
                folder=folder / "gate",
                private_key=way_in.private_key,
                public_key=way_in.public_key,
            )
            argv = ("packer", "build", "-machine-readable", f"-var-file={variables}", str(template))
            env = packer.environment(ami.credentials(cloud), folder) | gated
            figure.write_text(str(process.run(argv, cwd=project.root, env=env).seconds), encoding="utf-8")


if __name__ == "__main__":
    {"fill": fill, "bake": bake}[sys.argv[1]](Project(Path(sys.argv[2], "splitbake.yaml")), Path(sys.argv[3]))
