"""Each fixture in tests/data/hcl is one edge case: its first lines say what is selected and, where so, why not."""

import re
from pathlib import Path

import pytest

from splitbake.errors import PatchError
from splitbake.hclpatch import Patch, Selector, Sources, find, plan, set_value

DATA = Path(__file__).parents[1] / "data" / "hcl"
AMI = re.compile(r"ami-[0-9a-f]{8}(?:[0-9a-f]{9})?")
PATH = Path("main.tf")
TEMPLATE = 'resource "aws_launch_template" "gpu" {\n  image_id = "ami-0old"\n}\n'
IMAGE = Selector.of("aws_launch_template.gpu", "image_id")


def fixtures(folder: str) -> list[pytest.ParameterSet]:
    files = sorted((DATA / folder).glob("*.tf"))
    assert files
    return [pytest.param(file, id=file.stem) for file in files]


def header(text: str, key: str) -> str:
    found = re.search(rf"^# {key}: (.*)$", text, re.MULTILINE)
    assert found
    return found[1]


def sources(**files: str) -> Sources:
    return Sources.parse({Path(f"{name}.tf"): text.encode() for name, text in files.items()})


def patch(text: str | bytes, selector: str | Selector = IMAGE, value: str = "ami-0new") -> Patch:
    raw = text if isinstance(text, bytes) else text.encode()
    chosen = selector if isinstance(selector, Selector) else Selector.parse(selector)
    here = Sources.parse({PATH: raw})
    return plan(here, [set_value(here, chosen, value)])


@pytest.mark.parametrize("file", fixtures("set"))
def test_only_the_selected_literal_changes(file: Path) -> None:
    before = file.read_text()
    marked = next(line for line in before.splitlines() if "# here" in line)
    code, mark, comment = marked.partition("# here")
    left, right = code.rsplit('"ami-0old"', 1)
    change = patch(before, header(before, "selects"))
    assert change.changes[0].after.decode() == before.replace(marked, f'{left}"ami-0new"{right}{mark}{comment}')
    assert change.changed_lines == 1


@pytest.mark.parametrize("file", fixtures("refused"))
def test_anything_but_one_literal_string_is_refused_with_its_reason_and_place(file: Path) -> None:
    text = file.read_text()
    with pytest.raises(PatchError) as refusal:
        patch(text, header(text, "selects"))
    assert header(text, "refused") in refusal.value.message
    assert re.search(r"main\.tf", refusal.value.message)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("indent", ["  ", "\t", "\t \t"])
@pytest.mark.parametrize("end", ["\n", ""])
def test_byte_order_mark_line_ends_indent_and_missing_final_newline_survive(
    newline: str, bom: bytes, indent: str, end: str
) -> None:
    text = TEMPLATE.replace("  ", indent).replace("\n", newline).removesuffix(newline) + end
    before = bom + text.encode()
    assert patch(before).changes[0].after == before.replace(b"ami-0old", b"ami-0new")


def test_mixed_line_ends_survive() -> None:
    before = b'# a\r\n# b\n\r\nvariable "x" {\n  default = "ami-0old"\r\n  y = <<A\r\nz\nA\r\n}\n'
    assert patch(before, "var.x").changes[0].after == before.replace(b"0old", b"0new")


def test_the_judge_is_named_where_python_hcl2_cannot_read_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    text = (DATA / "set" / "beyond-python-hcl2.tf").read_text()
    (note,) = patch(text).notes
    assert note == (
        "main.tf: python-hcl2 cannot read this file and terraform is not on PATH, "
        "so splitbake's own scanner alone judged the edit"
    )


def test_a_value_that_is_right_changes_nothing_whatever_its_spelling() -> None:
    change = patch('variable "x" { default = "\\u0061mi-0new" }\n', "var.x")
    assert (change.changes, change.diff(), change.changed_lines) == ((), "", 0)


def test_the_value_is_escaped_as_an_hcl_string() -> None:
    change = patch(TEMPLATE, value='a"b\\c${d}%{e}\n\t\x01é')
    assert rb'image_id = "a\"b\\c$${d}%%{e}\n\t\u0001' + "é".encode() + b'"\n' in change.changes[0].after


def test_a_value_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(PatchError, match="cannot be written as UTF-8"):
        patch(TEMPLATE, value="\ud800")


@pytest.mark.parametrize("old", ["ami-12345678", "ami-0123456789abcdef0"])
def test_an_old_value_as_expected_is_replaced(old: str) -> None:
    here = sources(main=TEMPLATE.replace("ami-0old", old))
    assert set_value(here, IMAGE, "ami-00000000", expect=AMI).old == old


@pytest.mark.parametrize("old", ["", "nginx:latest", "ami-123", "xami-12345678", "ami-12345678\\n"])
def test_an_old_value_that_is_not_as_expected_is_refused(old: str) -> None:
    here = sources(main=TEMPLATE.replace("ami-0old", old))
    with pytest.raises(PatchError, match=r"main\.tf:2: .* does not look like"):
        set_value(here, IMAGE, "ami-00000000", expect=AMI)


