"""What environments may say of each other: who promotes from whom, and by which way."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from splitbake import manifest
from splitbake.errors import ManifestError
from splitbake.manifest import Environment, ways
from splitbake.release import sharing

HEAD = """\
version: 1
project: analysis
state: .state
models: {files: [{path: m/x, from: x}], budget: 1 MB}
ami: {base: ami-0123456789abcdef0}
image:
  {base: "python:3.11-slim", include: [run.py], mounts: {m: /m}, command: [run], repository: app, budget: 1 MB}
environments:
"""
HERE, THERE = ("111111111111", "eu-west-1"), ("222222222222", "us-east-1")


def environment(account: str, region: str, **promote: str) -> dict[str, object]:
    return {"account": account, "region": region, **({"promote": promote} if promote else {})}


def written(folder: Path, environments: dict[str, object]) -> Path:
    path = folder / "splitbake.yaml"
    path.write_text(HEAD + yaml.safe_dump(environments, sort_keys=False).replace("\n", "\n  ").join(["  ", ""]))
    return path


@pytest.mark.parametrize(
    ("prod", "way"),
    [
        (environment(*HERE, **{"from": "dev"}), "same"),
        (environment(*THERE, **{"from": "dev"}), "copy"),
        (environment(HERE[0], THERE[1], **{"from": "dev", "ami": "copy"}), "copy"),
        (environment(THERE[0], HERE[1], **{"from": "dev"}), "copy"),
        (environment(THERE[0], HERE[1], **{"from": "dev", "ami": "share"}), "share"),
    ],
)
def test_an_ami_is_used_as_it_is_shared_or_copied(tmp_path, prod, way):
    found = manifest.load(written(tmp_path, {"dev": environment(*HERE), "prod": prod})).environments
    assert found["prod"].promote.origin == "dev"
    assert ways.way(found["dev"], found["prod"]) == way


@pytest.mark.parametrize(
    ("environments", "told"),
    [
        ({"dev": environment(*HERE), "prod": environment(*HERE, **{"from": "dve"})},
         ["16:7: there is no environment 'dve'; did you mean 'dev'?"]),
        ({"dev": environment(*HERE, **{"from": "dev"})},
         ["13:7: a circle: dev from dev; one of them must release what was built"]),
        ({"dev": environment(*HERE, **{"from": "prod"}), "prod": environment(*HERE, **{"from": "dev"})},
         ["13:7: a circle: dev from prod from dev; one of them must release what was built",
          "18:7: a circle: prod from dev from prod; one of them must release what was built"]),
        ({"dev": environment(*HERE), "prod": environment(*THERE, **{"from": "dev", "ami": "share"})},
         ["17:7: an AMI can be shared within its region only, and 'dev' is in another one; copy it"]),
        ({"dev": environment(*HERE), "prod": environment(*HERE, **{"from": "dev", "ami": "share"})},
         ["17:7: 'dev' is in the same account and region: its very AMI is used, nothing is to be done"]),
        ({"dev": environment(*HERE) | {"endpoint": "custom"}, "prod": environment(*THERE, **{"from": "dev"})},
         ["17:7: 'dev' is behind another endpoint: nothing can be promoted from one cloud to another"]),
        ({"dev": environment(*HERE), "prod": environment(*THERE, **{"from": "dev", "ami": "shared"})},
         ["17:12: expected 'copy' or 'share', found 'shared'; did you mean 'share'?"]),
        ({"dev": environment(*HERE), 7: environment(*THERE, **{"from": "dve"})},
         ["12:3: expected 2 to 63 lower-case letters, digits and ._-, for example video-analysis, found '7'",
          "16:7: there is no environment 'dve'; did you mean 'dev'?"]),
    ],
)  # fmt: skip
def test_a_promotion_that_cannot_be_is_told_where_it_stands(tmp_path, environments, told):
    path = written(tmp_path, environments)
    with pytest.raises(ManifestError) as caught:
        manifest.load(path)
    problems = [line.strip().removeprefix(f"{path}:") for line in caught.value.message.splitlines()[1:]]
    assert problems == told


@pytest.mark.parametrize("way", [{}, {"ami": "copy"}, {"ami": "share"}])
def test_no_other_account_can_promote_what_the_default_key_encrypts(tmp_path, way):
    environments = {
        "dev": environment(*HERE),
        "twin": environment(*HERE, **{"from": "dev"}),
        "prod": environment(THERE[0], HERE[1], **{"from": "twin"}, **way),
    }
    path = written(tmp_path, environments)
    key, plain = "encrypt: true, kms_key: alias/a", path.read_text()
    for encryption in ("encrypt: false", key):
        path.write_text(plain.replace("{base: ami", f"{{{encryption}, base: ami"))
        manifest.load(path)
    path.write_text(path.read_text().replace(key, "encrypt: true"))
    with pytest.raises(ManifestError) as caught:
        manifest.load(path)
    _, problem = caught.value.message.splitlines()
    assert problem.endswith("21:7: what the account's default key encrypts cannot be shared; give ami.kms_key")


def test_one_that_leads_into_a_circle_is_not_blamed_for_it(tmp_path):
    chain = {"aa": "bb", "bb": "cc", "cc": "bb"}
    path = written(tmp_path, {name: environment(*HERE, **{"from": origin}) for name, origin in chain.items()})
    with pytest.raises(ManifestError) as caught:
        manifest.load(path)
    assert "circle: aa" not in caught.value.message
    assert "circle: bb from cc from bb" in caught.value.message


def test_an_ami_is_shared_with_whoever_uses_it_and_with_nobody_else():
    def of(account: str, region: str = "eu-west-1", **promote: str) -> Environment:
        return Environment.model_validate(environment(account * 12, region, **promote))

    environments = {
        "dev": of("1"),
        "stage": of("2", **{"from": "dev", "ami": "share"}),
        "prod": of("3", **{"from": "stage"}),  # copies dev's own AMI, which stage only launches
        "far": of("4", **{"from": "prod"}),  # copies the copy
        "twin": of("1", **{"from": "dev"}),
        "near": of("5", **{"from": "twin"}),
        "other": of("6"),
    }
    assert ways.receivers(environments, "dev") == ["2" * 12, "3" * 12, "5" * 12]
    assert ways.receivers(environments, "prod") == ["4" * 12]
    assert ways.receivers(environments, "other") == []
    owners = {name: ways.owner(environments, name) for name in environments}
    assert {name: owner for name, owner in owners.items() if owner != name} == {"stage": "dev", "twin": "dev"}


def test_sharing_names_accounts_and_never_everybody():
    assert sharing.calls("ami-1", ["snap-1"], []) == []
    image, snapshot = sharing.calls("ami-1", ["snap-1"], ["2" * 12])
    assert image.parameters == {"ImageId": "ami-1", "LaunchPermission": {"Add": [{"UserId": "2" * 12}]}}
    assert snapshot.parameters == {
        "SnapshotId": "snap-1",
        "Attribute": "createVolumePermission",
        "OperationType": "add",
        "UserIds": ["2" * 12],
    }
