"""What there is to do for each half, and why: in words for people, as data for scripts, as files for GitHub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest

from splitbake import artifact as artifacts
from splitbake import build, cli, fingerprint, plan
from splitbake.artifact import Artifact, Run
from splitbake.cloud import Cloud
from splitbake.errors import BuildError, GuardError, LockError
from splitbake.manifest import Environment
from splitbake.plan import HalfPlan
from splitbake.ui import silent


@pytest.fixture(autouse=True)
def _no_runner(monkeypatch) -> None:
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def verified(small, cloud, made, report_on) -> list[Artifact]:
    """Both halves, built and verified."""
    for half in ("ami", "image"):
        artifact = build.build(small.project, cloud, half, force=False, say=silent).artifact
        small.project.catalog(cloud).keep_report(report_on(small.project, artifact))
    return list(made)


def planned(small, cloud) -> dict[str, HalfPlan]:
    return {half.half: half for half in plan.plan(small.project, cloud).halves}


def told(half: HalfPlan) -> tuple[str, str]:
    return half.action, "; ".join(half.reasons)


# What and why.


def test_what_was_never_built_is_to_be_built(small, cloud):
    for half, found in planned(small, cloud).items():
        name = {"ami": "AMI", "image": "image"}[half]
        assert told(found) == ("build", f"no {name} was built yet in account 123456789012, region eu-west-1")
        assert (found.artifact, found.expected) == (None, None)
        assert found.fingerprint == fingerprint.inputs(small.project, half).fingerprint


def test_what_was_built_is_to_be_verified(small, cloud, made):
    built = build.build(small.project, cloud, "ami", force=False, say=silent).artifact
    found = planned(small, cloud)["ami"]
    assert told(found) == ("verify", "it was built, but not verified yet")
    assert found.artifact == built


def test_what_was_verified_is_reused(small, cloud, verified):
    for number, found in enumerate(planned(small, cloud).values()):
        artifact = verified[number]
        assert found.action == "reuse"
        assert found.reasons == (f"nothing changed: built {artifact.created}, there, and verified (2 checks)",)
        assert (found.artifact, found.expected) == (artifact, None)


def test_a_change_of_code_is_for_the_image_alone(small, cloud, verified):
    (small.root / "app/run.py").write_text("print(1)\n")
    found = planned(small, cloud)
    assert found["ami"].action == "reuse"
    assert told(found["image"]) == ("build", "file run.py changed")
    (small.root / "app/run.py").write_text("print()\n")
    assert planned(small, cloud)["image"].action == "reuse"


def test_other_models_make_another_ami_and_try_the_image_again(small, cloud, verified):
    (small.root / "weights/a").write_text("xyz")
    small.lock["models"][0]["files"][0]["sha256"] = hashlib.sha256(b"xyz").hexdigest()
    found = planned(small, cloud)
    assert told(found["ami"]) == ("build", "model models/a changed")
    assert told(found["image"]) == ("verify", "what verification demands has changed since")
    assert found["image"].artifact == verified[1]


def test_a_model_that_left_its_lock_behind_is_refused(small, cloud, verified):
    (small.root / "weights/a").write_text("xyz")
    with pytest.raises(LockError, match=r"weights/a in the project changed since it was written") as caught:
        planned(small, cloud)
    assert "splitbake lock" in caught.value.hint


def test_a_stricter_budget_asks_for_verification(small, cloud, verified):
    small.manifest["models"]["budget"] = "0.5 GB"
    assert told(planned(small, cloud)["ami"]) == ("verify", "what verification demands has changed since")


def test_what_failed_its_verification_is_made_anew(small, cloud, verified, report_on):
    small.project.catalog(cloud).keep_report(report_on(small.project, verified[0], failed="models"))
    found = planned(small, cloud)["ami"]
    assert told(found) == ("build", f"{verified[0].uri} failed its verification: models")
    assert found.artifact is None


def test_what_was_made_anew_with_the_same_digest_is_verified_again(small, cloud, verified, report_on, monkeypatch):
    """A builder may make the very same bytes again; the report of before must not ask for another build for ever."""
    catalog = small.project.catalog(cloud)
    catalog.keep_report(report_on(small.project, verified[1], failed="imports"))
    assert planned(small, cloud)["image"].action == "build"
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "now", lambda: "2999-01-01T00:00:00+00:00")
        again = build.build(small.project, cloud, "image", force=False, say=silent)
        assert (again.reused, again.artifact.id) == (False, verified[1].id)
        assert told(planned(small, cloud)["image"]) == ("verify", "it was built again since it failed its verification")
        assert build.build(small.project, cloud, "image", force=False, say=silent).reused
        catalog.keep_report(report_on(small.project, again.artifact, failed="imports"))
        assert planned(small, cloud)["image"].action == "build"
        catalog.keep_report(report_on(small.project, again.artifact))
        assert planned(small, cloud)["image"].action == "reuse"


def test_what_failed_by_another_standard_is_verified_again(small, cloud, verified, report_on):
    failed = report_on(small.project, verified[0], failed="models", standard="sha256:other")
    small.project.catalog(cloud).keep_report(failed)
    assert told(planned(small, cloud)["ami"]) == ("verify", "what verification demands has changed since")


def test_a_lost_record_is_told(small, cloud, verified):
    for path in (small.root / "state").glob("artifacts/*/*/ami/*.json"):
        path.unlink()
    assert told(planned(small, cloud)["ami"]) == ("build", "the state has lost the artifact of these inputs")


def test_a_change_against_inputs_that_are_not_known(small, cloud, verified):
    for path in (small.root / "state").glob("inputs/ami/*.json"):
        path.unlink()
    small.lock["base_ami"]["id"] = "ami-89abcdef"
    action, why = told(planned(small, cloud)["ami"])
    assert action == "build"
    assert why.startswith("the inputs are not those of the latest build (20")
    assert why.endswith("whose list is not known here")


def test_the_latest_build_is_what_a_change_is_told_against(small, cloud, verified):
    (small.root / "app/run.py").write_text("print(1)\n")
    build.build(small.project, cloud, "image", force=False, say=silent)
    for path in sorted((small.root / "state").glob("runs/*/*/image/build/*.json")):
        text = path.read_text()  # the first build was a day ago: a moment has no parts of a second
        if verified[1].fingerprint in text:
            path.rename(path.with_name("2020-01-01T000000Z-000000.json"))
    (small.root / "app/lib/faces.py").write_text("faces = 2\n")
    assert told(planned(small, cloud)["image"]) == ("build", "file lib/faces.py changed")


def test_an_ami_that_is_gone_is_made_anew(small, cloud, verified):
    boto3.client("ec2", region_name="eu-west-1").deregister_image(ImageId=verified[0].id)
    why = f"the AMI of this fingerprint, {verified[0].id}, is gone from eu-west-1"
    assert told(planned(small, cloud)["ami"]) == ("build", why)


def test_an_image_that_is_gone_is_made_anew(small, cloud, verified):
    digest = [{"imageDigest": verified[1].id}]
    boto3.client("ecr", region_name="eu-west-1").batch_delete_image(repositoryName="faces", imageIds=digest)
    action, why = told(planned(small, cloud)["image"])
    assert action == "build"
    assert why.endswith("is gone from repository faces")


def test_an_image_in_another_repository_is_not_the_wanted_one(small, cloud, verified):
    small.manifest["image"]["repository"] = "people"
    action, why = told(planned(small, cloud)["image"])
    assert action == "build"
    assert why.endswith("is gone: there is no repository people in eu-west-1")


# What is refused.


def test_what_is_gone_for_another_account_is_not_gone(small, cloud, verified):
    """Who plans with the wrong credentials is told so, and not that everything is to be built again."""
    small.manifest["environments"]["dev"]["account"] = "210987654321"
    elsewhere = small.project.cloud()
    catalog = small.project.catalog(elsewhere)
    for artifact in verified:
        catalog.keep(artifact.model_copy(update={"id": "ami-99999999"}), instead_of=None)
    with pytest.raises(GuardError, match="belongs to account 210987654321, the credentials in use belong to 1234"):
        plan.plan(small.project, elsewhere)


def test_an_endpoint_that_is_not_the_environments(small, cloud, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(GuardError, match="AWS_ENDPOINT_URL points to"):
        plan.plan(small.project, cloud)


def test_a_lock_of_another_region(small, cloud):
    small.lock["base_ami"]["region"] = "us-east-1"
    with pytest.raises(LockError, match="of us-east-1, environment 'dev' is in eu-west-1") as caught:
        plan.plan(small.project, cloud)
    assert caught.value.hint == "run splitbake lock --env dev"


@pytest.mark.parametrize("command", ["plan", "build", "verify"])
def test_an_environment_that_only_promotes(small, cloud, made, capsys, command):
    small.manifest["environments"]["prod"] = {
        "account": "123456789012",
        "region": "eu-west-1",
        "promote": {"from": "dev"},
    }
    path = str(small.project.manifest_path)
    code = cli.run(cli.cli, prog_name="splitbake", argv=[command, "--env", "prod", "--json", "--manifest", path])
    error = json.loads(capsys.readouterr().out)["error"]
    assert (code, error["code"], made) == (1, "build", [])
    assert error["message"] == "environment 'prod' promotes what 'dev' has released: nothing is built there"
    assert error["hint"] == "build and release in dev, then run splitbake release --env prod"


def test_a_file_that_cannot_be_read(small, cloud):
    (small.root / "setup/first.sh").unlink()
    with pytest.raises(BuildError, match=r"setup/first\.sh of ami\.provision"):
        plan.plan(small.project, cloud)


# What it will take.


def log(small, cloud, work: str, *runs: tuple[float, float | None]) -> None:
    for number, (seconds, dollars) in enumerate(runs):
        created = f"2026-01-01T00:00:{number:02}+00:00"
        values = {"half": "ami", "work": work, "fingerprint": "sha256:x", "created": created}
        small.project.catalog(cloud).log(Run(**values, seconds=seconds, dollars=dollars))


def expected(small, cloud) -> tuple[float, float | None] | None:
    found = planned(small, cloud)["ami"].expected
    return None if found is None else (found.seconds, found.dollars)


def test_a_build_takes_what_the_last_five_builds_and_verifications_took(small, cloud):
    log(small, cloud, "build", (9999, 9), (1, 0.1), (300.06, 0.3), (100, 0.2), (200, 0.4), (400, 0.5))
    assert expected(small, cloud) == (200, 0.3)
    log(small, cloud, "verify", (40.1, None), (20, None))
    assert expected(small, cloud) == (230.1, 0.3)


def test_verifications_alone_say_nothing_of_a_build(small, cloud):
    log(small, cloud, "verify", (40, None))
    assert expected(small, cloud) is None


def test_dollars_are_of_those_runs_whose_price_is_known(small, cloud):
    log(small, cloud, "build", (10, None), (20, 0.02), (30, None))
    assert expected(small, cloud) == (20, 0.02)


def test_a_verification_takes_what_verifications_took(small, cloud, made):
    build.build(small.project, cloud, "ami", force=False, say=silent)
    assert expected(small, cloud) is None
    log(small, cloud, "verify", (40, None), (50, None))
    assert expected(small, cloud) == (45, None)


# The command.


@pytest.fixture
def command(small, capsys):
    """Call ``splitbake ARGUMENTS`` on the project; return exit code and standard output."""

    def call(*arguments: str) -> tuple[int, str]:
        path = str(small.project.manifest_path)
        code = cli.run(cli.cli, prog_name="splitbake", argv=[*arguments, "--manifest", path])
        return code, capsys.readouterr().out

    return call


def test_exit_codes(small, cloud, command, made, report_on):
    assert command("plan")[0] == 0
    assert command("plan", "--exit-code")[0] == 2
    for half in ("ami", "image"):
        artifact = build.build(small.project, cloud, half, force=False, say=silent).artifact
        assert command("plan", half, "--exit-code")[0] == 2  # it is to be verified
        small.project.catalog(cloud).keep_report(report_on(small.project, artifact))
        assert command("plan", half, "--exit-code")[0] == 0
    assert command("plan", "--exit-code")[0] == 0
    small.lock["base_ami"]["region"] = "us-east-1"
    assert command("plan", "--exit-code")[0] == 1


def test_json(small, cloud, command, verified):
    (small.root / "app/run.py").write_text("print(1)\n")
    log(small, cloud, "build", (100, 0.2))
    code, out = command("plan", "--json")
    assert code == 0
    assert json.loads(out) == {
        "environment": "dev",
        "changes": True,
        "ami": {
            "action": "reuse",
            "fingerprint": verified[0].fingerprint,
            "reasons": [f"nothing changed: built {verified[0].created}, there, and verified (2 checks)"],
            "artifact": verified[0].id,
            "expected_seconds": None,
            "expected_dollars": None,
        },
        "image": {
            "action": "build",
            "fingerprint": fingerprint.inputs(small.project, "image").fingerprint,
            "reasons": ["file run.py changed"],
            "artifact": None,
            "expected_seconds": 90.0,
            "expected_dollars": None,
        },
    }
    assert json.loads(command("plan", "ami", "--json")[1]).keys() == {"environment", "changes", "ami"}


def test_the_table_shows_what_why_and_how_long(small, cloud, command):
    log(small, cloud, "build", (754, 0.1234))
    _, out = command("plan")
    assert "Plan for dev" in out
    for shown in ("ami", "image", "build", "about 12 min 34 s, $0.12", "no image was built yet"):
        assert shown in out


def outputs(text: str) -> dict[str, str]:
    lines = text.splitlines()
    return {lines[at].partition("<<")[0]: lines[at + 1] for at in range(0, len(lines), 3)}


@pytest.fixture
def github(tmp_path, monkeypatch) -> Path:
    """Where a runner's files are."""
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    return tmp_path


