"""The volumes beside the root: their sizes and their names."""

from __future__ import annotations

import math
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake.generate import volumes
from splitbake.generate.volumes import Volume

GIB = 1024**3
BLOCK, INODE = 4096, 256
#: mke2fs takes this much for the journal of a file system (e2fsprogs, ext2fs_default_journal_size): GiB -> MiB.
JOURNALS = {1: 32, 2: 64, 16: 128, 32: 256, 64: 512, 128: 1024}
SCRIPT = (Path(volumes.__file__).parent / "scripts" / "20-volumes.sh").read_text(encoding="utf-8")


def usable(gib: int) -> tuple[int, int]:
    """Return the blocks and inodes that an ext4 of this size leaves for files, by how mke2fs lays it out."""
    blocks, inodes = gib * GIB // BLOCK, gib * GIB // volumes.BYTES_PER_INODE
    groups = math.ceil(blocks / 32768)
    journal = next((mib for upto, mib in JOURNALS.items() if gib <= upto), 1024) * 1024**2 // BLOCK
    descriptors = math.ceil(groups * 64 / BLOCK)
    # Backups of superblock and descriptors, with room to grow, lie in groups 0, 1 and powers of 3, 5 and 7.
    backups = sum(g in (0, 1) or any(math.log(g, n) % 1 < 1e-9 for n in (3, 5, 7)) for g in range(groups))
    taken = inodes * INODE // BLOCK + 2 * groups + backups * (1 + descriptors + 1024) + journal
    return blocks - taken, inodes - 11


def needed(files: dict[str, int]) -> tuple[int, int]:
    """Return the blocks and inodes that files and their folders take, entries of folders half empty at worst."""
    folders = {folder for path in files for folder in PurePosixPath(path).parents}
    names: dict[PurePosixPath, int] = {}
    for path in [*map(PurePosixPath, files), *folders - {PurePosixPath()}]:
        names[path.parent] = names.get(path.parent, 0) + 2 * (8 + math.ceil(len(path.name.encode()) / 4) * 4)
    entries = sum(math.ceil(names.get(folder, 0) / BLOCK) + 1 for folder in folders)
    return sum(math.ceil(size / BLOCK) for size in files.values()) + entries, len(files) + len(folders)


@given(
    st.dictionaries(
        st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=6).map("/".join),
        st.integers(0, 30 * GIB),
        min_size=1,
        max_size=30,
    )
)
def test_any_files_fit(files: dict[str, int]) -> None:
    size = volumes.fitting(files)
    for need, there in zip(needed(files), usable(size), strict=True):
        assert need <= there
    assert size <= sum(files.values()) / GIB * 1.12 + len(files) * 8 * 16384 / GIB + 1.2, "room that nobody needs"


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({"a": 0}, 1),
        ({f"small/{number:05}": 10_000 for number in range(20_000)}, 1),
        ({f"{number}/only": 1 for number in range(100_000)}, 4),
        ({"models/a": 150_000_000, "checkpoints/b": 1_500_000_000}, 2),
        ({"one": 60 * GIB}, 67),
    ],
    ids=["nothing", "20,000 small ones", "a folder for each", "as ours", "one large one"],
)
def test_sizes_of_what_people_have(files: dict[str, int], gib: int) -> None:
    assert volumes.fitting(files) == gib
    assert all(need <= there for need, there in zip(needed(files), usable(gib), strict=True))


@given(st.lists(st.integers(1, 5), max_size=6))
def test_no_two_volumes_have_the_same_size_and_none_shrinks(sizes: list[int]) -> None:
    planned = [Volume(f"/dev/sd{letter}", letter, "/", size) for letter, size in zip("fghijk", sizes, strict=False)]
    apart = volumes.told_apart(planned)
    assert [one.device for one in apart] == [one.device for one in planned]
    assert len({one.size_gib for one in apart}) == len(planned)
    assert all(after.size_gib >= before.size_gib for after, before in zip(apart, planned, strict=True))


def test_calls_are_words_of_the_shell_whatever_the_folder_is() -> None:
    where = '/opt/it\'s $(touch x) `y` "z" \\'
    line = volumes.calls([Volume("/dev/sdf", "dl-models", 3 * "/x", 2), Volume("/dev/sdg", "b", where, 3)], "make")
    assert [shlex.split(one) for one in line.splitlines()] == [
        ["make", "/dev/sdf", "dl-models", "2", "/x/x/x"],
        ["make", "/dev/sdg", "b", "3", where],
    ]


def test_no_volume_is_a_comment_for_the_shell() -> None:
    assert subprocess.run(["sh", "-euc", volumes.calls([], "make")], check=False).returncode == 0


@pytest.fixture
def find(tmp_path: Path) -> Callable[..., Any]:
    """Run the script's own ``find_disk`` on a machine that has these disks: name -> bytes, and whether it is blank."""

    def run(disks: dict[str, tuple[int, bool]]) -> list[str]:
        sizes = "\n".join(f"{name}) echo {size} ;;" for name, (size, _) in disks.items())
        blank = "|".join(name for name, (_, is_blank) in disks.items() if is_blank) or "none"
        tools = {
            "lsblk": f'for disk; do :; done\ncase "$*" in\n*NAME,TYPE*) echo "{names(disks)}" ;;\n'
            f'*SIZE*) case $disk in\n{sizes}\nesac ;;\n*MOUNTPOINT*) ;;\n*) echo "$disk" ;;\nesac',
            "blkid": f"for disk; do :; done\ncase $disk in\n{blank}) exit 2 ;;\nesac",
        }
        for name, body in tools.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
            (tmp_path / name).chmod(0o755)
        functions = SCRIPT.partition("# make DEVICE")[0]
        script = f"PATH={tmp_path}:$PATH\n{functions}\nfind_disk /dev/not-here {2 * GIB}\n"
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        return done.stdout.split()

    def names(disks: dict[str, Any]) -> str:
        return "\n".join(f"{name} {'part' if name.endswith('p1') else 'disk'}" for name in disks)

    return run


def test_a_disk_without_a_known_name_is_found_by_its_size_if_it_is_blank(find: Callable[..., Any]) -> None:
    there = {
        "/dev/nvme0n1": (30 * GIB, False),
        "/dev/nvme0n1p1": (2 * GIB, True),
        "/dev/nvme1n1": (2 * GIB, False),
        "/dev/nvme2n1": (2 * GIB, True),
        "/dev/nvme3n1": (250 * GIB, True),
    }
    assert find(there) == ["/dev/nvme2n1"]
    assert find({name: what for name, what in there.items() if name != "/dev/nvme2n1"}) == []


def test_two_that_could_be_meant_are_both_told(find: Callable[..., Any]) -> None:
    assert find({"/dev/nvme1n1": (2 * GIB, True), "/dev/nvme2n1": (2 * GIB, True)}) == ["/dev/nvme1n1", "/dev/nvme2n1"]
