"""What a command loads before it does anything: starting up is most of the time that a quick one takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(sys.executable).with_name("splitbake")

#: Libraries for work that these commands do not do: AWS, Docker, tables, verification, Terraform, the local cloud.
SLOW = {"boto3", "botocore", "docker", "hcl2", "moto", "pytest", "python_on_whales", "requests", "rich", "testinfra"}

#: Runs the command line as the script does, and tells on stderr what was loaded and the exit code.
TOLD = (
    "import sys; from splitbake.cli import main; code = main();"
    "print(code, *sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The reference project with its state in a folder, where nothing was built yet."""
    manifest = (REPOSITORY / "splitbake.yaml").read_text(encoding="utf-8")
    state = "state: s3://video-analysis-splitbake/state"
    assert state in manifest
    (tmp_path / "splitbake.yaml").write_text(manifest.replace(state, "state: .splitbake/state"), encoding="utf-8")
    shutil.copy(REPOSITORY / "splitbake.lock", tmp_path)
    shutil.copytree(
        REPOSITORY / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__", ".terraform")
    )
    for folder in ("packer", "dockerfiles"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    return tmp_path


@pytest.mark.parametrize(
    "command", ["--help", "schema", "generate --check", "lock --check --offline", "plan --json", "plan ami --json"]
)
def test_commands_that_ask_nobody_load_nothing_for_asking(project, command):
    nobody = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}  # plan wants it to be set; it is not asked
    done = subprocess.run(
        [sys.executable, "-c", TOLD, *command.split()],
        cwd=project,
        env=nobody,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    *_, last = done.stderr.splitlines()
    code, *loaded = last.split()
    assert (code, SLOW & set(loaded)) == ("0", set())


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--version"], 0), (["--help"], 0), (["lock", "--offline"], 64), (["plam"], 64)]
)
def test_the_module_can_be_called_like_the_script(project, arguments, code):
    def ending(*argv: str | Path) -> tuple[int, str, str]:
        done = subprocess.run([*argv, *arguments], cwd=project, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout, done.stderr

    script = ending(SCRIPT)
    assert script[0] == code
    assert ending(sys.executable, "-m", "splitbake") == script