def test_what_github_is_given(small, command, verified, github):
    command("plan", "--json")
    ami, image = (artifact.uri for artifact in verified)
    assert outputs((github / "output").read_text()) == {
        "changes": "false",
        "ami": "reuse",
        "ami-id": ami,
        "image": "reuse",
        "image-uri": image,
    }
    assert "### splitbake plan&#58; dev\n\n| half | to do | why | expected |" in (github / "summary").read_text()

    (github / "output").unlink()
    name = "| a <b> `c` $d$ | e.py"
    (small.root / "app/lib" / name).write_text("")
    command("plan")
    assert outputs((github / "output").read_text()) == {
        "changes": "true",
        "ami": "reuse",
        "ami-id": ami,
        "image": "build",
    }
    last = (github / "summary").read_text().splitlines()[-2]
    assert last.count("|") == 5
    assert "&#60;b&#62;" in last


def test_a_runner_that_takes_nothing_gets_one_answer(small, command, github, monkeypatch):
    monkeypatch.setenv("GITHUB_OUTPUT", str(github))  # a folder
    code, out = command("plan", "--json")
    assert code == 1
    assert json.loads(out).keys() == {"error"}


def test_a_name_is_no_command_to_a_runner_that_reads_the_log(small, cloud, verified, capsys):
    (small.root / "app/lib/a\n::set-output name=ami-id::ami-other").write_text("")
    path = str(small.project.manifest_path)
    assert cli.run(cli.cli, prog_name="splitbake", argv=["build", "image", "--manifest", path]) == 0
    shown = capsys.readouterr()
    assert "because file lib/a\\n::set-output" in shown.err
    assert not any(line.strip().startswith("::") for line in (shown.out + shown.err).splitlines())


