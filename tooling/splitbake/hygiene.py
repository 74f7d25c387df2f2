"""What must not travel from the builder into the AMI: one list that cleans up after a bake, and checks afterwards.

The list is the union of what the ECS, EKS and Kubernetes image-builder projects remove from their own AMIs and of what
systemd calls unsafe in an image (https://systemd.io/BUILDING_IMAGES), with the identity of the ECS agent added: it
starts on the builder, and instances that share its state cannot register.

Left out of that union, because it is no trace of the builder: /etc/resolv.conf (an ECS host needs it), /etc/.updated
and /var/.updated (every first boot would rebuild caches), the tables of postfix, swap files, and what cloud-init's own
clean-up removes beyond this list: /var/lib/cloud/scripts, where a provisioning script may have put some.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Files that one bake leaves behind and no instance may inherit.

    Attributes:
        name: what the check is called.
        why: in one line, for the reader of the cleanup script.
        patterns: written by us, so they may hold ``*`` and nothing else that a shell would expand. A name that is only
            ``*`` stands for all that the folder holds.
        reborn: the first boot makes new ones, so on an instance they may exist but not be older than its boot.
        emptied: the files stay, without content (their programs want them to exist).
        late: removed only while the machine goes down, because their daemon works until then.
    """

    name: str
    why: str
    patterns: tuple[str, ...]
    reborn: bool = False
    emptied: bool = False
    late: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """The patterns as a shell takes them: there, a star stands for no name that begins with a dot."""
        return tuple(path for pattern in self.patterns for path in _with_hidden(pattern))


def _with_hidden(pattern: str) -> tuple[str, ...]:
    folder, _, name = pattern.rpartition("/")
    return (pattern, f"{folder}/.[!.]*", f"{folder}/..?*") if name == "*" else (pattern,)


def _in_homes(*names: str) -> tuple[str, ...]:
    return tuple(f"{home}/{name}" for home in ("/root", "/home/*") for name in names)


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
        "commands of whoever looked around on the builder, and what they reached from there",
        _in_homes(".*_history", ".lesshst", ".viminfo", ".wget-hsts", ".ssh/known_hosts*"),
    ),
    Rule(
        "credentials",
        "keys and logins are never part of an AMI",
        _in_homes(
            ".aws",
            ".docker",
            ".ecr",
            ".netrc",
            ".git-credentials",
            ".pypirc",
            ".ssh/id_*",
            ".config/containers",
            ".config/gcloud",
            ".cache/huggingface",
            ".huggingface",
        ),
    ),
    Rule(
        "first-boot state",
        "cloud-init does its work anew on each instance",
        (
            "/var/lib/cloud/instance",
            "/var/lib/cloud/instances/*",
            "/var/lib/cloud/data/*",
            "/var/lib/cloud/sem/*",
            "/var/lib/cloud/seed/*",
        ),
        reborn=True,
    ),
    Rule(
        "host registrations",
        "leases, addresses, secrets and random seed of the builder",
        (
            "/var/lib/dhclient/*",
            "/var/lib/dhcp/*",
            "/var/lib/NetworkManager/*",
            "/etc/udev/rules.d/70-persistent-net.rules",
            "/var/lib/systemd/credential.secret",
            "/var/lib/systemd/random-seed",
            "/boot/efi/loader/random-seed",
        ),
        reborn=True,
    ),
    Rule(
        "container engine identity",
        "Docker and containerd make an id for each host",
        ("/etc/docker/key.json", "/var/lib/docker/engine-id", "/var/lib/containerd/*/uuid"),
        reborn=True,
    ),
    Rule(
        "Systems Manager state",
        "registration and logs of the agent; the connection that this runs in may be one of its sessions",
        ("/var/lib/amazon/ssm/*", "/var/log/amazon/ssm/*"),
        reborn=True,
        late=True,
    ),
    Rule(
        "logs of the build",
        "what happened on the builder",
        (
            "/var/log/cloud-init*",
            "/var/log/audit/*",
            "/var/log/journal/*",
            "/var/log/sa/*",
            "/var/log/dnf*",
            "/var/log/yum*",
            "/var/log/apt/*",
            "/var/log/*.gz",
            "/var/lib/rsyslog/imjournal.state",
            "/var/lib/systemd/coredump/*",
            "/var/crash/*",
        ),
        reborn=True,
    ),
    Rule(
        "login records",
        "who logged in on the builder; their programs want the files to exist",
        tuple(
            f"/var/log/{name}"
            for name in (
                "wtmp",
                "btmp",
                "lastlog",
                "faillog",
                "tallylog",
                "secure",
                "auth.log",
                "messages",
                "syslog",
                "boot.log",
                "cron",
                "dmesg",
                "dpkg.log",
            )
        ),
        reborn=True,
        emptied=True,
    ),
    Rule(
        "sudo lectures",
        "who was told once what sudo is",
        ("/var/lib/sudo/*", "/var/db/sudo/*"),
        reborn=True,
    ),
    Rule(
        "package caches",
        "space for nothing",
        (
            "/var/cache/dnf/*",
            "/var/cache/yum/*",
            "/var/cache/apt/archives/*.deb",
            "/var/lib/dnf/history*",
            "/var/lib/yum/history",
            *_in_homes(".cache/pip", ".cache/uv"),
        ),
        reborn=True,
    ),
    Rule(
        "build leftovers",
        "uploads and scripts of this bake; /.autorelabel would make each instance boot twice",
        ("/tmp/*", "/var/tmp/*", "/.autorelabel"),  # noqa: S108 - patterns on the builder
        reborn=True,
    ),
    Rule(
        "authorized keys",
        "the builder's login key; the connection that is open now lives on, no other can be made",
        _in_homes(".ssh/authorized_keys*"),
        reborn=True,
    ),
    Rule(
        "host name",
        "each instance gets its own; an empty file counts as none",
        ("/etc/hostname",),
        reborn=True,
        emptied=True,
    ),
    Rule(
        "machine id",
        "systemd makes a new one where the file exists and is empty, but not where it is missing",
        ("/etc/machine-id",),
        reborn=True,
        emptied=True,
    ),
    Rule(
        "machine id of D-Bus",
        "a link to the other one, made anew at boot; a file here would be a second id that all instances share",
        ("/var/lib/dbus/machine-id",),
        reborn=True,
    ),
)
