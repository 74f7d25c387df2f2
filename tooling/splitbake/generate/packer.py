"""``packer/``: the HCL of the bake and the shell scripts that it runs.

One core, ``main.pkr.hcl``, is for every Packer from 1.6 on: no plugin block, no data source, and none of the functions
that came later. What only a current Packer knows is added for ``latest``: the plugin block in a file of its own, and
the settings that cannot be split out of the source block.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from splitbake.errors import ManifestError
from splitbake.generate import hcl, hygiene
from splitbake.generate.mark import MARK
from splitbake.lock import Lock
from splitbake.manifest import Manifest

if TYPE_CHECKING:
    from splitbake.generate import Compat

FOLDER: Final = "packer"
MAIN: Final = f"{FOLDER}/main.pkr.hcl"
VERSIONS: Final = f"{FOLDER}/versions.pkr.hcl"

#: Where scripts and uploads meet on the builder; ``scripts/`` names it too.
REMOTE_INPUTS: Final = "/var/tmp/splitbake"  # noqa: S108 - made by 10-settle.sh with mode 0700

#: Run by name with sh, so that no /tmp mounted noexec and no lost mode bit stands in the way.
_RUN_SCRIPT = "sudo env {{ .Vars }} sh {{ .Path }}"
#: A script of the user's keeps its own first line (#!).
_RUN_PROVISION = "chmod +x {{ .Path }}; sudo env {{ .Vars }} {{ .Path }}"

_GIB = 1024**3
_MIB = 1024**2
#: EBS gp3: IOPS that are included, and how many each MiB/s needs. Packer 1.6 wants both numbers said.
_GP3_IOPS = 3000
_GP3_RATIO = 4

#: Seconds between two looks at AWS; how many are granted grows with the volume (300 GB were seen to take 4 hours).
_POLL_SECONDS = 2
_POLL_BASE_SECONDS = 1800
_POLL_SECONDS_PER_GIB = 60

_VARIABLES: Mapping[str, tuple[str, str]] = {
    "run": ("names this bake and everything temporary of it", "manual"),
    "fingerprint": ("digest of everything that the AMI is made from", "unset"),
    "inputs": ("folder with models.tsv, ami.json, contract and the model files to upload", "inputs"),
    "record": ("where Packer writes down what it made", "packer-manifest.json"),
    "ec2_endpoint": ("another EC2 than AWS's own", ""),
    "key_pair": ("name of an existing key pair; Packer makes one where this is empty", ""),
    "private_key": ("file with the private key of key_pair", ""),
    "security_group": ("id of an existing security group; Packer makes one where this is empty", ""),
}


def render(manifest: Manifest, lock: Lock, compat: Compat) -> dict[str, str]:
    """Return the files of ``packer/``: path below the project's folder -> text.

    Raises:
        ManifestError: the volume that the manifest asks for cannot be.
    """
    texts = {MAIN: _main(manifest, lock, compat), **scripts(manifest)}
    if compat == "latest":
        texts[VERSIONS] = _HEADER.format(compat=compat) + hcl.render(_plugins())
    return texts


def scripts(manifest: Manifest) -> dict[str, str]:
    """Return the shell scripts alone, which are the same for every Packer."""
    values = {
        "'@root@'": shlex.quote(manifest.models.root),
        "'@mode@'": shlex.quote(manifest.models.mode),
        "# @mark@": MARK,
        "@hygiene@": hygiene.cleanup(),
    }
    texts = {}
    for name in _SCRIPTS:
        text = files("splitbake.generate").joinpath("scripts", name).read_text(encoding="utf-8")
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        texts[f"{FOLDER}/scripts/{name}"] = text
    return texts


def recipe(manifest: Manifest, lock: Lock) -> str:
    """Return the part of the HCL that decides what is in the AMI: its volume, its tags, and what provisions it.

    Where it is baked, how the builder is reached and how long Packer waits have no part in it.
    """
    return hcl.render(_root_volume(manifest, lock, volume_size(manifest, lock)), _locals(manifest), _build(manifest))


def ami_name(manifest: Manifest, fingerprint: str, run: str) -> str:
    """Return the AMI's name as the HCL composes it from its variables."""
    return f"{manifest.project}-{fingerprint.removeprefix('sha256:')[:_SHORT]}-{run}"


