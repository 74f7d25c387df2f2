"""Terraform itself judges what the patcher reads and writes."""

import json
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest

from splitbake.errors import PatchError
from splitbake.hclpatch import Selector, Sources, load, plan, set_value, write

DATA = Path(__file__).parents[1] / "data" / "hcl"
VALUES = [
    *("ami-0new", "", 'a"b\\c', "${x}", "$${x}", "%{if}", "%%{", "$", "~}", "$${"),
    *("a\nb\r\tc", "\x00\x01\x7f", "é🚀", "\u2028"),
]
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform not on PATH"),
]


def terraform(*args: str, cwd: Path | None = None, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["terraform", *args], cwd=cwd, input=text, capture_output=True, check=False, timeout=60)


def corpus(folder: str) -> list[pytest.ParameterSet]:
    return [pytest.param(file, id=file.stem) for file in sorted((DATA / folder).glob("*.tf"))]


@pytest.mark.parametrize("file", corpus("set"))
def test_terraform_accepts_the_file_before_and_after(file: Path) -> None:
    raw = file.read_bytes()
    selector = Selector.parse(raw.decode().partition("\n")[0].removeprefix("# selects: "))
    sources = Sources.parse({file: raw})
    (change,) = plan(sources, [set_value(sources, selector, 'new "${value}"')]).changes
    before, after = terraform("fmt", "-", text=raw), terraform("fmt", "-", text=change.after)
    assert (before.returncode, after.returncode) == (0, 0), (before.stderr + after.stderr).decode()
    assert after.stdout.count(b'"new \\"$${value}\\""') == 1


@pytest.mark.parametrize("file", corpus("refused"))
def test_terraform_accepts_the_refused_file_too_so_the_refusal_is_ours(file: Path) -> None:
    judged = terraform("fmt", "-", text=file.read_bytes())
    assert (judged.returncode == 0) == (file.stem != "duplicate-attribute")


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("a = 1\rb = 2\r", False),
        ("a = <<E\nx\nE", False),
        ("a = <<E\nx\n  E \t\n", True),
        ("a = <<E\n${\nE\n}\nE\n", True),
        ('a = "$$${"\n', True),
        ('a = "${"\n', False),
        ('a = "%{ if "}" == "x" }y%{ endif }"\n', True),
        ("a = [\n1\n}\n", False),
        ("a\n{\n}\n", False),
        ("a = \n1\n", False),
        ("a /* \n */ = 1\n", True),
        ('a = "x\ny"\n', False),
        ("größe = 1\n", True),
        ('a "x${1}" {}\n', False),
    ],
)
def test_the_scanner_and_terraform_agree_on_what_is_hcl(text: str, accepted: bool) -> None:
    with nullcontext() if accepted else pytest.raises(PatchError, match=r"main\.tf:"):
        Sources.parse({Path("main.tf"): text.encode()})
    assert (terraform("fmt", "-", text=text.encode()).returncode == 0) == accepted


def test_terraform_reads_back_the_very_values_that_were_set(tmp_path: Path) -> None:
    names = [f"v{number}" for number in range(len(VALUES))]
    lines = ["locals {", *(f'  {name} = "old"' for name in names), "}"]
    output = f"output values {{ value = [{', '.join(f'local.{name}' for name in names)}] }}"
    (tmp_path / "main.tf").write_text("\n".join([*lines, output, ""]))
    sources = load([tmp_path])
    edits = [set_value(sources, Selector.parse(f"local.{name}"), v) for name, v in zip(names, VALUES, strict=True)]
    write(plan(sources, edits))
    for args in (["init"], ["validate"], ["apply", "-auto-approve"]):
        done = terraform(*args, cwd=tmp_path)
        assert done.returncode == 0, done.stderr.decode()
    assert json.loads(terraform("output", "-json", "values", cwd=tmp_path).stdout) == VALUES


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('locals {\n  größe = 1\n  a = "old"\n}\n', "new"),
        ('locals {\n  a = "old" # }\n  b = "$${"\n}\n', "new"),
        ('locals {\n  a = "old"\n}\n', "%{ for ever"),
    ],
)
def test_terraform_judges_where_python_hcl2_cannot_read(text: str, value: str) -> None:
    sources = Sources.parse({Path("main.tf"): text.encode()})
    patch = plan(sources, [set_value(sources, Selector.parse("local.a"), value)])
    assert patch.notes == ("main.tf: python-hcl2 cannot read this file, so terraform fmt judged the edit",)


def test_a_file_that_is_no_valid_hcl_for_any_judge_is_refused() -> None:
    sources = Sources.parse({Path("main.tf"): b'locals {\n  a = "old"\n  b = 1 1\n}\n'})
    with pytest.raises(PatchError, match=r"main\.tf: is not valid for terraform fmt"):
        plan(sources, [set_value(sources, Selector.parse("local.a"), "new")])
