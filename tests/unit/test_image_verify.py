"""The walk over an image's layers, the requirements parser, and the checks as pure functions."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from importlib.machinery import EXTENSION_SUFFIXES
from types import SimpleNamespace

import pytest

from splitbake import requirements
from splitbake.errors import BuildError
from splitbake.lock import LockedFile
from splitbake.verify import image as verification
from splitbake.verify import layers
from splitbake.verify.checks import image as checks

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


# The runtime

HEAVY = "heavy-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"
RUNTIME = {
    "root": "/opt/dl-runtime",
    "python": "3.11",
    "platform": "x86_64-manylinux_2_28",
    "wheels": {
        "heavy": ["1.0", HEAVY],
        "pure": ["2.0", "pure-2.0-py3-none-any.whl"],
    },
}
SEEN = {
    "distributions": {"heavy": ["1.0", "/opt/dl-runtime"], "pure": ["2.0", "/opt/dl-runtime"]},
    "implementation": "cpython",
    "libc": "glibc 2.36",
    "machine": "x86_64",
    "python": "3.11",
    "soabi": "cpython-311-x86_64-linux-gnu",
}


def look(monkeypatch, **seen):
    """Let the container tell this, and return what the check says it saw."""
    monkeypatch.setattr(checks, "_python", lambda *_: SEEN | seen)
    said: list[str] = []
    checks.test_runtime(None, {"runtime": RUNTIME}, said.append)
    return said


def test_a_runtime_that_fits_is_told(monkeypatch):
    assert look(monkeypatch) == [
        "2 distributions in /opt/dl-runtime, for Python 3.11 with glibc 2.36 on x86_64",
    ]


def test_without_a_runtime_there_is_nothing_to_look_at():
    with pytest.raises(pytest.skip.Exception, match="no runtime is wanted"):
        checks.test_runtime(None, {"runtime": None}, print)


@pytest.mark.parametrize(
    ("seen", "finding"),
    [
        (
            {"python": "3.12", "soabi": "cpython-312-x86_64-linux-gnu"},
            "the image has cpython 3.12, the runtime is for cpython 3.11: make image.base and runtime.python agree",
        ),
        (
            {"implementation": "pypy", "soabi": "pypy311-pp73-x86_64-linux-gnu"},
            "the image has pypy 3.11, the runtime is for cpython 3.11: make image.base and runtime.python agree",
        ),
        (
            {"soabi": "cpython-311t-x86_64-linux-gnu"},
            "the Python of the image has the ABI cpython-311t-x86_64-linux-gnu, the runtime is for cpython-311",
        ),
        ({"machine": "aarch64"}, "the image is for aarch64, the runtime is for x86_64"),
        ({"libc": ""}, "the image has no glibc, the runtime needs glibc: choose another image.base"),
        (
            {"libc": "glibc 2.26"},
            f"heavy 1.0 needs glibc 2.28, the image has glibc 2.26 ({HEAVY}): choose another image.base",
        ),
        (
            {"distributions": SEEN["distributions"] | {"heavy": None}},
            "heavy 1.0 is not found: is /opt/dl-runtime on the path of this Python?",
        ),
        (
            {"distributions": SEEN["distributions"] | {"pure": ["1.9", "/opt/python"]}},
            "pure is 1.9 in /opt/python, which hides 2.0 of the runtime: have one version in both",
        ),
    ],
)
def test_a_runtime_that_does_not_fit_the_image_is_told(monkeypatch, seen, finding):
    with pytest.raises(AssertionError) as told:
        look(monkeypatch, **seen)
    assert str(told.value) == finding


def test_what_the_container_tells_of_its_python(tmp_path):
    """By this very Python, with a distribution beside it."""
    info = tmp_path / "heavy_thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Heavy.Thing\nVersion: 1.0\n")
    argv = [sys.executable, "-c", checks._LOOK_FOR_RUNTIME, "heavy-thing", "missing"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    told = json.loads(subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout)
    assert told["distributions"] == {"heavy-thing": ["1.0", str(tmp_path)], "missing": None}
    assert told["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert told["implementation"] == sys.implementation.name
    assert told["machine"] == os.uname().machine


# Importing from the runtime


def distribution(folder, files, name="heavy"):
    """Install a distribution of these files below ``folder``, as a wheel does."""
    info = f"{name}-1.0.dist-info"
    texts = {**files, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"}
    texts[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*texts, f"{info}/RECORD", "../../bin/heavy"])
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


class ThisMachine:
    """Takes the place of the container: commands run here, and find the distributions below ``folder``."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, command, *arguments):
        argv = [sys.executable if argument == "python3" else argument for argument in arguments]
        assert command == " ".join(["%s"] * len(argv))
        environment = os.environ | {"PYTHONPATH": str(self.folder)}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        return SimpleNamespace(rc=done.returncode, stdout=done.stdout, stderr=done.stderr)


