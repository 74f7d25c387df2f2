"""What travels to the builder beside the scripts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from splitbake import fingerprint
from splitbake.bake import uploads
from splitbake.generate import packer as generated


@pytest.fixture
def local(small: Any) -> Any:
    """The project with local models only."""
    del small.lock["models"][1], small.manifest["models"]["files"][1]
    small.manifest["image"]["mounts"] = {"models": "/models"}
    return small


def test_the_fetcher_is_the_generated_one_whatever_lies_in_the_project(local: Any, cloud: Any) -> None:
    """Somebody may be editing there since it was compared."""
    texts = generated.render(local.project.manifest, local.project.lock, "1.6")
    fetcher = local.root / generated.FETCH
    fetcher.parent.mkdir(parents=True)
    fetcher.write_text("# edited\n", encoding="utf-8")
    folder = local.root / "inputs"
    wanted = fingerprint.inputs(local.project, "ami").fingerprint
    assert uploads.lay_out(local.project, cloud, wanted, folder) == []
    assert (folder / "fetch.py").read_text(encoding="utf-8") == texts[generated.FETCH]
    assert json.loads((folder / "ami.json").read_text(encoding="utf-8"))["fingerprint"] == wanted
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()} == {0o600}