def tags(manifest: Manifest, fingerprint: str, run: str) -> dict[str, str]:
    """Return the tags that AMI and snapshots carry, as the HCL writes them."""
    return {
        "Name": ami_name(manifest, fingerprint, run),
        "splitbake:project": manifest.project,
        "splitbake:run": run,
        "splitbake:fingerprint": fingerprint,
        "splitbake:contract": str(manifest.contract),
    }


def inventory(manifest: Manifest, lock: Lock, fingerprint: str) -> dict[str, Any]:
    """Return what ``/etc/splitbake/ami.json`` says on an instance: what this AMI is and which models it holds."""
    return {
        "version": 1,
        "project": manifest.project,
        "contract": manifest.contract,
        "fingerprint": fingerprint,
        "base_ami": lock.base_ami.id,
        "models": {
            "root": manifest.models.root,
            "digest": lock.models_digest,
            "size": lock.models_size,
            "files": {file.path: {"sha256": file.sha256, "size": file.size} for file in lock.files},
        },
    }


_HEADER = MARK + "\n# packer-compat: {compat}\n\n"
_SETTLE, _MODELS, _CLEANUP = "10-settle.sh", "30-models.sh", "90-cleanup.sh"
_SCRIPTS = (_SETTLE, _MODELS, _CLEANUP)
_SHORT = 12


def _main(manifest: Manifest, lock: Lock, compat: Compat) -> str:
    variables = [
        hcl.Block("variable", (name,), {"type": hcl.Expression("string"), "description": what, "default": default})
        for name, (what, default) in _VARIABLES.items()
    ]
    blocks = (*variables, _locals(manifest), _source(manifest, lock, compat), _build(manifest))
    return _HEADER.format(compat=compat) + hcl.render(*blocks)


def _locals(manifest: Manifest) -> hcl.Block:
    """Return what ``ami_name`` and ``tags`` say, in HCL."""
    short = hcl.Expression(f'substr(replace(var.fingerprint, "sha256:", ""), 0, {_SHORT})')
    marks: dict[str, hcl.Value] = {
        "Name": hcl.Expression("local.name"),
        "splitbake:project": manifest.project,
        "splitbake:run": hcl.Expression("var.run"),
        "splitbake:fingerprint": hcl.Expression("var.fingerprint"),
        "splitbake:contract": str(manifest.contract),
    }
    name = hcl.Template(manifest.project, "-", short, "-", hcl.Expression("var.run"))
    return hcl.Block("locals", (), {"name": name, "tags": marks})


def _plugins() -> hcl.Block:
    amazon = {"source": "github.com/hashicorp/amazon", "version": ">= 1.2.8"}
    plugins = hcl.Block("required_plugins", (), {"amazon": amazon})
    return hcl.Block("packer", (), {"required_version": ">= 1.7.0"}, (plugins,))


def _text(value: str) -> str:
    """Return ``value`` so that Packer takes it as it is.

    Packer reads every string a second time, as a Go template: two braces would start a call.
    """
    return value.replace("{{", "{{`{{`}}")


