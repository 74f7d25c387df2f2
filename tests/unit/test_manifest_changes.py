"""What a change of each key of the manifest means for what is built: a table that no key can be missing from."""

from __future__ import annotations

import copy
import shutil
import subprocess
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from splitbake import fingerprint, registry
from splitbake.errors import LockError
from splitbake.manifest import Manifest

#: A key with one value only: nothing to change.
FIXED = object()
DIGEST = "f" * 64
TERRAFORM = {"terraform": "a.tf", "resource": "aws_launch_template.a", "attribute": "image_id", "set": "ami.id"}
RELEASE = [
    TERRAFORM,
    {"launch_template": "a"},
    {"batch_compute_environment": "a"},
    {"batch_job_definition": "a"},
]
SMOKE = {"queue": "a", "job_definition": "a"}


def base(**values: str) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["ami"].update(base=values)


def promoted(**values: str) -> Callable[[dict[str, Any]], None]:
    prod = {"account": "210987654321", "region": "eu-west-1", "promote": {"from": "dev", **values}}
    return lambda manifest: manifest["environments"].update(prod=prod)


def copied(**values: str) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["ami"].update(copies=[{"region": "eu-central-1", **values}])


def with_runtime(manifest: dict[str, Any]) -> None:
    manifest.update(runtime={"requirements": "gpu.txt", "python": "3.11", "budget": "1 GiB"})


def encrypted(manifest: dict[str, Any]) -> None:
    manifest["ami"].update(encrypt=True, kms_key="alias/models")


def preloaded(manifest: dict[str, Any]) -> None:
    manifest["ami"].update(preload=[f"ecr://sidecar@sha256:{DIGEST}"])


def shared(manifest: dict[str, Any]) -> None:
    manifest["ami"].update(share=["210987654321"])


