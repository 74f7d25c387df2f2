"""A project like those that people have: code in several layers, some hundred files, requirements; built in a cloud.

Its code is that of Python packages which are here anyway: only real text is compressed as real text is.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import process
from benchmarks.harness import Stage
from benchmarks.project import Built, cloud, commit

_REPOSITORY = Path(__file__).parents[1]

#: Folder of the project -> the packages whose code it has; what changes least is first.
FOLDERS = {"llava": ("pydantic", "rich"), "mivolo": ("_pytest",), "lib": ("click", "urllib3")}
#: Script of the project -> the file of boto3 whose code it has.
SCRIPTS = {
    "run.py": "session.py",
    "upload.py": "crt.py",
    "report.py": "exceptions.py",
    "settings.py": "utils.py",
    "frames.py": "compat.py",
}
#: The layers of the image, and what a Dockerfile copies.
INCLUDE = (*(f"{name}/" for name in FOLDERS), "*.py")
REQUIREMENTS = "requirements.txt"

_MANIFEST = """\
version: 1
project: {name}
state: s3://{name}-state/splitbake
models:
  files:
    - {{path: models/, from: weights/}}
  budget: 8 GB
ami:
  base: ecs-gpu-al2023
image:
  base: ecr://docker-hub/library/python:3.11-slim
  include: [{include}]
  requirements: requirements.txt
  mounts: {{models: /workspace/models}}
  command: [python, run.py]
  repository: {name}/code
  budget: 1 GB
environments:
  local: {{account: "123456789012", region: us-east-1, endpoint: custom}}
"""

#: Every edit of this process gives the line another content.
_EDITS = itertools.count(1)
_LINE = re.compile(r"^EDIT = \d+$", re.MULTILINE)


@dataclass(frozen=True)
class Service(Built):
    """The project; its image is built and pushed."""

    def edit(self) -> None:
        """Change one line of the code."""
        script = self.folder / "run.py"
        text = _LINE.sub(f"EDIT = {next(_EDITS)}", script.read_text(encoding="utf-8"))
        script.write_text(text, encoding="utf-8")

    def build(self, *, changed: bool = True) -> float:
        """Run ``splitbake build image`` and return its seconds.

        Raises:
            RuntimeError: it did not do what is measured.
        """
        finished = self.splitbake("build", "image")
        if f"image: {'built' if changed else 'unchanged'} " not in finished.output:
            raise RuntimeError(f"splitbake should have found it {'' if changed else 'un'}changed: {finished.output}")
        return finished.seconds

    def ask(self, what: str) -> dict[str, str]:
        """Return what ``benchmarks.seed`` prints of the project."""
        argv = (process.PYTHON, "-m", "benchmarks.seed", what, str(self.folder))
        answer: dict[str, str] = json.loads(process.run(argv, cwd=_REPOSITORY, env=self.env).output or "{}")
        return answer


@contextmanager
def service(stage: Stage) -> Iterator[Service]:
    """Make the project in the local cloud of all benchmarks."""
    with made(stage.folder / "service", stage.use(cloud)) as project:
        yield project


@contextmanager
def made(folder: Path, env: Mapping[str, str]) -> Iterator[Service]:
    """Write the project into ``folder``, commit it, and build its image."""
    shutil.rmtree(folder, ignore_errors=True)
    project = Service(folder, env)
    try:
        write(folder)
        build(project)
        yield project
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(folder: Path) -> None:
    """Write the project."""
    (folder / "weights").mkdir(parents=True)
    (folder / "weights/model.bin").write_bytes(bytes(range(256)) * 4096)
    include = ", ".join(f'"{pattern}"' for pattern in INCLUDE)
    manifest = _MANIFEST.format(name=folder.name, include=include)
    (folder / "splitbake.yaml").write_text(manifest, encoding="utf-8")
    (folder / ".gitignore").write_text("build/\n", encoding="utf-8")
    shutil.copy(_REPOSITORY / "examples/video-analysis/requirements.txt", folder / REQUIREMENTS)
    for name, packages in FOLDERS.items():
        for package in packages:
            top = _sources(package)
            for source in top.rglob("*.py"):
                target = folder / name / package / source.relative_to(top)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    for name, module in SCRIPTS.items():
        shutil.copyfile(_sources("boto3") / module, folder / name)
    with (folder / "run.py").open("a", encoding="utf-8") as script:
        script.write("\n\nEDIT = 0\n")


def build(project: Service) -> None:
    """Lock the project, commit it, and build its image."""
    project.ask("bucket")
    project.splitbake("lock")
    commit(project.folder)
    project.build()


def _sources(package: str) -> Path:
    """Return the folder of a package, which is not imported: this process stays small."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise RuntimeError(f"the benchmark takes code from {package}, which is not installed")
    return Path(found.origin).parent
