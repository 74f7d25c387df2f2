"""The entry check of images, run for real by every shell that is here, on good hosts and bad ones."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SCRIPT = files("splitbake.generate").joinpath("scripts/entry.sh").read_text(encoding="utf-8")
SHELLS = [shell for shell in ("sh", "dash", "bash", "busybox") if shutil.which(shell)]
ODD = [
    "a b ",
    "it's",
    'say "x"',
    "$(touch owned)",
    "`touch owned`",
    "-rf",
    "*",
    "?[a]",
    "a\\b\\n",
    "%s",
    "déjà 数",
    "1",
]

names = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"], exclude_characters="/"), min_size=1).filter(
    lambda name: name not in {".", ".."} and len(name.encode()) < 200
)


@dataclass
class Host:
    """An image's entry check beside what a host shows it.

    Attributes:
        image: stands for ``/opt/splitbake``.
        mount: where ``models/`` of the host is seen.
    """

    image: Path
    mount: Path

    def offer(self, sizes: dict[str, int], contract: int = 1, architecture: str = "x86_64") -> None:
        lines = [f"file\t{size}\t{path}\n" for path, size in sorted(sizes.items())]
        text = f"contract\t{contract}\narchitecture\t{architecture}\n{''.join(lines)}"
        (self.image / "host").mkdir(exist_ok=True)
        (self.image / "host/contract").write_text(text, encoding="utf-8")

    def hold(self, sizes: dict[str, int]) -> None:
        for path, size in sizes.items():
            file = self.mount / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x" * size)

    def needs(self, *paths: str) -> None:
        lines = [f"need\tmodels/{path}\t{self.mount}/{path}\n" for path in paths]
        text = f"# Made\ncontract\t1\narchitecture\tx86_64\n{''.join(lines)}"
        (self.image / "needs").write_text(text, encoding="utf-8")

    def run(self, shell: str, *command: str, **options: Any) -> tuple[int, str, str]:
        """Return status, standard output and standard error."""
        argv = [*((shell, "sh") if shell == "busybox" else (shell,)), str(self.image / "entry"), *command]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=self.image, timeout=60, **options)
        return done.returncode, done.stdout, done.stderr


def make_host(folder: Path) -> Host:
    host = Host(folder / "image", folder / "seen at")
    for path in (host.image, host.mount):
        path.mkdir(parents=True)
    (host.image / "entry").write_text(SCRIPT, encoding="utf-8")
    host.offer({"models/a.onnx": 3, "models/deep/b": 0, "else": 9})
    host.hold({"a.onnx": 3, "deep/b": 0})
    host.needs("a.onnx", "deep/")
    return host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host on which everything is right."""
    return make_host(tmp_path)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    """A shell that could be an image's ``/bin/sh``."""
    return str(request.param)


def refused(answer: tuple[int, str, str]) -> str:
    """Return the one line with which the check refused, without whose it is."""
    status, output, said = answer
    assert (status, output) == (78, "")
    (line,) = said.splitlines()
    assert line.startswith("splitbake: ")
    return line.removeprefix("splitbake: ")


def test_a_good_host_gets_the_program(host, shell):
    assert host.run(shell, "printf", "%s|", "a  b", "", "*", "$HOME") == (0, "a  b||*|$HOME|", "")


@pytest.mark.parametrize("code", [0, 3, 78])
def test_the_exit_code_is_the_programs(host, shell, code):
    assert host.run(shell, "sh", "-c", f"exit {code}")[0] == code


