"""What the documents say is true: examples load, links lead somewhere, commands and keys exist."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import click
import pytest
import yaml

from splitbake import manifest
from splitbake.artifact import Half
from splitbake.cli import cli
from splitbake.cli.options import OUTPUT_OF
from splitbake.errors import ManifestError
from splitbake.manifest import schema, yamldoc
from splitbake.plan import Action

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "examples").glob("*/*.md")),
]
MANIFEST_PAGE = REPOSITORY / "docs/manifest.md"

#: Fenced and indented blocks, and code within a line.
CODE = re.compile(
    r"^```\w*\n(?P<fenced>.*?)^```$|^ {4,}(?P<indented>\S[^\n]*)$|`(?P<inline>[^`\n]+)`", re.MULTILINE | re.DOTALL
)
YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
#: A call as it is typed, up to what a shell, or the time in a transcript, would end it with.
CALL = re.compile(r"(?<![\w./-])splitbake +([a-z](?:(?!  and  \$)[^\n#&|;>()\"`])*)")


def name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def code(text: str) -> Iterator[str]:
    for found in CODE.finditer(text):
        yield next(part for part in found.groups() if part is not None)


def laid_over(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: laid_over(below.get(key), value) for key, value in above.items()}}


def examples() -> list[tuple[str, Any]]:
    return [
        (f"{name(page)}:{text.count(chr(10), 0, found.start()) + 1}", yamldoc.parse(found[1], page).data)
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for found in YAML.finditer(text)
    ]


@pytest.mark.parametrize(("where", "example"), examples())
def test_examples_of_manifests_load(tmp_path, where, example):
    """A part is read as one of the smallest manifest."""
    smallest = next(data for _, data in examples() if "version" in data)
    path = tmp_path / "splitbake.yaml"
    path.write_text(json.dumps(laid_over(smallest, example)), encoding="utf-8")
    manifest.load(path)


def test_the_page_of_the_manifest_shows_a_whole_one():
    assert any("version" in data for where, data in examples() if where.startswith("docs/manifest.md"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    targets = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_shows_how_a_wrong_manifest_is_told(tmp_path, monkeypatch):
    text = (REPOSITORY / "splitbake.yaml").read_text(encoding="utf-8")
    text = text.replace("  budget: 500 MB", "  budgett: 500 MB").replace("endpoint: custom", "endpoint: custm")
    (tmp_path / "splitbake.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManifestError) as told:
        manifest.load(Path("splitbake.yaml"))
    shown = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert [line for line in f"error: {told.value.message}".splitlines() if line not in shown] == []


def calls() -> list[tuple[str, str]]:
    found = {
        (name(page), " ".join(call.split()))
        for page in PAGES
        for text in code(page.read_text(encoding="utf-8"))
        for call in CALL.findall(text)
    }
    return sorted(found)


def parse(call: str) -> None:
    """Let click read the arguments of ``call``, and run nothing."""
    command: click.Command | None = cli
    words = shlex.split(call)
    while isinstance(command, click.Group) and words:
        command = command.get_command(click.Context(command), words.pop(0))
    assert command is not None, "no such command"
    if not isinstance(command, click.Group):
        command.make_context("splitbake", words)


@pytest.mark.parametrize(("page", "call"), calls())
def test_commands_exist_with_their_options(page, call):
    parse(call)


def test_the_readme_shows_every_step():
    shown = {call.split()[0] for page, call in calls() if page == "README.md"}
    assert {"lock", "generate", "build", "verify", "release", "smoke", "doctor", "schema"} <= shown


@pytest.mark.parametrize("call", ["frobnicate", "lock --chek", "build amii", "local upp"])
def test_what_does_not_exist_is_noticed(call):
    with pytest.raises((click.UsageError, AssertionError)):
        parse(call)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_sessions_exist(page):
    sessions = re.findall(r"^def (\w+)\(session", (REPOSITORY / "noxfile.py").read_text(encoding="utf-8"), re.MULTILINE)
    named = [
        found
        for text in code(page.read_text(encoding="utf-8"))
        for found in re.findall(r"(?:\./run|nox -s) ([a-z]\w*)", text)
    ]
    assert set(named) <= set(sessions)


def keys() -> Iterator[tuple[str, str]]:
    """Yield each key as the page writes it, with the text that its row must have: the default, or "required"."""
    whole = schema.json_schema()

    def parts(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if "$ref" in node:
            yield whole["$defs"][node["$ref"].rpartition("/")[2]]
        for one in (*node.get("anyOf", ()), *node.get("oneOf", ())):
            yield from parts(one)

    def walk(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
        for key, value in node["properties"].items():
            path = f"{prefix}{key}"
            patterns = value.get("patternProperties", {}).values()
            inner = [*parts(value), *(part for item in patterns for part in parts(item))]
            listed = list(parts(value.get("items", {})))
            for part in inner:
                yield from walk(part, f"{path}." if path != "environments" else "")
            for part in listed:
                yield from walk(part, f"{path}[]." if path != "release" else "")
            if value.get("type") == "string" or not (inner or listed) or path == "ami.base":
                yield path, "required" if key in node.get("required", ()) else written(value.get("default"))

    yield from walk(whole, "")


def written(default: Any) -> str:
    if default is None:
        return ""
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"


@pytest.mark.parametrize(("key", "default"), sorted(set(keys())))
def test_every_key_has_a_row_with_its_default(key, default):
    rows = [line for line in MANIFEST_PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{key}` |")]
    assert len(rows) == 1
    last = rows[0].rstrip(" |").rpartition("|")[2]
    assert default in last
    assert ("required" in last) == (default == "required")


def test_every_row_is_a_key():
    table = re.findall(r"^\| key .*\n\|-.*\n((?:\|.*\n)+)", MANIFEST_PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    rows = {row.split("`")[1] for part in table for row in part.splitlines()}
    assert rows - {key for key, _ in keys()} <= {"release", "smoke"}


def test_every_variable_that_is_read_is_named():
    text = MANIFEST_PAGE.read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "tooling").rglob("*.py")]
    read = {found for source in sources for found in re.findall(r'os\.environ(?:\.get\(|\[)"([A-Z_]+)"', source)}
    assert "AWS_ENDPOINT_URL" in read
    assert {variable for variable in read - {"PATH"} if f"`{variable}`" not in text} == set()


def test_the_workflow_of_the_plan_reads_outputs_that_exist():
    text = (REPOSITORY / "docs/plan.md").read_text(encoding="utf-8")
    (workflow,) = re.findall(r"^```yml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    steps = yaml.safe_load(workflow)["steps"]
    assert all(step.keys() <= {"id", "if", "run"} for step in steps)
    rows = re.findall(r"^\| (`[^|]+) \| .* \| plan(?:, build)? \|$", text, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)}
    assert named == {"changes", *get_args(Half), *OUTPUT_OF.values()}
    assert set(re.findall(r"steps\.plan\.outputs\.([a-z-]+)", workflow)) <= named


def test_the_page_of_the_plan_shows_every_action():
    text = (REPOSITORY / "docs/plan.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \| .* \| .* \|$", text, re.MULTILINE)) >= set(get_args(Action))
