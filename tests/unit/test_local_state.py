"""What a local cloud remembers, and the pure rules behind its services."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from splitbake.cli.local import command
from splitbake.errors import LocalCloudError
from splitbake.local import images, registry, up
from splitbake.local.containers import JobSpec, substitute
from splitbake.local.jobs import matches
from splitbake.local.launch_templates import inherited
from splitbake.local.state import Cloud, Process, load, locked, save, write_private


@pytest.fixture
def cloud(tmp_path):
    names = ("endpoint", "registry", "network", "gateway", "instance_image", "python_image")
    return Cloud(
        id="c1", directory=tmp_path, region="us-east-1", account="123456789012", access_key="AKIA",
        secret_key="hidden-key", registry_password="hidden-password",
        processes=(Process(1, 2, "boot"),), **dict.fromkeys(names, "x"),
    )  # fmt: skip


def test_a_saved_cloud_comes_back_and_is_private(cloud):
    save(cloud)
    assert load(cloud.directory) == cloud
    assert stat.S_IMODE((cloud.directory / "cloud.json").stat().st_mode) == 0o600


def test_secrets_are_shown_nowhere_but_in_the_environment(cloud):
    for shown in (repr(cloud), json.dumps(cloud.public())):
        assert "hidden" not in shown
    assert cloud.environment()["AWS_SECRET_ACCESS_KEY"] == "hidden-key"
    assert cloud.environment()["AWS_CONFIG_FILE"] == "/dev/null"


def test_what_would_win_over_the_environment_is_unset_before_it(cloud, monkeypatch):
    running = replace(cloud, endpoint="http://192.0.2.1:4000")
    monkeypatch.setattr("splitbake.local.cloud.status", lambda directory: running)
    mine = {
        "AWS_PROFILE": "prod",
        "AWS_DEFAULT_PROFILE": "prod",
        "AWS_SESSION_TOKEN": "of prod",
        "AWS_ENDPOINT_URL_S3": "https://example.org",
        "AWS_MAX_ATTEMPTS": "3",
    }
    told = CliRunner().invoke(command, ["env"], env=mine)
    script = f"{told.output}\nenv"
    env = {"PATH": os.environ["PATH"], **mine}
    seen = subprocess.run(["sh", "-euc", script], env=env, capture_output=True, text=True, check=True).stdout
    aws = dict(line.split("=", 1) for line in seen.splitlines() if line.startswith("AWS_"))
    assert aws == running.environment() | {"AWS_MAX_ATTEMPTS": "3"}


def test_the_session_of_a_role_is_not_unset(cloud, monkeypatch):
    monkeypatch.setattr("splitbake.local.cloud.status", lambda directory: cloud)
    monkeypatch.setattr("splitbake.local.sessions.assume", lambda *_: {"AWS_SESSION_TOKEN": "of the role"})
    unset, *exports = CliRunner().invoke(command, ["env", "--role", "builder"]).output.splitlines()
    assert "AWS_PROFILE" in unset.split()
    assert "AWS_SESSION_TOKEN" not in unset.split()
    assert "export AWS_SESSION_TOKEN='of the role'" in exports


def test_a_region_that_aws_does_not_have_is_refused_before_anything_is_built(tmp_path):
    with pytest.raises(LocalCloudError, match=r"no region 'eu-central-9'; did you mean 'eu-central-\d'\?"):
        up(tmp_path / "state", region="eu-central-9")
    assert not (tmp_path / "state").exists()
    told = CliRunner().invoke(command, ["env", "--region", "us-east-1a"])
    assert isinstance(told.exception, LocalCloudError)


def test_no_cloud_is_none_and_a_foreign_state_is_an_error(tmp_path):
    assert load(tmp_path) is None
    (tmp_path / "cloud.json").write_text('{"processes": [], "unknown": 1}')
    with pytest.raises(LocalCloudError, match="this version"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{half", ""])
def test_a_text_that_is_no_state_is_an_error(tmp_path, text):
    (tmp_path / "cloud.json").write_text(text)
    with pytest.raises(LocalCloudError, match=r"cloud\.json"):
        load(tmp_path)


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "secret"
    write_private(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_who_waits_for_a_lock_that_down_removes_gets_the_next_one(tmp_path):
    path = tmp_path / "state" / "lock"
    held, done = Event(), Event()

    def wait():
        with locked(path):
            held.set()
            done.wait(10)

    with locked(path):
        waiting = Thread(target=wait)
        waiting.start()
        assert not held.wait(0.2), "it waits"
        path.unlink()
        path.parent.rmdir()
    assert held.wait(10)
    with path.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    done.set()
    waiting.join()


def test_a_process_is_told_from_a_later_one_with_its_number():
    here = Process.of(os.getpid())
    assert here.alive
    assert not replace(here, started=here.started + 1).alive
    assert not replace(here, boot="an earlier one").alive


def test_a_process_that_ignores_the_first_signal_is_killed():
    script = 'trap "" TERM; echo ready; while :; do sleep 0.1; done'
    with subprocess.Popen(["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        Process.of(child.pid).stop(within=0.3)
        assert child.wait(timeout=5) == -9


def test_a_process_that_is_gone_needs_no_stop():
    child = subprocess.run(["true"], check=True)
    assert child.returncode == 0
    Process(2**22 - 1, time.monotonic_ns(), Process.of(os.getpid()).boot).stop()


def test_what_a_killed_process_started_is_ended_too():
    script = "sleep 60 & echo $!; wait"
    with subprocess.Popen(["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE) as parent:
        child = Process.of(int(parent.stdout.readline()))
        process = Process.of(parent.pid)
        parent.kill()
    assert child.alive
    process.stop()
    assert not child.alive


@pytest.mark.parametrize("changes", [{"started": 1}, {"boot": "an earlier one"}])
def test_a_session_that_got_the_number_later_is_left_alone(changes):
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        replace(Process.of(other.pid), **changes).stop()
        assert other.poll() is None
        other.kill()


def test_given_fields_replace_inherited_ones_and_snapshots_are_dropped():
    source = {"A": 1, "B": {"x": 1}, "BlockDeviceMappings": [{"Ebs": {"SnapshotId": "s", "VolumeSize": 1}}]}
    assert inherited(source, {"B": {"y": 2}}) == {
        "A": 1, "B": {"y": 2}, "BlockDeviceMappings": [{"Ebs": {"VolumeSize": 1}}],
    }  # fmt: skip
    assert source["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"] == "s"


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("78", "78", True),
        ("7", "78", False),
        ("7*", "78", True),
        ("*", "", True),
        ("a[b]*", "a[b]c", True),
        ("?", "x", False),
    ],
)
def test_retry_rules_know_only_a_star_at_the_end(pattern, value, expected):
    assert matches(pattern, value) is expected


@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True), st.text()))
def test_parameters_are_replaced_once_and_unknown_ones_stay(parameters):
    text = " ".join(f"Ref::{name}" for name in parameters)
    assert substitute(text, parameters) == " ".join(parameters.values())
    assert substitute("Ref::no.such", {}) == "Ref::no.such"


def test_a_job_asks_for_its_definition_with_the_overrides_on_top():
    class Named:
        def __init__(self, **values):
            self.__dict__ |= values

    container = {
        "image": "i", "command": ["run", "Ref::x"], "memory": 100, "vcpus": 1,
        "environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}],
        "resourceRequirements": [{"type": "GPU", "value": "1"}],
    }  # fmt: skip
    overrides = {
        "environment": [{"name": "B", "value": "2"}],
        "resourceRequirements": [{"type": "MEMORY", "value": "256"}],
    }
    job = Named(
        job_definition=Named(container_properties=container), container_overrides=overrides,
        parameters={"x": "y"}, job_queue=Named(name="q"), array_properties={},
        backend=Named(account_id="222222222222", region_name="eu-west-1"),
    )  # fmt: skip
    spec = JobSpec.of(job)
    assert spec.command == ["run", "y"]
    assert spec.environment == {"A": "1", "B": "2"}
    assert [spec.requirement(kind) for kind in ("MEMORY", "VCPU", "GPU")] == [256, 1, 1]


def test_a_registry_that_cannot_be_copied_leaves_no_part_of_it(tmp_path):
    storage, cache = tmp_path / "storage", tmp_path / "cache"
    for folder in (storage, cache):
        folder.mkdir()
    (storage / "blob").write_text("content")
    (storage / "other").symlink_to("nowhere")
    with pytest.raises(LocalCloudError, match=r"cache/kept: .*No such file") as problem:
        registry.keep(storage, cache / "kept")
    assert "room" in problem.value.hint
    assert list(cache.iterdir()) == []
    with pytest.raises(LocalCloudError, match=r"restored: .*No such file"):
        registry.restore(tmp_path / "restored", storage)


def test_a_recipe_names_its_image_by_everything_in_it():
    recipe = images.PYTHON
    assert recipe.tag == f"splitbake/python:{recipe.digest[:12]}"
    other = images.Recipe(recipe.name, (*recipe.packages, "file"), recipe.files, recipe.config)
    assert other.digest != recipe.digest
    assert recipe.command(Path("/x/layer.tar"))[-2:] == ["bookworm", "/x/layer.tar"]


def test_a_packed_archive_is_the_same_each_time(tmp_path):
    layer = tmp_path / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    names = []
    for number in range(2):
        images._pack(images.PYTHON, layer, tmp_path / f"{number}.tar")
        with tarfile.open(tmp_path / f"{number}.tar") as tar:
            names.append(tar.getnames())
            manifest = json.loads(tar.extractfile("manifest.json").read())[0]
            assert manifest["RepoTags"] == [images.PYTHON.tag]
    assert names[0] == names[1], "the name of the configuration is its digest: the image id"
