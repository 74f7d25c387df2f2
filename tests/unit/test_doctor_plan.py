"""From findings to actions, on machines of every kind; nothing is run."""

from __future__ import annotations

import pytest

from splitbake.doctor.catalogue import CHECKS, requiring
from splitbake.doctor.diagnose import diagnose
from splitbake.doctor.machine import codename, is_debian_like
from splitbake.doctor.model import AllowUser, Borrow, Finding, InstallPackages, Machine, Output, StartEngine, Status
from splitbake.doctor.plan import plan
from splitbake.doctor.report import healthy

ROOT_BOOKWORM = Machine(codename="bookworm", apt=True, prefix=(), systemd=False, user="")
SUDO_NOBLE = Machine(codename="noble", apt=True, prefix=("sudo", "-n"), systemd=True, user="ana")
FEDORA = Machine(codename="", apt=False, prefix=(), systemd=True, user="")
NO_RIGHTS = Machine(codename="bookworm", apt=True, prefix=None, systemd=True, user="ana")


def findings(machine: Machine, **statuses: Status) -> tuple[Finding, ...]:
    """Make findings in which all is well but for ``statuses`` (words of a name joined by ``_``)."""
    return tuple(
        Finding(
            name=check.name,
            status=statuses.get(check.name.replace(" ", "_").replace("-", "_"), Status.OK),
            found="",
            needed="",
            why="",
            required=check.required,
        )
        for check in CHECKS
    )


def bare(machine: Machine) -> tuple[Finding, ...]:
    """Diagnose a machine that has nothing at all (a keyring file apart, which may be on this one)."""
    return diagnose(machine, checks=[c for c in CHECKS if "keyring" not in c.name], ask=lambda _: Output(None))


def test_nothing_to_do_where_all_is_well() -> None:
    assert plan(findings(ROOT_BOOKWORM), ROOT_BOOKWORM) == ()


def test_a_bare_bookworm_gets_packages_then_buildx_then_the_engine() -> None:
    checks = [check for check in CHECKS if "keyring" not in check.name]
    packages, buildx, engine = plan(bare(ROOT_BOOKWORM), ROOT_BOOKWORM, checks=checks)
    assert isinstance(packages, InstallPackages)
    assert {"docker.io", "packer", "docker-registry", "mmdebstrap", "git", "openssh-client"} <= set(packages.packages)
    assert not {"docker-buildx", "shellcheck"} & set(packages.packages)
    assert isinstance(buildx, Borrow)
    assert (buildx.loan.suite, buildx.directory) == ("trixie", "/usr/local/lib/docker/cli-plugins")
    assert engine == StartEngine(systemd=False)


def test_trixie_has_buildx_but_borrows_packer() -> None:
    trixie = Machine(codename="trixie", apt=True, prefix=(), systemd=True, user="")
    packages, loan = plan(findings(trixie, Docker_buildx=Status.MISSING, Packer=Status.MISSING), trixie)
    assert packages == InstallPackages(("docker-buildx",))
    assert isinstance(loan, Borrow)
    assert (loan.loan.package, loan.loan.suite) == ("packer", "bookworm")


def test_ubuntu_takes_buildx_from_its_own_packages() -> None:
    actions = plan(findings(SUDO_NOBLE, Docker_buildx=Status.MISSING), SUDO_NOBLE)
    assert actions == (InstallPackages(("docker-buildx",)),)


def test_a_user_is_let_in_after_the_engine_was_started() -> None:
    actions = plan(findings(SUDO_NOBLE, Docker_Engine=Status.NOT_RUNNING), SUDO_NOBLE)
    assert actions == (StartEngine(systemd=True), AllowUser("ana"))
    assert plan(findings(SUDO_NOBLE, Docker_Engine=Status.NO_ACCESS), SUDO_NOBLE) == (AllowUser("ana"),)


def test_an_engine_elsewhere_is_left_alone() -> None:
    remote = Machine(
        codename="bookworm", apt=True, prefix=(), systemd=False, user="", docker_host="tcp://192.0.2.1:2375"
    )
    assert plan(findings(remote, Docker_Engine=Status.NOT_RUNNING), remote) == ()


@pytest.mark.parametrize("machine", [FEDORA, NO_RIGHTS], ids=["no apt", "no rights"])
def test_where_we_may_not_install_the_remedy_is_told(machine: Machine) -> None:
    missing = [finding for finding in bare(machine) if finding.required]
    actions = plan(bare(machine), machine, checks=[c for c in CHECKS if "keyring" not in c.name])
    assert not any(isinstance(action, InstallPackages | StartEngine | AllowUser) for action in actions)
    assert all(finding.status is Status.MISSING and finding.remedy for finding in missing)


def test_without_rights_buildx_still_goes_into_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ana")
    (action,) = plan(findings(NO_RIGHTS, Docker_buildx=Status.MISSING), NO_RIGHTS)
    assert isinstance(action, Borrow)
    assert action.directory == "/home/ana/.docker/cli-plugins"


def test_what_is_too_old_is_left_to_its_owner() -> None:
    assert plan(findings(ROOT_BOOKWORM, Packer=Status.TOO_OLD), ROOT_BOOKWORM) == ()


def test_what_is_optional_is_not_installed_and_does_no_harm() -> None:
    found = findings(ROOT_BOOKWORM, Terraform=Status.MISSING, shellcheck=Status.MISSING)
    assert plan(found, ROOT_BOOKWORM) == ()
    assert healthy(found)
    assert not healthy(findings(ROOT_BOOKWORM, git=Status.MISSING))


def test_an_engine_that_is_not_needed_is_neither_installed_nor_started() -> None:
    spared = {"Docker CLI": "verify", "Docker Engine": "verify", "Docker buildx": "nothing"}
    gone = findings(
        ROOT_BOOKWORM, Docker_CLI=Status.MISSING, Docker_Engine=Status.NOT_RUNNING, Docker_buildx=Status.MISSING
    )
    assert plan(gone, ROOT_BOOKWORM, checks=requiring((), spared)) == ()
    named = plan(gone, ROOT_BOOKWORM, checks=requiring({"Docker Engine"}, spared))
    assert named == (StartEngine(systemd=False),)
    why = {check.name: (check.why, check.required) for check in requiring((), spared)}
    assert why["Docker Engine"] == ("verify", False)


def test_an_old_version_is_found_and_its_cure_told() -> None:
    (check,) = [check for check in CHECKS if check.name == "Packer"]
    (finding,) = diagnose(ROOT_BOOKWORM, checks=[check], ask=lambda _: Output(0, "1.3.4\n"))
    assert (finding.status, finding.found, finding.needed) == (Status.TOO_OLD, "1.3.4", ">= 1.6.6")
    assert "developer.hashicorp.com" in finding.remedy


@pytest.mark.parametrize(
    ("machine", "command"),
    [(ROOT_BOOKWORM, "apt-get install packer"), (SUDO_NOBLE, "sudo apt-get install packer")],
)
def test_the_remedy_is_a_command_that_works_for_this_user(machine: Machine, command: str) -> None:
    (check,) = [check for check in CHECKS if check.name == "Packer"]
    (finding,) = diagnose(machine, checks=[check], ask=lambda _: Output(None))
    assert finding.remedy == command


def test_descendants_count_as_the_release_they_are_made_from() -> None:
    mint = {"ID": "linuxmint", "ID_LIKE": "ubuntu debian", "VERSION_CODENAME": "xia", "UBUNTU_CODENAME": "noble"}
    assert is_debian_like(mint)
    assert codename(mint) == "noble"
    assert not is_debian_like({"ID": "fedora"})
    assert not is_debian_like({})