def test_the_program_takes_the_place_of_the_check(host, shell):
    """So that signals reach it, and nothing waits beside it."""
    argv = [shell, *(["sh"] if shell == "busybox" else []), str(host.image / "entry"), "sh", "-c", "echo $$; read -r _"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert int(running.stdout.readline()) == running.pid
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == -signal.SIGTERM


def test_standard_input_is_left_to_the_program(host):
    argv = ["sh", str(host.image / "entry"), "cat"]
    done = subprocess.run(argv, input="all\nof\nit", capture_output=True, text=True, check=True)
    assert done.stdout == "all\nof\nit"


def test_the_environment_is_left_to_the_program(host, shell):
    """Batch takes lower-case names of variables too, and what a shell gets from its environment it hands on."""
    used = sorted(
        {*re.findall(r"\b([a-z]+)=", SCRIPT), *re.findall(r"\b(what|need|place|field|value|size|path)\b", SCRIPT)}
    )
    assert len(used) > 10
    environment = os.environ | dict.fromkeys(used, "the user's own")
    status, output, said = host.run(shell, "env", env=environment)
    assert (status, said) == (0, "")
    assert {f"{name}=the user's own" for name in used} <= set(output.splitlines())


def test_a_program_that_is_not_there_is_no_mismatch(host, shell):
    assert host.run(shell, "no-such-program")[0] == 127


def test_no_command_is_no_success(host, shell):
    status, _, said = host.run(shell)
    assert status not in {0, 78}
    assert "no command was given" in said


@pytest.mark.parametrize("present", [True, False])
def test_a_host_without_contract(host, shell, present):
    """Docker makes an empty folder where the host has none."""
    (host.image / "host/contract").unlink()
    if not present:
        (host.image / "host").rmdir()
    line = refused(host.run(shell, "true"))
    assert line.startswith(f"this host offers no models: there is no {host.image}/host/contract, ")
    assert "was not booted from the AMI of this release, or the job definition lacks that mount" in line


def test_another_contract(host, shell):
    host.offer({"models/a.onnx": 3}, contract=12)
    assert refused(host.run(shell, "true")) == "this image is for contract 1, the AMI of this host offers 12"


def test_another_architecture(host, shell):
    host.offer({"models/a.onnx": 3}, architecture="arm64")
    expected = "this image is for architecture x86_64, the AMI of this host offers arm64"
    assert refused(host.run(shell, "true")) == expected


def test_an_empty_contract(host, shell):
    (host.image / "host/contract").write_text("")
    assert refused(host.run(shell, "true")) == "this image is for contract 1, the AMI of this host offers none"


@pytest.mark.parametrize("need", ["b.onnx", "a", "a.onnx/", "deep", "empty/", "../else"])
def test_what_the_ami_does_not_offer(host, shell, need):
    (host.mount / "empty").mkdir()
    host.needs("a.onnx", need)
    expected = f"this image needs models/{need}, the AMI of this host does not have it"
    assert refused(host.run(shell, "true")) == expected


@pytest.mark.parametrize("path", ["a.onnx", "deep/b"])
def test_what_the_host_lacks_all_the_same(host, shell, path):
    (host.mount / path).unlink()
    expected = f"the AMI of this host offers models/{path}, but it is not at {host.mount}/{path}"
    assert refused(host.run(shell, "true")) == expected


@pytest.mark.parametrize(("path", "size"), [("a.onnx", 2), ("deep/b", 1)])
def test_another_size(host, shell, path, size):
    was = (host.mount / path).stat().st_size
    host.hold({path: size})
    expected = f"{host.mount}/{path} has {size} bytes, the AMI of this host says {was}"
    assert refused(host.run(shell, "true")) == expected


@pytest.mark.parametrize("path", ["image/host/contract", "seen at/a.onnx", "seen at/deep/b"])
def test_what_the_user_of_the_image_may_not_read(shell, path):
    nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}  # root may read all
    with tempfile.TemporaryDirectory() as name:  # tmp_path is its owner's alone
        host = make_host(Path(name))
        Path(name).chmod(0o755)
        (Path(name) / path).chmod(0)
        line = refused(host.run(shell, "true", **nobody))
        assert line == f"{name}/{path} cannot be read: its mode or SELinux forbids it"


def test_sizes_follow_links(host, shell):
    (host.mount / "a.onnx").rename(host.mount / "real")
    (host.mount / "a.onnx").symlink_to("real")
    assert host.run(shell, "true")[0] == 0


@pytest.mark.parametrize("count", [99, 100, 101, 300])
def test_many_files_are_looked_at_a_hundred_at_a_time(host, shell, count):
    sizes = {f"shards/{number:04}": number for number in range(count)}
    host.offer({f"models/{path}": size for path, size in sizes.items()})
    host.hold(sizes)
    host.needs("shards/", "shards/0007")
    assert host.run(shell, "true") == (0, "", "")
    for wrong in (98, count - 1):
        host.hold(sizes | {f"shards/{wrong:04}": 5})
        said = f"shards/{wrong:04} has 5 bytes, the AMI of this host says {wrong}"
        assert said in refused(host.run(shell, "true"))


def test_ten_thousand_files_take_seconds_and_not_minutes(host, shell):
    """A list that is copied for every file would take minutes, and one command line could not hold it."""
    sizes = dict.fromkeys((f"{'long' * 50}/{number:05}" for number in range(10_000)), 0)
    host.offer({f"models/{path}": size for path, size in sizes.items()})
    host.hold(sizes)
    host.needs(f"{'long' * 50}/")
    assert host.run(shell, "true") == (0, "", "")


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_data(host, shell, name):
    for need in (name, f"{name}/"):
        path = f"{need}{name}" if need.endswith("/") else name
        shutil.rmtree(host.mount)
        host.offer({f"models/{path}": 4, "models/other": 1})
        host.needs(need)
        expected = f"the AMI of this host offers models/{path}, but it is not at {host.mount}/{path}"
        assert refused(host.run(shell, "true")) == expected
        host.hold({path: 4})
        assert host.run(shell, "true") == (0, "", "")
    assert not list(host.image.rglob("owned"))


@settings(max_examples=25)
@given(name=names, other=names, folder=st.booleans())
def test_any_name_is_found_and_no_other(tmp_path_factory, name, other, folder):
    host = make_host(tmp_path_factory.mktemp("host"))
    need = f"{name}/" if folder else name
    path = f"{name}/{name}" if folder else name
    host.needs(need)
    host.offer({f"models/{path}": 4})
    shutil.rmtree(host.mount)
    host.hold({path: 4})
    assert host.run("sh", "true") == (0, "", "")
    if other != name:
        host.offer({f"models/{other}": 4})
        assert (
            refused(host.run("sh", "true")) == f"this image needs models/{need}, the AMI of this host does not have it"
        )
