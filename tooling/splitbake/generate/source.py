"""The source block of the HCL: which builder Packer starts, how it reaches it, and with which volumes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from splitbake.errors import ManifestError
from splitbake.generate import hcl, volumes
from splitbake.lock import Lock
from splitbake.manifest import Manifest
from splitbake.manifest.ami import Builder

if TYPE_CHECKING:
    from splitbake.generate import Compat

_GIB = 1024**3
_MIB = 1024**2
#: EBS gp3: IOPS that are included, and how many each MiB/s needs. Packer 1.6 wants both numbers said.
_GP3_IOPS = 3000
_GP3_RATIO = 4

#: Seconds between two looks at AWS; how many are granted grows with the volumes (300 GB were seen to take 4 hours).
_POLL_SECONDS: Final = 2
_POLL_BASE_SECONDS = 1800
_POLL_SECONDS_PER_GIB = 60

_INTERFACES: Mapping[str, str] = {
    "public-ip": "public_ip",
    "private-ip": "private_ip",
    "session-manager": "session_manager",
}
_TAGGED = ("run_tags", "run_volume_tags", "tags", "snapshot_tags")
#: What Packer makes for a spot instance: a launch template and a request with the first, a fleet with the second.
_SPOT_TAGGED: Mapping[Compat, tuple[str, ...]] = {"1.6": ("spot_tags",), "latest": ("spot_tags", "fleet_tags")}


def block(manifest: Manifest, lock: Lock, compat: Compat) -> hcl.Block:
    """Return ``source "amazon-ebs" "ami"``.

    Raises:
        ManifestError: a volume that the manifest asks for cannot be.
    """
    builder = manifest.ami.builder
    tagged = (*_TAGGED, *(_SPOT_TAGGED[compat] if builder.spot else ()))
    attributes: dict[str, hcl.Value] = {
        "region": text(lock.base_ami.region),
        "source_ami": text(lock.base_ami.id),
        "ami_name": hcl.Expression("local.name"),
        "ami_description": text(f"{manifest.project}: models on {lock.base_ami.id}"),
        **_market(builder),
        **_network(builder),
        "ssh_username": builder.ssh_user,
        "ssh_timeout": "15m",
        "ssh_keypair_name": hcl.Expression("var.key_pair"),
        "ssh_private_key_file": hcl.Expression("var.private_key"),
        "security_group_id": hcl.Expression("var.security_group"),
        "iam_instance_profile": hcl.Expression("var.profile"),
        "custom_endpoint_ec2": hcl.Expression("var.ec2_endpoint"),
        "shutdown_behavior": "terminate",
        **{name: hcl.Expression("local.tags") for name in tagged},
    }
    blocks = [*mappings(manifest, lock), _polling(manifest, lock)]
    if compat == "latest":
        attributes["imds_support"] = "v2.0"
        blocks.append(
            hcl.Block(
                "metadata_options",
                (),
                {"http_endpoint": "enabled", "http_tokens": "required", "http_put_response_hop_limit": 1},
                comment="IMDSv2 only while building; Packer 1.6 has no setting for it.",
            )
        )
    return hcl.Block("source", ("amazon-ebs", "ami"), attributes, tuple(blocks))


def mappings(manifest: Manifest, lock: Lock) -> tuple[hcl.Block, ...]:
    """Return the volumes of the builder, which CreateImage turns into the snapshots of the AMI: root first.

    Raises:
        ManifestError: ``ami.volume.size`` is less than the snapshot of the base AMI needs.
    """
    root = _mapping(manifest, lock.base_ami.root_device, root_size(manifest, lock))
    return root, *(_mapping(manifest, one.device, one.size_gib) for one in volumes.planned(manifest, lock))


def root_size(manifest: Manifest, lock: Lock) -> int:
    """Return the size of the root volume in GiB.

    Raises:
        ManifestError: ``ami.volume.size`` is less than the snapshot of the base AMI needs.
    """
    wanted: int | None = manifest.ami.volume.size
    base = lock.base_ami.root_size
    if wanted is None:
        return math.ceil((base + _on_root(manifest, lock)) / _GIB)
    if wanted < base:
        raise ManifestError(
            f"ami.volume.size is {wanted / _GIB:.1f} GiB, but the root snapshot of {lock.base_ami.id} needs "
            f"{base / _GIB:.0f} GiB",
            hint="give more, or leave ami.volume.size out",
        )
    return math.ceil(wanted / _GIB)


def _on_root(manifest: Manifest, lock: Lock) -> float:
    """Return the bytes for models and runtime on the root volume: a fifth more than they are, for the file system."""
    if manifest.models.placement != "root":
        return 0
    runtime: int = manifest.runtime.budget if manifest.runtime else 0
    return (lock.models_size + runtime) * 1.2


def wait_seconds(manifest: Manifest, lock: Lock) -> int:
    """Return how long the snapshots of an AMI may take until nobody waits for them any more."""
    size = root_size(manifest, lock) + sum(one.size_gib for one in volumes.planned(manifest, lock))
    return _POLL_BASE_SECONDS + size * _POLL_SECONDS_PER_GIB


def text(value: str) -> str:
    """Return ``value`` so that Packer takes it as it is.

    Packer reads every string a second time, as a Go template: two braces would start a call.
    """
    return value.replace("{{", "{{`{{`}}")


def _market(builder: Builder) -> dict[str, hcl.Value]:
    """On demand by default. Packer takes ``instance_type`` or ``spot_instance_types``, never both."""
    if not builder.spot:
        return {"instance_type": text(builder.instance_type)}
    return {"spot_price": "auto", "spot_instance_types": [text(builder.instance_type)]}


def _network(builder: Builder) -> dict[str, hcl.Value]:
    attributes: dict[str, hcl.Value] = {"ssh_interface": _INTERFACES[builder.connect]}
    if builder.subnet:
        attributes["subnet_id"] = text(builder.subnet)
    if builder.subnet and builder.connect != "session-manager":
        # Session Manager only needs a way out, which a subnet has by itself.
        attributes["associate_public_ip_address"] = builder.connect == "public-ip"
    if builder.connect == "session-manager":
        # The agent on the builder needs a moment before it answers; without the pause Packer gives up on it.
        attributes["pause_before_ssm"] = "30s"
    return attributes


def _mapping(manifest: Manifest, device: str, size: int) -> hcl.Block:
    throughput = manifest.ami.volume.throughput // _MIB
    attributes: dict[str, hcl.Value] = {
        "device_name": text(device),
        "volume_type": "gp3",
        "volume_size": size,
        "iops": max(_GP3_IOPS, throughput * _GP3_RATIO),
        "throughput": throughput,
        "delete_on_termination": True,
    }
    if manifest.ami.encrypt:
        attributes["encrypted"] = True
    if manifest.ami.kms_key:
        attributes["kms_key_id"] = text(manifest.ami.kms_key)
    return hcl.Block("launch_block_device_mappings", (), attributes)


def _polling(manifest: Manifest, lock: Lock) -> hcl.Block:
    attempts = wait_seconds(manifest, lock) // _POLL_SECONDS
    return hcl.Block("aws_polling", (), {"delay_seconds": _POLL_SECONDS, "max_attempts": attempts})