#: What comes next does so on a machine without a driver.
NO_DRIVER = "try:\n    raise ImportError('libcuda.so.1: cannot open shared object file')\nexcept ImportError"


def imported(folder, files):
    """Return what the check says that it saw of a distribution of these files."""
    distribution(folder, files)
    said: list[str] = []
    checks.test_runtime_import(ThisMachine(folder), "heavy", said.append)
    return said


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"heavy/__init__.py": "print('hello')", "heavy/deep/__init__.py": "raise SystemExit"}, "heavy"),
        ({"one.py": "", "two.py": "import one", "_inner.py": "1 / 0"}, "one, two"),
        ({"far/heavy/__init__.py": "", "far/data/x.py": "1 / 0"}, "far.heavy"),
        ({"heavy/__init__.py": "", "tests/__init__.py": "1 / 0", "heavy.libs/x.py": "1 / 0"}, "heavy"),
        ({"share/heavy.txt": ""}, "it holds no module"),
    ],
    ids=["a package that says something", "modules", "in a namespace", "tests beside it", "no module"],
)
def test_what_the_runtime_holds_is_imported(tmp_path, files, said):
    assert imported(tmp_path, files) == [said]


def test_what_is_compiled_and_lies_alone_is_imported_behind_its_package(tmp_path):
    """For it finds the libraries of another distribution only when the package has loaded them."""
    suffix = EXTENSION_SUFFIXES[0]
    files = {f"a_cuda{suffix}": "no library", "heavy/__init__.py": "raise ImportError('of the package')"}
    with pytest.raises(AssertionError, match="of the package"):
        imported(tmp_path, files)
    with pytest.raises(AssertionError, match=f"a_cuda{suffix}"):
        imported(tmp_path, files | {"heavy/__init__.py": ""})


