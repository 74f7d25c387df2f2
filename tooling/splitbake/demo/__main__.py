"""The demo's story: set up, go round once, change one line, go round again."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import click

from splitbake import cli, local, ui
from splitbake.artifact import Half
from splitbake.demo import scene
from splitbake.demo.loop import Loop
from splitbake.demo.story import Round, show_comparison, show_result, summary, tell
from splitbake.errors import SplitbakeError


@click.command()
@click.option("--yes", is_flag=True, help="Install missing tools and start the Docker engine without asking.")
@click.option("--keep", is_flag=True, help="Leave the local cloud running, to look around in it.")
def demo(yes: bool, keep: bool) -> None:
    """Run the whole loop on the reference project, with no AWS account."""
    repository = Path.cwd()
    if not (repository / scene.EXAMPLE).is_dir():
        raise SplitbakeError(f"{repository} is not the splitbake repository", hint="start the demo from its top folder")
    work = repository / "build/demo"
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work / "demo.lock"):
        _set_up(yes=yes)
        _play(repository, work, keep=keep)


def _set_up(*, yes: bool) -> None:
    arguments = ["doctor", "--fix", *(["--yes"] if yes else [])]
    done = subprocess.run([sys.executable, "-m", "splitbake", *arguments], check=False)
    if done.returncode:
        raise SplitbakeError("this machine lacks what the demo needs", hint="see the list above; then start again")


def _play(repository: Path, work: Path, *, keep: bool) -> None:
    started = time.monotonic()
    with _cloud(work / "cloud", keep=keep) as cloud:
        project = scene.copy_project(repository, work / "project")
        for name in local.foreign(os.environ):
            os.environ.pop(name, None)
        os.environ.update(cloud.environment())
        with ui.stage("What a team has already: models in S3, a queue with hosts on a plain base") as say:
            scene.prepare_assets(repository, work / "assets")
            scene.fill(project, project.cloud(), work / "assets", say)
        loop = Loop(project.root, cloud.environment())
        first = _first_round(loop)
        second = _second_round(loop.again(), project.root / scene.EXAMPLE / "run.py")
        digests = [one.built["image"]["id"] for one in (first, second)]
        shipped = scene.shipped(project.cloud(), project.manifest.image.repository, *digests)
        body = summary(first, second, shipped=shipped, total=time.monotonic() - started)
        (work / "summary.json").write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
        show_result(first)
        show_comparison(first, second, shipped)
        tell(f"All of it in {work / 'summary.json'}")
        if keep:
            tell('The local cloud is still up: eval "$(SPLITBAKE_LOCAL_DIR=build/demo/cloud splitbake local env)"')


def _first_round(loop: Loop) -> Round:
    tell("\nFirst round: nothing is built yet.")
    lock = loop.run("lock", "lock")
    loop.run("generate", "generate")
    _plan(loop)
    built = loop.run_together({"build ami": ["build", "ami"], "build image": ["build", "image"]})
    tell(f"  AMI {built['build ami']['ami']['id']}, image {built['build image']['image']['id'][:19]}…")
    return _verify_and_release(loop, lock, {**built["build ami"], **built["build image"]})


def _second_round(loop: Loop, source: Path) -> Round:
    tell(f"\nSecond round: one line of {source.name} changes.")
    with source.open("a", encoding="utf-8") as file:
        file.write("# one more line\n")
    lock = loop.run("lock", "lock", "--check", "--offline")
    _plan(loop)
    built = {**loop.run("build ami", "build", "ami"), **loop.run("build image", "build", "image")}
    return _verify_and_release(loop, lock, built)


def _plan(loop: Loop) -> None:
    planned = loop.run("plan", "plan")
    for half in get_args(Half):
        tell(f"  {half}: {planned[half]['action']}, because {'; '.join(planned[half]['reasons'])}")


def _verify_and_release(loop: Loop, lock: dict[str, Any], built: dict[str, Any]) -> Round:
    halves = [half for half in get_args(Half) if not built[half]["reused"]]
    reports = loop.run_together({f"verify {half}": ["verify", half] for half in halves})
    for half in halves:
        made = [check for check in reports[f"verify {half}"][half]["checks"] if not check["skipped"]]
        tell(f"  {half}: {sum(check['passed'] for check in made)} of {len(made)} checks passed")
    planned = loop.run("release --dry-run", "release", "--dry-run")
    for line in planned["diff"].splitlines():
        tell(f"  {line}")
    for step in planned["steps"]:
        tell(f"  would: {step['title']}")
    release = loop.run("release", "release", "--yes")
    job = loop.run("smoke", "smoke")
    verified = {half: report for answer in reports.values() for half, report in answer.items()}
    return Round(lock=lock, built=built, verified=verified, release=release, job=job, seconds=loop.seconds)


@contextmanager
def _cloud(directory: Path, *, keep: bool) -> Iterator[local.Cloud]:
    """Start the local cloud afresh (whatever a killed demo left is removed first), and take it down at the end."""
    local.down(directory)
    with ui.stage("Starting the local cloud: the AWS API, a registry, containers as instances") as say:
        cloud = local.up(directory, progress=say)
    try:
        yield cloud
    finally:
        if not keep:
            with ui.stage("Taking the local cloud down"):
                local.down(directory)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Refuse a second demo in the same checkout while one runs."""
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SplitbakeError(
                "another demo runs in this checkout", hint="wait for it, or use another clone"
            ) from None
        yield


if __name__ == "__main__":
    sys.exit(cli.run(demo, prog_name="demo"))