def codebuild(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["image"].update(codebuild={"role": "builds", **values})


def in_vpc(**values: Any) -> Callable[[dict[str, Any]], None]:
    vpc = {"id": "vpc-0a1b2c3d", "subnets": ["subnet-0a1b2c3d"], "security_groups": ["sg-0a1b2c3d"], **values}
    return codebuild(vpc=vpc)


def with_secret(manifest: dict[str, Any]) -> None:
    codebuild(secrets={"INDEX": "team/index"})(manifest)
    manifest["image"]["secrets"] = ["INDEX"]


#: Key -> what its change does, and another value (or what makes the change).
#: ``ami``, ``image``, ``both``: made anew. ``verify …``: verified anew. ``relock``: the lock is refused first.
TABLE: dict[str, tuple[str, Any]] = {
    "version": ("nothing", FIXED),
    "project": ("both", "people"),
    "contract": ("both", 2),
    "state": ("nothing", "s3://bucket/state"),
    "models.root": ("ami", "/opt/models"),
    "models.files[].path": ("relock", "models/b"),
    "models.files[].from": ("relock", "weights/b"),
    "models.files[].sha256": ("relock", DIGEST),
    "models.budget": ("verify ami", "2 GB"),
    "models.mode": ("ami", "0555"),
    "models.placement": ("ami", "root"),
    "models.prewarm": ("ami", "none"),
    "runtime.requirements": ("relock", with_runtime),
    "runtime.python": ("relock", with_runtime),
    "runtime.root": ("relock", with_runtime),  # and of one that is locked: test_runtime.py
    "runtime.budget": ("relock", with_runtime),
    "ami.base": ("relock", "ami-89abcdef"),
    "ami.base.ssm": ("relock", base(ssm="/base")),
    "ami.base.name": ("relock", base(name="base-*", owner="self")),
    "ami.base.owner": ("relock", base(name="base-*", owner="amazon")),
    "ami.builder.instance_type": ("nothing", "m7i.large"),
    "ami.builder.subnet": ("nothing", "subnet-0a1b2c3d"),
    "ami.builder.profile": ("nothing", "builder"),
    "ami.builder.permissions_boundary": ("nothing", "arn:aws:iam::123456789012:policy/boundary"),
    "ami.builder.spot": ("nothing", True),
    "ami.builder.ssh_user": ("nothing", "admin"),
    "ami.builder.connect": ("nothing", "private-ip"),
    "ami.builder.price": ("nothing", 0.2),
    "ami.volume.size": ("ami", "80 GiB"),
    "ami.volume.throughput": ("ami", "500 MiB/s"),
    "ami.volume.initialize": ("nothing", "300 MiB/s"),
    "ami.encrypt": ("ami", True),
    "ami.kms_key": ("ami", encrypted),
    "ami.provision": ("ami", ["setup/first.sh"]),
    "ami.preload": ("ami", preloaded),
    "ami.ecs.pull": ("ami", "always"),
    "ami.copies[].region": ("nothing", copied()),
    "ami.copies[].kms_key": ("nothing", copied(kms_key="alias/models")),
    "ami.share": ("nothing", shared),
    "ami.deprecate": ("nothing", "180 days"),
    "image.base": ("relock", "python:3.12-slim"),
    "image.builder": ("nothing", "podman"),
    "image.installer": ("image", "pip"),
    "image.secrets": ("image", ["INDEX"]),
    "image.codebuild.role": ("nothing", codebuild()),
    "image.codebuild.bucket": ("nothing", codebuild(bucket="builds")),
    "image.codebuild.compute": ("nothing", codebuild(compute="BUILD_GENERAL1_LARGE")),
    "image.codebuild.image": ("nothing", codebuild(image="aws/codebuild/standard:7.0")),
    "image.codebuild.timeout": ("nothing", codebuild(timeout="2 h")),
    "image.codebuild.vpc.id": ("nothing", in_vpc()),
    "image.codebuild.vpc.subnets": ("nothing", in_vpc(subnets=["subnet-0a1b2c3e"])),
    "image.codebuild.vpc.security_groups": ("nothing", in_vpc(security_groups=["sg-0a1b2c3e"])),
    "image.codebuild.secrets": ("image", with_secret),
    "image.cache": ("nothing", "faces-cache"),
    "image.ecr.immutable": ("nothing", True),
    "image.ecr.scan": ("nothing", True),
    "image.ecr.keep": ("nothing", 30),
    "image.gitignore": ("nothing", True),
    "image.order": ("relock", "auto"),
    "image.context": ("nothing", "same"),  # another folder with the same files
    "image.include": ("image", ["lib/", "run.py", "notes.txt"]),
    "image.exclude": ("image", ["lib/deep/"]),
    "image.requirements": ("image", "pinned.txt"),
    "image.workdir": ("image", "/srv"),
    "image.mounts": ("image", {"models": "/elsewhere", "checkpoints": "/checkpoints"}),
    "image.needs": ("image", ["models/a"]),
    "image.command": ("image", ["python", "-O", "run.py"]),
    "image.uid": ("image", 1234),
    "image.repository": ("nothing", "people"),  # it is looked for there, and so built: test_plan.py
    "image.budget": ("verify image", "1 GB"),
    "image.compressed_budget": ("verify image", "1 GB"),
    "verify.instance_type": ("verify ami", "g5.xlarge"),
    "verify.instances": ("verify ami", 3),
    "verify.gpu": ("verify ami", True),
    "verify.imports": ("verify image", ["numpy"]),
    "verify.run": ("verify image", ["python", "run.py"]),
    "verify.within": ("verify ami", "9 min"),
    "environments.*.account": ("nothing", "210987654321"),
    "environments.*.region": ("nothing", "eu-west-2"),  # the lock is of a region, plan refuses it: test_plan.py
    "environments.*.endpoint": ("nothing", "custom"),
    "environments.*.release[terraform].terraform": ("nothing", "b.tf"),
    "environments.*.release[terraform].resource": ("nothing", "aws_launch_template.b"),
    "environments.*.release[terraform].attribute": ("nothing", "name"),
    "environments.*.release[terraform].set": ("nothing", "image.uri"),
    "environments.*.release[terraform].expect": ("nothing", "ami-.*"),
    "environments.*.release[terraform].follow": ("nothing", True),
    "environments.*.release[launch_template].launch_template": ("nothing", "b"),
    "environments.*.release[batch_compute_environment].batch_compute_environment": ("nothing", "b"),
    "environments.*.release[batch_compute_environment].pin": ("nothing", True),
    "environments.*.release[batch_compute_environment].within": ("nothing", "2 h"),
    "environments.*.release[batch_job_definition].batch_job_definition": ("nothing", "b"),
    "environments.*.promote.from": ("nothing", promoted()),
    "environments.*.promote.ami": ("nothing", promoted(ami="share")),
    "environments.*.smoke.queue": ("nothing", "b"),
    "environments.*.smoke.job_definition": ("nothing", "b"),
    "environments.*.smoke.environment": ("nothing", {"A": "b"}),
    "environments.*.smoke.presign": ("nothing", {"A": "s3://bucket/b"}),
    "environments.*.smoke.within": ("nothing", "1 min"),
}
MEANING = {"nothing": set(), "both": {"ami", "image"}}


def leaves(annotation: Any, path: str) -> Iterator[str]:
    """Yield each key that a value can stand under: ``[]`` in lists, ``[kind]`` in lists of kinds, ``*`` in mappings."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = getattr(annotation, "kind", None)
        start = f"{path.removesuffix('[]')}[{kind}]." if kind else f"{path}." if path else ""
        for name, field in annotation.model_fields.items():
            yield from leaves(field.annotation, f"{start}{field.alias or name}")
    elif origin is typing.Annotated:
        yield from leaves(arguments[0], path)
    elif origin in (typing.Union, types.UnionType):
        for one in arguments:
            if one is not types.NoneType:
                yield from leaves(one, path)
    elif origin in (tuple, list, dict):
        inner = {"tuple": f"{path}[]", "list": f"{path}[]", "dict": f"{path}.*"}[origin.__name__]
        below = set(leaves(arguments[-1 if origin is dict else 0], inner))
        yield from (path if leaf == inner else leaf for leaf in below)
    else:
        yield path


LEAVES = sorted(set(leaves(Manifest, "")))


@pytest.fixture
def whole(small):
    """A project in which every key has a place to stand."""
    subprocess.run(["git", "init", "--quiet", small.root], check=True)
    shutil.copytree(small.root / "app", small.root / "same")
    shutil.copy(small.root / "app/requirements.txt", small.root / "app/pinned.txt")
    small.manifest["environments"]["dev"] |= copy.deepcopy({"release": RELEASE, "smoke": SMOKE})
    return small


def set_leaf(data: Any, leaf: str, value: Any) -> None:
    """Put ``value`` under ``leaf``; of a list the first item (of that kind), of a mapping the first key."""
    *above, last = leaf.replace("[", ".[").split(".")
    for part in above:
        if part == "[]":
            data = data[0]
        elif part.startswith("["):
            data = next(item for item in data if part[1:-1] in item)
        elif part == "*":
            data = next(iter(data.values()))
        else:
            data = data.setdefault(part, {})
    assert data.get(last) != value
    data[last] = value


def outcome(small) -> dict[str, str]:
    project = small.project
    halves = ("ami", "image")
    return {
        **{half: fingerprint.inputs(project, half).fingerprint for half in halves},
        **{f"verify {half}": project.standard(half) for half in halves},
    }


@pytest.mark.parametrize("leaf", LEAVES)
def test_what_a_change_of_each_key_does(whole, monkeypatch, leaf):
    assert leaf in TABLE, f"{leaf}: say in this table what it changes"
    effect, change = TABLE[leaf]
    if change is FIXED:
        return
    monkeypatch.setattr(registry, "IMAGE_BUILDERS", {**registry.IMAGE_BUILDERS, "podman": "a.module:Builder"})
    before = outcome(whole)
    change(whole.manifest) if callable(change) else set_leaf(whole.manifest, leaf, change)
    if effect == "relock":
        with pytest.raises(LockError, match="does not belong to the manifest any more"):
            outcome(whole)
        return
    now = outcome(whole)
    seen = {name for name in before if now[name] != before[name]}
    # What is made anew is verified anyway.
    assert {one for one in seen if one.removeprefix("verify ") not in seen or one in ("ami", "image")} == MEANING.get(
        effect, {effect}
    )


def test_no_row_is_left_of_a_key_that_is_gone():
    assert set(TABLE) - set(LEAVES) == set()


def test_only_keys_with_one_value_are_fixed():
    assert [leaf for leaf, (_, change) in TABLE.items() if change is FIXED] == ["version"]