@pytest.mark.parametrize(
    ("program", "finding"),
    [
        (
            "raise ImportError('libgomp.so.1: cannot open shared object file: No such file or directory')",
            "ImportError: libgomp.so.1: cannot open shared object file: No such file or directory",
        ),
        ("raise ValueError('first\\nlast')", "last"),
        ("import missing", "ModuleNotFoundError: No module named 'missing'"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import os; os._exit(3)", "its Python ended with 3"),
        ("import os; os.kill(os.getpid(), 11)", "its Python ended with -11"),
        (
            f"{NO_DRIVER} as first:\n    raise ImportError('libgomp.so.1: cannot open shared object file') from first",
            "ImportError: libgomp.so.1: cannot open shared object file",
        ),
        ("print('no libcuda.so.1 here'); import missing", "ModuleNotFoundError: No module named 'missing'"),
        ("raise ImportError('libcudart.so.12: cannot open shared object file')", None),
    ],
)
def test_what_cannot_be_imported_is_a_finding(tmp_path, program, finding):
    with pytest.raises(AssertionError) as told:
        imported(tmp_path, {"heavy/__init__.py": program})
    message = str(told.value)
    assert message.startswith("heavy cannot be imported: ")
    assert finding is None or message == f"heavy cannot be imported: {finding}"


@pytest.mark.parametrize(
    ("program", "library"),
    [
        ("raise ImportError('libcuda.so.1: cannot open shared object file: No such file')", "libcuda.so.1"),
        ("import ctypes; ctypes.CDLL('libnvidia-ml.so.1')", "libnvidia-ml.so.1"),
        (f"{NO_DRIVER}:\n    raise RuntimeError('not for this machine') from None", "libcuda.so.1"),
    ],
)
def test_what_only_a_driver_is_missing_for_is_told_and_no_finding(tmp_path, program, library):
    with pytest.raises(pytest.skip.Exception, match=f"not imported: no driver here, which has {library}"):
        imported(tmp_path, {"heavy/__init__.py": program})


def test_what_the_runtime_is_asked_for_by_name_is_imported(small):
    wheel = {"version": "1.0", "url": "https://x.test/a-1.0-py3-none-any.whl", "size": 1, "sha256": "a" * 64}
    small.manifest["runtime"] = {"requirements": "gpu.txt", "python": "3.11", "budget": "1 GB"}
    text = "--index-url https://x.test\nHeavy.Thing[all]==1.0 ; python_version > '3'\nwindows-only; os_name == 'nt'\n"
    (small.root / "gpu.txt").write_text(text)
    small.lock["runtime"] = {
        "requirements": hashlib.sha256(text.encode()).hexdigest(),
        "python": "3.11",
        "platform": "x86_64-manylinux_2_28",
        "wheels": [{"name": "below", **wheel}, {"name": "heavy-thing", **wheel}],
        "installer": {"name": "uv", **wheel},
    }
    assert verification.asked_by_name(small.project) == ["heavy-thing"]


def test_without_a_runtime_nothing_of_it_is_imported(small):
    assert verification.asked_by_name(small.project) == []


# What is named like a secret


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *((name, True) for name in (
            "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "TOKEN", "github_token", "AWS_SESSION_TOKEN", "ACCESS_TOKENS",
            "AUTH_TOKENS", "DB_PASSWORD", "PGPASSWORD", "MYSQL_ROOT_PASSWORD", "PASSWD", "API_KEY", "APIKEY",
            "OPENAI_API_KEYS", "AWS_SECRET_ACCESS_KEY", "CLIENT_SECRET", "SECRETS", "PRIVATE_KEY", "CREDENTIALS",
            "TOKEN1", "NGC_API_KEY", "SECRET_2",
        )),
        *((name, False) for name in (
            "TOKENIZERS_PARALLELISM", "MAX_TOKENS", "MAX_TOTAL_TOKENS", "MAX_BATCH_PREFILL_TOKENS", "TOKENIZER",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN", "PYTHON_SHA256", "GPG_KEY", "PYTHON_GET_PIP_SHA256", "PATH", "LANG",
            "NVIDIA_VISIBLE_DEVICES", "NVIDIA_REQUIRE_CUDA", "NV_CUDA_CUDART_VERSION", "NCCL_VERSION",
            "LD_LIBRARY_PATH", "SSL_CERT_FILE", "HF_HOME", "TRANSFORMERS_CACHE", "PYTORCH_CUDA_ALLOC_CONF",
            "SECRETARY", "PASSWORDLESS",
        )),
    ],
)  # fmt: skip
def test_a_variable_is_told_by_its_name(name, secret):
    expected = {"found": {"left_behind": [], "environment": [f"{name}=x"]}}
    if not secret:
        checks.test_nothing_left_behind(expected, print)
        return
    with pytest.raises(AssertionError) as told:
        checks.test_nothing_left_behind(expected, print)
    assert str(told.value) == name


@pytest.mark.parametrize(
    ("size", "compressed", "bound", "holds"),
    [
        (9, 4, None, True),
        (11, 4, None, False),
        (9, 4, 4, True),
        (9, 5, 4, False),
        (9, None, None, True),
        (9, None, 4, False),
    ],
)
def test_an_image_keeps_both_budgets(size, compressed, bound, holds):
    expected = {"found": {"size": size, "compressed_size": compressed}, "budget": 10, "compressed_budget": bound}
    said: list[str] = []
    try:
        checks.test_size_within_budget(expected, said.append)
    except AssertionError:
        assert not holds
    else:
        assert holds
    assert said[0].endswith("budget 10 B and 4 B" if bound else "budget 10 B")