def test_a_reference_is_explained_and_followed_only_when_asked() -> None:
    here = sources(
        main='resource "aws_launch_template" "gpu" {\n  image_id = local.amis["kr"]\n}\n',
        locals="locals {\n  amis = { kr = var.ami_id }\n}\n",
        variables='variable "ami_id" {\n  default = "ami-0old"\n}\n',
    )
    with pytest.raises(PatchError) as refusal:
        set_value(here, IMAGE, "ami-0new")
    assert refusal.value.message == (
        'main.tf:2: resource.aws_launch_template.gpu.image_id is a reference, local.amis["kr"]; '
        "its value at locals.tf:2 is a reference, var.ami_id; "
        'its default at variables.tf:2 is a literal string, "ami-0old"'
    )
    assert "variables.tf:2" in refusal.value.hint
    edit = set_value(here, IMAGE, "ami-0new", follow=True)
    assert (edit.path, edit.line, edit.old) == (Path("variables.tf"), 2, "ami-0old")
    assert edit.notes == ("variables.tf:2: a default; a tfvars file, TF_VAR_ami_id or -var takes precedence",)


def test_a_reference_into_a_map_behind_another_reference_is_followed() -> None:
    here = sources(
        main="locals {\n  image = local.amis.kr\n  amis = var.amis\n}\n"
        'variable "amis" {\n  default = { kr = "ami-0old" }\n}\n'
    )
    assert set_value(here, Selector.parse("local.image"), "ami-0new", follow=True).line == 6


def test_a_reference_is_followed_in_its_own_module_only() -> None:
    variable = b'variable "ami" { default = "ami-0old" }\n'
    main = TEMPLATE.replace('"ami-0old"', "var.ami").encode()
    files = {Path("a/main.tf"): main, Path("a/v.tf"): variable, Path("b/v.tf"): variable}
    assert set_value(Sources.parse(files), IMAGE, "ami-0new", follow=True).path == Path("a/v.tf")


def test_a_reference_that_leads_to_no_literal_is_refused_when_followed() -> None:
    here = sources(main=TEMPLATE.replace('"ami-0old"', "var.x") + 'variable "x" { default = try(1, "ami-0old") }\n')
    with pytest.raises(PatchError, match=r"a reference, var\.x; its default at main\.tf:4 is a function call"):
        set_value(here, IMAGE, "ami-0new", follow=True)


@pytest.mark.parametrize("ignored", ["[image_id]", '["image_id"]', "all", "[\n    tags,\n    image_id,\n  ]"])
def test_ignored_changes_are_a_warning(ignored: str) -> None:
    text = TEMPLATE.replace("}", f"  lifecycle {{\n  ignore_changes = {ignored}\n  }}\n}}")
    (note,) = patch(text).notes
    assert note == "main.tf:4: ignore_changes covers image_id, so terraform apply will not act on it"


def test_other_ignored_changes_are_none() -> None:
    assert not patch(TEMPLATE.replace("}", "  lifecycle {\n  ignore_changes = [tags]\n  }\n}")).notes


def test_an_attribute_in_two_files_is_refused_with_every_place() -> None:
    with pytest.raises(PatchError) as refusal:
        find(sources(main=TEMPLATE, override=TEMPLATE), IMAGE)
    assert refusal.value.message.splitlines()[1:] == ["  main.tf:2", "  override.tf:2"]


def test_a_file_that_overrides_other_attributes_is_not_in_the_way() -> None:
    found = find(sources(main=TEMPLATE, override=TEMPLATE.replace("image_id", "key_name")), IMAGE)
    assert found.where == "main.tf:2"


def test_the_nearest_names_are_offered() -> None:
    here = sources(main=TEMPLATE, other='resource "aws_instance" "x" {}\n')
    with pytest.raises(PatchError) as no_block:
        find(here, Selector.of("aws_launch_template.gpo", "image_id"))
    assert no_block.value.hint == "Did you mean: resource.aws_launch_template.gpu at main.tf:1"
    with pytest.raises(PatchError) as no_attribute:
        find(here, Selector.of("aws_launch_template.gpu", "image"))
    assert no_attribute.value.hint == "Did you mean: image_id"


def test_two_edits_of_one_file_make_one_change() -> None:
    before = TEMPLATE + 'variable "x" { default = "" }\n'
    here = sources(main=before)
    edits = [
        set_value(here, Selector.parse("var.x"), "a much longer value"),
        set_value(here, IMAGE, "ami-0new"),
    ]
    change = plan(here, [*edits, edits[0]])
    wanted = before.replace("ami-0old", "ami-0new").replace('""', '"a much longer value"')
    assert [one.after.decode() for one in change.changes] == [wanted]
    assert change.changed_lines == 2


def test_two_edits_of_one_value_are_refused() -> None:
    here = sources(main=TEMPLATE)
    with pytest.raises(PatchError, match="would be set to 'a' and to 'b'"):
        plan(here, [set_value(here, IMAGE, "a"), set_value(here, IMAGE, "b")])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("aws_launch_template.gpu.image_id", "resource.aws_launch_template.gpu.image_id"),
        ("data.aws_ami.x.filter[0].values[1]", "data.aws_ami.x.filter[0].values[1]"),
        ("var.ami", "variable.ami.default"),
        ("variable.ami.default", "variable.ami.default"),
        ("var.ami.default", "variable.ami.default.default"),
        ('local.amis["us.east"]', 'locals.amis["us.east"]'),
        ('local.amis["us-east-1"]', "locals.amis.us-east-1"),
        ("module.batch.ami_id", "module.batch.ami_id"),
    ],
)
def test_selectors_are_read_as_terraform_writes_references(text: str, address: str) -> None:
    assert str(Selector.parse(text)) == address
    assert Selector.parse(address) == Selector.parse(text)


@pytest.mark.parametrize("text", ["", "a b", "1", 'x["', "local.a[var.b]", "a..b", "local", "aws_x.y", "a[0].b.c"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(PatchError, match=re.escape(repr(text))):
        Selector.parse(text)