def _source(manifest: Manifest, lock: Lock, compat: Compat) -> hcl.Block:
    builder, size = manifest.ami.builder, volume_size(manifest, lock)
    public = builder.connect == "public-ip"
    attributes: dict[str, hcl.Value] = {
        "region": _text(lock.base_ami.region),
        "source_ami": _text(lock.base_ami.id),
        "ami_name": hcl.Expression("local.name"),
        "ami_description": _text(f"{manifest.project}: models on {lock.base_ami.id}"),
        "instance_type": _text(builder.instance_type),
        "ssh_username": builder.ssh_user,
        "ssh_interface": "public_ip" if public else "private_ip",
        "ssh_timeout": "10m",
        "ssh_keypair_name": hcl.Expression("var.key_pair"),
        "ssh_private_key_file": hcl.Expression("var.private_key"),
        "security_group_id": hcl.Expression("var.security_group"),
        "custom_endpoint_ec2": hcl.Expression("var.ec2_endpoint"),
        "shutdown_behavior": "terminate",
    }
    if builder.subnet:
        attributes |= {"subnet_id": _text(builder.subnet), "associate_public_ip_address": public}
    if builder.profile:
        attributes["iam_instance_profile"] = _text(builder.profile)
    attributes |= {name: hcl.Expression("local.tags") for name in _TAGGED}
    blocks = [_root_volume(manifest, lock, size), _polling(size)]
    if compat == "latest":
        blocks.append(
            hcl.Block(
                "metadata_options",
                (),
                {"http_endpoint": "enabled", "http_tokens": "required", "http_put_response_hop_limit": 1},
                comment="IMDSv2 only while building; Packer 1.6 has no setting for it.",
            )
        )
    return hcl.Block("source", ("amazon-ebs", "ami"), attributes, tuple(blocks))


_TAGGED = ("run_tags", "run_volume_tags", "tags", "snapshot_tags")


def _root_volume(manifest: Manifest, lock: Lock, size: int) -> hcl.Block:
    throughput = manifest.ami.volume.throughput // _MIB
    return hcl.Block(
        "launch_block_device_mappings",
        (),
        {
            "device_name": _text(lock.base_ami.root_device),
            "volume_type": "gp3",
            "volume_size": size,
            "iops": max(_GP3_IOPS, throughput * _GP3_RATIO),
            "throughput": throughput,
            "delete_on_termination": True,
        },
    )


def _polling(size: int) -> hcl.Block:
    attempts = (_POLL_BASE_SECONDS + size * _POLL_SECONDS_PER_GIB) // _POLL_SECONDS
    return hcl.Block("aws_polling", (), {"delay_seconds": _POLL_SECONDS, "max_attempts": attempts})


def volume_size(manifest: Manifest, lock: Lock) -> int:
    """Return the size of the root volume in GiB.

    Raises:
        ManifestError: ``ami.volume.size`` is less than the snapshot of the base AMI needs.
    """
    wanted: int | None = manifest.ami.volume.size
    base = lock.base_ami.root_size
    if wanted is None:
        # A fifth more than the models: file system overhead, and a .part file beside what is in place.
        return math.ceil((base + lock.models_size * 1.2) / _GIB)
    if wanted < base:
        raise ManifestError(
            f"ami.volume.size is {wanted / _GIB:.1f} GiB, but the root snapshot of {lock.base_ami.id} needs "
            f"{base / _GIB:.0f} GiB",
            hint="give more, or leave ami.volume.size out",
        )
    return math.ceil(wanted / _GIB)


def _build(manifest: Manifest) -> hcl.Block:
    provision = [_shell(f"../{path}", _RUN_PROVISION) for path in manifest.ami.provision]
    inputs = hcl.Block(
        "provisioner",
        ("file",),
        {
            "source": hcl.Template(hcl.Expression("var.inputs"), "/"),
            "destination": REMOTE_INPUTS,
            "generated": True,
        },
        comment="The list of models holds presigned URLs: it is not in this text, and gone after 30-models.sh.",
    )
    steps = (
        _shell(f"scripts/{_SETTLE}", _RUN_SCRIPT),
        *provision,
        inputs,
        _shell(f"scripts/{_MODELS}", _RUN_SCRIPT),
        _shell(f"scripts/{_CLEANUP}", _RUN_SCRIPT, skip_clean=True),
        hcl.Block("post-processor", ("manifest",), {"output": hcl.Expression("var.record")}),
    )
    return hcl.Block("build", (), {"name": manifest.project, "sources": ["source.amazon-ebs.ami"]}, steps)


def _shell(path: str, execute: str, *, skip_clean: bool = False) -> hcl.Block:
    script = hcl.Template(hcl.Expression("path.root"), f"/{_text(path)}")
    attributes: dict[str, hcl.Value] = {"script": script, "execute_command": execute}
    return hcl.Block("provisioner", ("shell",), attributes | ({"skip_clean": True} if skip_clean else {}))
