"""What must not travel from the builder into the AMI: one list that cleans up after a bake, and checks afterwards.

The list is the union of what the ECS, EKS and Kubernetes image-builder projects remove from their own AMIs, with the
identity of the ECS agent added: it starts on the builder, and instances that share its state cannot register.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Files that one bake leaves behind and no instance may inherit.

    Attributes:
        name: what the check is called.
        why: in one line, for the reader of the cleanup script.
        paths: shell patterns; written by us, so they may hold ``*`` and nothing else that a shell would expand.
        reborn: the first boot makes new ones, so on an instance they may exist but not be older than its boot.
        emptied: the files stay, without content (their programs want them to exist).
    """

    name: str
    why: str
    paths: tuple[str, ...]
    reborn: bool = False
    emptied: bool = False


RULES: tuple[Rule, ...] = (
    Rule(
        "ECS agent identity",
        "instances that share the agent's state cannot register; /var/lib/ecs/ecs.config turns the GPU on and stays",
        ("/var/lib/ecs/data/*", "/var/lib/ecs/gpu/nvidia-gpu-info.json", "/var/log/ecs/*"),
        reborn=True,
    ),
    Rule("SSH host keys", "each instance has its own", ("/etc/ssh/ssh_host_*",), reborn=True),
    Rule(
        "shell history",
        "commands of whoever looked around on the builder",
        ("/root/.*_history", "/home/*/.*_history", "/root/.lesshst", "/home/*/.lesshst"),
    ),
    Rule(
        "credentials",
        "keys and logins are never part of an AMI",
        tuple(
            f"{home}/{name}"
            for home in ("/root", "/home/*")
            for name in (".aws", ".docker", ".netrc", ".git-credentials", ".config/gcloud", ".cache/huggingface")
        ),
    ),
    Rule(
        "first-boot state",
        "cloud-init does its work anew on each instance",
        ("/var/lib/cloud/instance", "/var/lib/cloud/instances/*", "/var/lib/cloud/data/*", "/var/lib/cloud/sem/*"),
        reborn=True,
    ),
    Rule(
        "host registrations",
        "leases, Systems Manager registration and random seed of the builder",
        (
            "/var/lib/dhclient/*",
            "/var/lib/dhcp/*",
            "/var/lib/NetworkManager/*.lease",
            "/var/lib/amazon/ssm/*",
            "/var/lib/systemd/random-seed",
        ),
        reborn=True,
    ),
    Rule(
        "logs of the build",
        "what happened on the builder",
        (
            "/var/log/cloud-init*",
            "/var/log/amazon/ssm/*",
            "/var/log/audit/*",
            "/var/log/journal/*",
            "/var/log/dnf*",
            "/var/log/yum*",
            "/var/log/apt/*",
        ),
        reborn=True,
    ),
    Rule(
        "login records",
        "who logged in on the builder; their programs want the files to exist",
        (
            "/var/log/wtmp",
            "/var/log/btmp",
            "/var/log/lastlog",
            "/var/log/secure",
            "/var/log/auth.log",
            "/var/log/messages",
        ),
        reborn=True,
        emptied=True,
    ),
    Rule(
        "package caches",
        "space for nothing",
        ("/var/cache/dnf/*", "/var/cache/yum/*", "/var/cache/apt/archives/*.deb", "/var/lib/dnf/history*"),
        reborn=True,
    ),
    Rule(
        "build leftovers",
        "uploads and scripts of this bake among them",
        ("/tmp/*", "/tmp/.*-unix/*", "/var/tmp/*"),  # noqa: S108 - patterns on the builder, not files of ours
        reborn=True,
    ),
    Rule(
        "authorized keys",
        "the builder's login key; the connection that is open now lives on, no other can be made",
        ("/root/.ssh/authorized_keys", "/home/*/.ssh/authorized_keys"),
        reborn=True,
    ),
    Rule(
        "machine id",
        "systemd makes a new one where the file exists and is empty, but not where it is missing",
        ("/etc/machine-id",),
        reborn=True,
        emptied=True,
    ),
)


def cleanup() -> str:
    """Return the shell lines that apply every rule; ``remove`` and ``empty`` are functions of the cleanup script."""
    lines: list[str] = []
    for rule in RULES:
        verb = "empty" if rule.emptied else "remove"
        lines += [f"# {rule.name}: {rule.why}", *(f"{verb} {path}" for path in rule.paths)]
    return "\n".join(lines)
