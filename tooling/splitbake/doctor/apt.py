"""Install packages, and borrow single programs, with the machine's own apt."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from splitbake.doctor.model import Loan
from splitbake.errors import ToolError
from splitbake.ui import Say

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
#: Wait for another apt instead of failing beside it (fresh cloud machines run one at boot).
LOCK_WAIT = ("-o", "DPkg::Lock::Timeout=300")


def stream(argv: Sequence[str], say: Say, *, hint: str, cwd: Path | None = None) -> None:
    """Run a command, handing on its lines as they come.

    Raises:
        ToolError: it failed; the message ends with its last lines.
    """
    tail: deque[str] = deque(maxlen=8)
    with subprocess.Popen(
        argv,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            if text := line.rstrip():
                tail.append(text)
                say(text)
    if process.returncode:
        lines = "".join(f"\n    {line}" for line in tail)
        raise ToolError(f"{' '.join(argv)} failed with exit code {process.returncode}:{lines}", hint=hint)


def install(packages: Sequence[str], prefix: tuple[str, ...], say: Say) -> list[str]:
    """Install the packages that this machine's sources have, and return those that they do not have."""
    # Through env: sudo drops the environment, and debconf must never ask.
    apt = (*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *LOCK_WAIT)
    try:
        stream((*apt, "update"), say, hint="")
    except ToolError as problem:
        # One broken third-party source must not stop what the others have; install tells if it matters.
        say(f"going on with the package lists there are: {problem.message}")
    known = candidates(policy(packages))
    wanted = [package for package in packages if package in known]
    if wanted:
        stream(
            (*apt, "install", "--yes", "--no-install-recommends", *wanted),
            say,
            hint=f"run it by hand to see more: sudo apt-get install {' '.join(wanted)}",
        )
    return [package for package in packages if package not in known]


def policy(packages: Sequence[str]) -> str:
    """Ask apt which versions of the packages it could install."""
    return answer(("apt-cache", "policy", *packages))


def candidates(policy: str) -> set[str]:
    """Return the packages that ``apt-cache policy`` has a version of to install."""
    pairs = re.findall(r"^(\S+):\n(?:\s+Installed: .*\n)?\s+Candidate: (.*)$", policy, re.MULTILINE)
    return {package for package, candidate in pairs if candidate != "(none)"}


def answer(argv: Sequence[str]) -> str:
    """Return the stdout of a short command.

    Raises:
        ToolError: it failed.
    """
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"{' '.join(argv)} failed: {done.stderr.strip()}")
    return done.stdout


def mirror(codename: str) -> str:
    """Return the address of the mirror that this machine takes ``codename`` from.

    Raises:
        ToolError: the machine's apt knows no such source.
    """
    targets = answer(("apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(SITE)"))
    if site := find_site(targets, codename):
        return site
    raise ToolError(
        f"apt on this machine has no source for {codename} main",
        hint="see /etc/apt/sources.list.d, then run apt-get update",
    )


def find_site(targets: str, codename: str) -> str:
    """Find the site of ``codename main`` in lines of ``release component site``; empty where there is none."""
    aliases = {codename, "stable", "oldstable"}
    for line in targets.splitlines():
        release, _, rest = line.partition(" ")
        component, _, site = rest.partition(" ")
        if release in aliases and component == "main":
            return site.strip()
    return ""


def borrow(loan: Loan, directory: Path, *, codename: str, prefix: tuple[str, ...] | None, say: Say) -> None:
    """Take one program out of a package of another release and put it into ``directory``.

    apt works on lists and a source of its own in a temporary folder, so the machine's sources are untouched;
    signatures and checksums are verified as ever.

    Raises:
        ToolError: the mirror does not have it, a signature does not hold, or the folder cannot be written.
    """
    hint = f"{loan.suite} must be on this machine's mirror, and its keys in {KEYRING}"
    with tempfile.TemporaryDirectory(prefix="splitbake-apt-") as name:
        scratch = Path(name)
        scratch.chmod(0o755)  # apt reads as the user _apt
        options = isolate(scratch, f"deb [signed-by={KEYRING}] {mirror(codename)} {loan.suite} main\n")
        stream(("apt-get", *options, "update"), say, hint=hint)
        stream(("apt-get", *options, "download", loan.package), say, hint=hint, cwd=scratch)
        (package,) = scratch.glob("*.deb")
        stream(("dpkg-deb", "-x", str(package), str(scratch / "tree")), say, hint=hint)
        # install(1) replaces the file in one step even while the old one runs.
        stream(
            (*(prefix or ()), "install", "-D", "-m", "755", "-t", str(directory), str(scratch / "tree" / loan.member)),
            say,
            hint=f"is {directory} writable?",
        )


def isolate(scratch: Path, source: str) -> tuple[str, ...]:
    """Lay out a private apt below ``scratch`` with one source; return the options that make apt use it."""
    (scratch / "sources.list").write_text(source, encoding="utf-8")
    for folder in ("lists/partial", "cache/archives/partial"):
        (scratch / folder).mkdir(parents=True)
    settings = (
        f"Dir::Etc::SourceList={scratch}/sources.list",
        "Dir::Etc::SourceParts=/dev/null",
        f"Dir::State::Lists={scratch}/lists",
        f"Dir::Cache={scratch}/cache",
        "Acquire::Languages=none",
        "APT::Sandbox::User=root",  # _apt may not write into a folder of ours
    )
    return tuple(part for setting in settings for part in ("-o", setting))
