"""Every external tool, why it is needed and where it comes from.

Versions are the lowest that the test-suite has passed with. Debian 12 has no buildx package and Debian 13 no
Packer; the programs of the neighbouring release need nothing but libc and work (measured).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

from splitbake.doctor.model import Apt, Check, Loan
from splitbake.doctor.probes import bill_maker, engine, file_exists, version_of
from splitbake.errors import UsageError

NUMBER = r"(\d+\.\d+[\w.+~-]*)"

SESSION_MANAGER = Check(
    name="Session Manager plugin",
    why="instances without an open port: connect: session-manager",
    probe=version_of("session-manager-plugin", "--version", pattern=rf"^{NUMBER}"),
    # The oldest that AWS supports, and two that it took back within days (its version history, October 2026).
    minimum="1.2.764",
    broken=("1.2.688.0", "1.2.889.0"),
    required=False,
    remedy="install the Session Manager plugin: "
    "https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-working-with-install-plugin.html",
)

CHECKS: tuple[Check, ...] = (
    Check(
        name="Docker CLI",
        why="building and running images",
        probe=version_of("docker", "--version", pattern=rf"Docker version {NUMBER}"),
        minimum="20.10",
        sources={
            "*": Apt(("docker.io",)),
            # From Debian 13 on the client is a package of its own.
            "trixie": Apt(("docker-cli",)),
            "forky": Apt(("docker-cli",)),
        },
        remedy="install Docker: https://docs.docker.com/engine/install/",
    ),
    Check(
        name="Docker Engine",
        why="images, local cloud",
        probe=engine,
        minimum="20.10",
        # Where the kernel has AppArmor on, an engine without apparmor_parser starts no container.
        sources={"*": Apt(("docker.io", "iptables", "apparmor", "ca-certificates"))},
        remedy="install Docker: https://docs.docker.com/engine/install/",
    ),
    Check(
        name="Docker buildx",
        why="building with BuildKit",
        probe=version_of("docker", "buildx", "version", pattern=rf"buildx v?{NUMBER}"),
        minimum="0.10",
        sources={
            "*": Apt(("docker-buildx",)),
            "bookworm": Loan(
                package="docker-buildx",
                suite="trixie",
                member="usr/libexec/docker/cli-plugins/docker-buildx",
                directory="/usr/local/lib/docker/cli-plugins",
                user_directory=".docker/cli-plugins",
            ),
        },
        remedy="put the plugin docker-buildx into ~/.docker/cli-plugins: https://github.com/docker/buildx",
    ),
    Check(
        name="Packer",
        why="baking the AMI",
        probe=version_of("packer", "--version", pattern=rf"(?:^|v){NUMBER}"),
        minimum="1.6.6",
        sources={
            "*": Apt(("packer",)),
            "trixie": Loan(package="packer", suite="bookworm", member="usr/bin/packer", directory="/usr/local/bin"),
        },
        remedy="install Packer (any version from 1.6.6 on; from 1.10 on its licence is BUSL): https://developer.hashicorp.com/packer/install",
    ),
    Check(
        name="docker-registry",
        why="local cloud: ECR",
        probe=version_of("docker-registry", "--version", pattern=rf"docker/distribution v?{NUMBER}"),
        minimum="2.8",
        sources={"*": Apt(("docker-registry",))},
        remedy="install the program docker-registry: https://distribution.github.io/distribution/",
    ),
    Check(
        name="mmdebstrap",
        why="local cloud: base AMI",
        probe=version_of("mmdebstrap", "--version", pattern=rf"mmdebstrap {NUMBER}"),
        sources={"*": Apt(("mmdebstrap", "gpg"))},
        remedy="install the package mmdebstrap of your distribution",
    ),
    Check(
        name="Debian archive keyring",
        why="local cloud: base AMI",
        probe=file_exists("/usr/share/keyrings/debian-archive-keyring.gpg"),
        sources={"*": Apt(("debian-archive-keyring",))},
        remedy="install the package debian-archive-keyring of your distribution",
    ),
    Check(
        name="ssh client",
        why="reaching instances",
        probe=version_of("ssh", "-V", pattern=rf"OpenSSH_{NUMBER}"),
        sources={"*": Apt(("openssh-client",))},
        remedy="install the OpenSSH client of your distribution",
    ),
    Check(
        name="git",
        why="commits of releases",
        probe=version_of("git", "--version", pattern=rf"git version {NUMBER}"),
        sources={"*": Apt(("git",))},
        remedy="install the package git of your distribution",
    ),
    SESSION_MANAGER,
    Check(
        name="podman",
        why="building images without Docker: image.builder: podman",
        probe=version_of("podman", "--version", pattern=rf"podman version {NUMBER}"),
        # The first with cache mounts in a RUN; the test-suite has passed with 4.3.
        minimum="4.0",
        required=False,
        # uidmap and slirp4netns: for who is not root.
        sources={"*": Apt(("podman", "uidmap", "slirp4netns"))},
        remedy="install podman: https://podman.io/docs/installation",
    ),
    Check(
        name="syft",
        why="bills of materials of images",
        probe=bill_maker,
        minimum="1.18",
        required=False,
        remedy="install splitbake[sbom], or syft: https://github.com/anchore/syft",
    ),
    Check(
        name="Terraform",
        why="validating patched text",
        probe=version_of("terraform", "version", pattern=rf"Terraform v{NUMBER}"),
        minimum="1.3",
        required=False,
        remedy="install Terraform: https://developer.hashicorp.com/terraform/install",
    ),
    Check(
        name="shellcheck",
        why="developing splitbake",
        probe=version_of("shellcheck", "--version", pattern=rf"version: {NUMBER}"),
        required=False,
        sources={"*": Apt(("shellcheck",))},
        remedy="install the package shellcheck of your distribution",
    ),
    Check(
        name="nginx",
        why="benchmarks of the fetch",
        probe=version_of("nginx", "-v", pattern=rf"nginx/{NUMBER}"),
        required=False,
        sources={"*": Apt(("nginx-light",))},
        remedy="install the package nginx-light (or nginx) of your distribution",
    ),
)


def requiring(wanted: Collection[str], spared: Mapping[str, str] = MappingProxyType({})) -> tuple[Check, ...]:
    """Return all checks, with those named in ``wanted`` required.

    Args:
        wanted: names.
        spared: name -> what it is still for; these are not required, unless they are wanted.

    Raises:
        UsageError: a name is none of a tool.
    """
    names = [check.name for check in CHECKS]
    for name in wanted:
        if name not in names:
            raise UsageError(f"{name!r} is no tool that splitbake knows", hint=f"one of {', '.join(names)}")
    return tuple(
        replace(
            check,
            why=spared.get(check.name, check.why),
            required=check.name in wanted or (check.required and check.name not in spared),
        )
        for check in CHECKS
    )
