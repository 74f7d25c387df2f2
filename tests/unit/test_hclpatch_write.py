import os
import subprocess
from pathlib import Path

import pytest

from splitbake.errors import PatchError
from splitbake.hclpatch import Patch, Selector, load, plan, set_value, write

TEXT = 'variable "ami" {\n  default = "ami-0old"\n}\n'


def patch(*paths: Path, value: str = "ami-0new") -> Patch:
    """One edit in every file: each holds a variable of its own, named like the file."""
    sources = load(paths)
    return plan(sources, [set_value(sources, Selector.parse(f"var.{p.stem}"), value) for p in paths])


def module(folder: Path, *names: str) -> list[Path]:
    files = [folder / f"{name}.tf" for name in names]
    for file in files:
        file.write_text(TEXT.replace('"ami"', f'"{file.stem}"'))
    return files


def state(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Content, mode and modification time of everything in a folder."""
    return {f.name: (f.read_bytes(), f.stat().st_mode, f.stat().st_mtime_ns) for f in folder.iterdir()}


def test_all_files_are_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    files = module(tmp_path, "a", "b")
    before = {file: file.read_bytes() for file in files}
    assert write(patch(*files)) == tuple(files)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == {
        file: raw.replace(b"0old", b"0new") for file, raw in before.items()
    }


def test_mode_survives_and_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (file,) = module(tmp_path / "real", "a")
    file.chmod(0o640)
    link = tmp_path / "a.tf"
    link.symlink_to(Path("real") / "a.tf")
    write(patch(link))
    assert link.is_symlink()
    assert file.stat().st_mode & 0o7777 == 0o640
    assert b"ami-0new" in file.read_bytes()


def test_a_link_and_its_file_are_read_once(tmp_path: Path) -> None:
    (file,) = module(tmp_path, "a")
    (tmp_path / "z.tf").symlink_to(file)
    assert [source.path for source in load([tmp_path])] == [file]


def test_a_value_that_is_right_touches_nothing(tmp_path: Path) -> None:
    files = module(tmp_path, "a")
    before = state(tmp_path)
    assert write(patch(*files, value="ami-0old")) == ()
    assert state(tmp_path) == before


def test_a_file_edited_meanwhile_is_not_overwritten_nor_is_any_other(tmp_path: Path) -> None:
    files = module(tmp_path, "a", "b")
    planned = patch(*files)
    files[1].write_text("# mine\n")
    before = state(tmp_path)
    with pytest.raises(PatchError, match=r"b\.tf: has changed since it was read; no file was changed"):
        write(planned)
    assert state(tmp_path) == before


def test_a_read_only_file_is_refused_before_any_is_written(tmp_path: Path) -> None:
    files = module(tmp_path, "a", "b")
    files[1].chmod(0o444)
    before = state(tmp_path)
    with pytest.raises(PatchError, match=r"b\.tf: is read-only"):
        write(patch(*files))
    assert state(tmp_path) == before


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["fsync", "rename"])
def test_a_failure_half_way_leaves_every_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, at: str
) -> None:
    files = module(tmp_path, "a", "b", "c")
    before = state(tmp_path)
    planned = patch(*files)
    really, calls = (os.fsync, []) if at == "fsync" else (Path.replace, [])

    def fail_the_third_time(*args: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise failure
        return really(*args)

    monkeypatch.setattr(*((os, "fsync") if at == "fsync" else (Path, "replace")), fail_the_third_time)
    with pytest.raises(PatchError if isinstance(failure, OSError) else KeyboardInterrupt):
        write(planned)
    assert len(calls) >= 3
    assert state(tmp_path) == before


def test_a_file_edited_between_the_renames_is_kept_and_the_others_go_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = module(tmp_path, "a", "b")
    before = files[0].read_bytes()
    planned, really = patch(*files), Path.replace

    def replace_and_edit(self: Path, target: Path) -> Path:
        if target == files[0]:
            files[1].write_text("# mine\n")
        return really(self, target)

    monkeypatch.setattr(Path, "replace", replace_and_edit)
    with pytest.raises(PatchError, match="has changed since it was read"):
        write(planned)
    assert (files[0].read_bytes(), files[1].read_bytes()) == (before, b"# mine\n")
    assert sorted(tmp_path.iterdir()) == files


def test_where_going_back_fails_too_the_former_text_is_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = module(tmp_path, "a", "b")
    before = files[0].read_bytes()
    planned, really, calls = patch(*files), Path.replace, []

    def only_the_first(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) > 1:
            raise OSError(5, "Input/output error")
        return really(self, target)

    monkeypatch.setattr(Path, "replace", only_the_first)
    with pytest.raises(PatchError, match="so did going back") as refusal:
        write(planned)
    kept = Path(refusal.value.message.rpartition(" ")[2])
    assert kept.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == sorted([*files, kept])


def test_the_diff_is_one_that_git_applies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "infra").mkdir()
    files = [Path("infra/a.tf"), Path("infra/b.tf")]
    files[0].write_bytes(b"\xef\xbb\xbf" + TEXT.replace('"ami"', '"a"').replace("\n", "\r\n").encode())
    files[1].write_text('# a\u2028b\x0c\nvariable "b" { default = "ami-0old" }')
    planned = patch(*files)
    applied = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", "-"], input=planned.diff().encode(), capture_output=True, check=False
    )
    assert applied.returncode == 0, applied.stderr.decode()
    assert [file.read_bytes() for file in files] == [change.after for change in planned.changes]


def test_a_folder_stands_for_the_terraform_files_in_it(tmp_path: Path) -> None:
    module(tmp_path, "b", "a")
    (tmp_path / "c.tofu").write_text("")
    (tmp_path / "x.tfvars").write_text("a = 1\n")
    (tmp_path / "modules").mkdir()
    module(tmp_path / "modules", "c")
    assert [source.path.name for source in load([tmp_path])] == ["a.tf", "b.tf", "c.tofu"]


@pytest.mark.parametrize(("name", "message"), [("no.tf", "No such file"), ("empty", "no \\*.tf or \\*.tofu file")])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PatchError, match=f"{name}: .*{message}"):
        load([tmp_path / name])
