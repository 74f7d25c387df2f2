"""The walk over an image's layers, the requirements parser, and the checks as pure functions."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from splitbake import requirements
from splitbake.errors import BuildError
from splitbake.lock import LockedFile
from splitbake.verify import layers

WEIGHTS = b"w" * 70_000
MODEL = LockedFile(path="models/face.onnx", source="x", size=len(WEIGHTS), sha256=hashlib.sha256(WEIGHTS).hexdigest())


def archive(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class Pipe(io.BytesIO):
    """A stream that cannot go back, as ``docker image save`` gives it."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_args):
        raise AssertionError("a pipe cannot seek")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("name", ["abc/layer.tar", "blobs/sha256/abc"])
def test_a_model_is_found_by_content_under_any_name(name, mode):
    layer = archive({"app/run.py": b"x", "opt/.hidden": WEIGHTS, "opt/same-size": b"v" * len(WEIGHTS)}, mode)
    seen = layers.scan(Pipe(archive({"manifest.json": b"[]", name: layer, "config.json": b"{}"})), [MODEL])
    assert (seen.layers, seen.files) == (1, 3)
    assert seen.models == ["/opt/.hidden is model models/face.onnx"]


def test_a_model_is_found_by_its_name_in_any_layer():
    first, second = archive({"./workspace/models/face.onnx": b"other"}), archive({"app/face.onnx": b"fine"})
    seen = layers.scan(Pipe(archive({"1/layer.tar": first, "2/layer.tar": second})), [MODEL])
    assert seen.layers == 2
    assert seen.models == ["/workspace/models/face.onnx has the name of model models/face.onnx"]


@pytest.mark.parametrize(
    ("path", "caught"),
    [
        ("root/.aws/credentials", True),
        ("root/.cache/pip/http/a", True),
        ("home/x/.cache/pip/selfcheck", True),
        ("run/secrets/ca", True),
        ("root/.docker/config.json", True),
        ("app/id_rsa", True),
        ("app/paid_rsa", False),
        ("opt/python/secrets.py", False),
        ("usr/lib/run/secrets.py", False),
    ],
)
def test_what_a_build_can_leave_behind(path, caught):
    seen = layers.scan(Pipe(archive({"1/layer.tar": archive({path: b"x"})})), [])
    assert seen.left_behind == ([path] if caught else [])


def test_something_cut_short_is_no_verdict():
    with pytest.raises(tarfile.TarError):
        layers.scan(Pipe(archive({"1/layer.tar": archive({"a": WEIGHTS})})[:30_000]), [MODEL])


def test_requirements_as_pip_compile_writes_them():
    text = (
        "--index-url https://index.example/simple\n"
        "numpy==2.1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n    # via -r x.in\n"
        "pyyaml[libyaml]>=6 ; python_version > '3.8'  # why\n\n"
    )
    assert [str(one) for one in requirements.parse(text, "r.txt")] == [
        "numpy==2.1",
        'pyyaml[libyaml]>=6; python_version > "3.8"',
    ]


def test_what_is_no_requirement_is_named():
    with pytest.raises(BuildError, match=r"r\.txt: '\./wheels/x\.whl' is not a requirement"):
        requirements.parse("./wheels/x.whl\n", "r.txt")
