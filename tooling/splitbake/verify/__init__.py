"""Verifying an artifact: run its checks, remember the report."""

from __future__ import annotations

from pathlib import Path

from splitbake import build
from splitbake.artifact import Half, Report, Run
from splitbake.cloud import Cloud
from splitbake.project import Project
from splitbake.ui import Say


def verify(project: Project, cloud: Cloud, half: Half, *, junit: Path | None, say: Say) -> Report:
    """Verify the built artifact of the project as it is now, and keep the report in the state.

    A good AMI is then shared with the accounts that promote it. ``junit`` is a folder for ``<half>.xml``, None for no
    JUnit report.

    Raises:
        BuildError: there is nothing built to verify.
        VerifyError: the checks could not be run to their end.
    """
    from splitbake.release import sharing
    from splitbake.verify import ami, image

    artifact = build.current(project, cloud, half)
    check = ami.verify if half == "ami" else image.verify
    report = check(project, cloud, artifact, junit=junit / f"{half}.xml" if junit else None, say=say)
    catalog = project.catalog(cloud)
    catalog.keep_report(report)
    catalog.log(
        Run(
            half=half,
            work="verify",
            fingerprint=report.fingerprint,
            created=report.created,
            seconds=report.seconds,
        )
    )
    if half == "ami":
        sharing.share_verified(project.manifest, cloud, artifact, report, say)
    return report
