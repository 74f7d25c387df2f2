"""What projects need of their cloud beyond the commands: ``python -m benchmarks.seed bucket|ami|registry PROJECT``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from splitbake import artifact, contract, ecr, fingerprint
from splitbake.artifact import Artifact, Check, Report
from splitbake.cloud import Cloud
from splitbake.project import Project
from splitbake.sources import base_image


def bucket(project: Project, cloud: Cloud) -> None:
    """Make the bucket of the state."""
    name, _, _ = project.manifest.state.removeprefix("s3://").partition("/")
    cloud.client("s3").create_bucket(Bucket=name)


def ami(project: Project, cloud: Cloud) -> None:
    """Make an AMI without baking it, and record it as built and verified."""
    ec2, base = cloud.client("ec2"), project.lock.base_ami
    made = ec2.copy_image(Name="benchmark", SourceImageId=base.id, SourceRegion=base.region)["ImageId"]
    ec2.get_waiter("image_available").wait(ImageIds=[made], WaiterConfig={"Delay": 1})
    catalog, inputs = project.catalog(cloud), fingerprint.inputs(project, "ami")
    catalog.keep_inputs(inputs)
    catalog.keep(
        Artifact(
            half="ami",
            id=made,
            location=base.region,
            fingerprint=inputs.fingerprint,
            created=artifact.now(),
            seconds=0.0,
            size=project.lock.models_size,
            offers=contract.offer(project.manifest, project.lock),
        ),
        instead_of=None,
    )
    catalog.keep_report(
        Report(
            half="ami",
            artifact=made,
            fingerprint=inputs.fingerprint,
            standard=project.standard("ami"),
            created=artifact.now(),
            seconds=0.0,
            checks=(Check(name="benchmark", passed=True, saw="a copy of the base, which nobody has looked at"),),
        )
    )


def registry(project: Project, cloud: Cloud) -> None:
    """Print how to log in to the registry, and the name of the project's base image in it, as JSON."""
    login, base = ecr.credentials(cloud), base_image.parse(project.manifest.image.base)
    name = f"{login.host}/{base.repository}@{project.lock.base_image.digest}"
    json.dump({"host": login.host, "token": login.token, "base": name}, sys.stdout)


if __name__ == "__main__":
    project = Project(Path(sys.argv[2], "splitbake.yaml"))
    {"bucket": bucket, "ami": ami, "registry": registry}[sys.argv[1]](project, project.cloud())