def test_a_build_gives_github_the_same_names(command, made, github):
    assert command("build")[0] == 0
    built = (github / "output").read_text()
    ami, image = (artifact.uri for artifact in made)
    assert outputs(built) == {"ami-id": ami, "image-uri": image}
    (github / "output").unlink()
    assert command("build")[0] == 0
    assert outputs((github / "output").read_text()) == outputs(built)
    assert len(made) == 2


# No AWS where none is needed.


def run(project: Any, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    script = (
        "import sys; from splitbake import cli; code = cli.main();"
        "print(*sorted(sys.modules), sep='\\n', file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "plan", *arguments, "--manifest", project.manifest_path]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={**kept, **variables})


def test_without_an_artifact_in_a_folder_nobody_is_asked(small):
    """Without credentials, too: there is nothing in AWS that the plan could depend on."""
    done = run(small.project, "--json", AWS_EC2_METADATA_DISABLED="true", AWS_CONFIG_FILE="/dev/null")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["changes"]
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "splitbake" in loaded
    assert loaded & {"boto3", "botocore", "docker", "python_on_whales", "rich", "hcl2", "requests", "moto"} == set()


def test_clients_are_opened_one_at_a_time(monkeypatch):
    """Both halves are looked at side by side, and a session of boto3 is not for two threads at once."""
    busy, most = [], []

    class Session:
        def client(self, service: str, **_: Any) -> object:
            busy.append(service)
            most.append(len(busy))
            time.sleep(0.02)
            busy.remove(service)
            return object()

    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    cloud = Cloud("dev", Environment(account="123456789012", region="eu-west-1"))
    cloud.__dict__["session"] = Session()
    with ThreadPoolExecutor(8) as pool:
        clients = list(pool.map(cloud.client, ["ec2", "ecr", "s3", "sts"] * 4))
    assert max(most) == 1
    assert len({id(client) for client in clients}) == len(most) == 4
