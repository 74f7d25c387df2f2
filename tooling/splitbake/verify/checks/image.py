"""Checks of an image, in a running container of it.

On their own, against any container that runs with a read-only root file system and the models mounted::

    SPLITBAKE_EXPECTED=expected.json pytest path/to/image.py --hosts=docker://container

``expected.json`` is what ``splitbake.verify.image`` writes: what manifest and lock want, and under ``found`` what the
engine and the walk over the layers tell, which cannot be seen from inside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from splitbake.sources import wheels
from splitbake.units import counted, format_size
from splitbake.verify.plugin import expectation

pytest_plugins = ["splitbake.verify.plugin"]

Saw = Callable[[str], None]

#: What ``uname -m`` calls the platforms that images are built for.
_MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
#: A word of the name ends so. Of tokens there are many in the settings of language models (``MAX_TOKENS``), and
#: ``HF_HUB_DISABLE_IMPLICIT_TOKEN`` is a switch.
_SECRET_NAME = re.compile(
    r"((PASSWORD|PASSWD|SECRET|API_?KEY|CREDENTIAL|PRIVATE_?KEY)S?"
    r"|(?<!IMPLICIT_)TOKEN|(ACCESS|API|AUTH|BEARER|REFRESH)_?TOKENS)(?![A-Z])",
    re.IGNORECASE,
)
_GLIBC = re.compile(r"glibc 2\.\d+")
#: In the name of a wheel.
_NEEDS_GLIBC = re.compile(r"manylinux_2_(\d+)_")
#: Comes with the driver of the GPU: NVIDIA's container runtime brings it from the host, no image has it.
_OF_DRIVER = re.compile(r"\blib(?:cuda|nvcuvid|nvidia-[\w-]+)\.so[.\d]*")
_MISSING_LIBRARY = re.compile(r"(\S+\.so[.\d]*): cannot open shared object file")
_SHOWN = 5

_LIST_FILES = """\
import hashlib, json, os, sys
top, skipped = sys.argv[1], set(sys.argv[2:])
found = {}
for folder, folders, files in os.walk(top):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in skipped]
    for name in files:
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
            digest = digest or hashlib.sha256(file.read())
        found[os.path.relpath(path, top)] = [os.lstat(path).st_mode & 0o7777, digest.hexdigest()]
print(json.dumps(found))
"""
_LIST_DISTRIBUTIONS = """\
import importlib.metadata, json, platform, os, sys
found = importlib.metadata.distributions(path=sys.argv[1:])
implementation = sys.implementation
print(json.dumps({
    "distributions": [[each.metadata["Name"], each.version, each.requires or []] for each in found],
    "environment": {
        "implementation_name": implementation.name,
        "implementation_version": platform.python_version(),
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform,
    },
}))
"""
_LOOK_FOR_RUNTIME = """\
import importlib.metadata, json, os, platform, sys, sysconfig
found = {}
for name in sys.argv[1:]:
    try:
        each = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = None
    else:
        found[name] = [each.version, str(each.locate_file(""))]
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION")
except (AttributeError, OSError, ValueError):
    libc = None
print(json.dumps({
    "distributions": found,
    "implementation": sys.implementation.name,
    "libc": libc or "",
    "machine": platform.machine(),
    "python": ".".join(map(str, sys.version_info[:2])),
    "soabi": sysconfig.get_config_var("SOABI") or "",
}))
"""
#: Libraries that lie alone come last: they need what their package loads. In RECORD, so that a namespace of several
#: distributions is told from a package.
_IMPORT_DISTRIBUTION = """\
import importlib, importlib.metadata, json, os, sys, traceback
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
answer = os.dup(1)
os.dup2(2, 1)
alone = {}
for path in importlib.metadata.distribution(sys.argv[1]).files or ():
    *folders, file = path.parts
    suffix = next((each for each in EXTENSION_SUFFIXES + SOURCE_SUFFIXES if file.endswith(each)), None)
    if suffix is None:
        continue
    stem = file[: -len(suffix)]
    if folders and stem != "__init__":
        continue
    name = tuple(folders or [stem])
    if name[0] not in ("docs", "examples", "test", "tests") and all(
        part.isidentifier() and not part.startswith("_") for part in name
    ):
        alone[name] = not folders and suffix in EXTENSION_SUFFIXES
top = [name for name in alone if not any(name[:count] in alone for count in range(1, len(name)))]
modules = [".".join(name) for name in sorted(top, key=lambda name: (alone[name], name))]
said = []
try:
    for module in modules:
        importlib.import_module(module)
except BaseException as caught:
    problem = caught
    while problem is not None and len(said) < 10:
        said.append("".join(traceback.format_exception_only(type(problem), problem)).strip()[-1000:])
        problem = problem.__cause__ or problem.__context__
os.write(answer, json.dumps({"modules": modules, "problem": said}).encode())
os._exit(0)
"""
_LIST_SIZES = """\
import json, os, sys
top = sys.argv[1]
paths = [os.path.join(folder, name) for folder, _, files in os.walk(top) for name in files]
print(json.dumps({os.path.relpath(path, top): os.path.getsize(path) for path in paths}))
"""
_TRY_TO_WRITE = """\
import errno, sys
try:
    open(sys.argv[1] + "/.splitbake-write-test", "w").close()
except OSError as problem:
    print(errno.errorcode[problem.errno])
else:
    print("written")
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One check for each module that must import, each distribution of the runtime, and each mount."""
    for name, key in (("module", "imports"), ("distribution", "runtime_imports"), ("mount", "mounts")):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, list(expectation()[key]))


def test_size_within_budget(expected: Any, saw: Saw) -> None:
    """The image takes no more than image.budget, and in the registry no more than image.compressed_budget."""
    size, compressed = expected["found"]["size"], expected["found"]["compressed_size"]
    words = f"{format_size(size)} uncompressed"
    words += f", {format_size(compressed)} in the registry" if compressed else ""
    words += f"; budget {format_size(expected['budget'])}"
    bound = expected["compressed_budget"]
    words += f" and {format_size(bound)}" if bound else ""
    saw(words)
    assert size <= expected["budget"], words
    assert not bound or (compressed and compressed <= bound), words


def test_no_model_in_any_layer(expected: Any, saw: Saw) -> None:
    """No layer holds a locked model, by content or by name, not even one that a later layer hides."""
    found = expected["found"]
    saw(f"{found['files']} files in {found['layers']} layers, none is a model")
    assert not found["models"], _listed(found["models"])
    assert found["layers"] > 0, "the image has no layers"


def test_nothing_left_behind(expected: Any, saw: Saw) -> None:
    """No layer holds credentials, build secrets or download caches; no variable is named like a secret."""
    names = [each.partition("=")[0] for each in expected["found"]["environment"]]
    problems = [*expected["found"]["left_behind"], *(name for name in names if _SECRET_NAME.search(name))]
    saw("no credentials, build secrets or caches in layers and variables")
    assert not problems, _listed(problems)


def test_exactly_the_wanted_files(host: Any, expected: Any, saw: Saw) -> None:
    """The working directory holds the included files with their content and mode, and nothing else."""
    wanted = expected["files"]
    found = _python(host, _LIST_FILES, expected["workdir"], *expected["mounts"])
    problems = [f"missing: {path}" for path in wanted.keys() - found.keys()]
    problems += [f"not wanted: {path}" for path in found.keys() - wanted.keys()]
    problems += [f"differs: {path}" for path in wanted.keys() & found.keys() if wanted[path] != found[path]]
    saw(f"{counted(len(wanted), 'file')} below {expected['workdir']}, nothing else")
    assert not problems, _listed(sorted(problems))


def test_exactly_the_wanted_distributions(host: Any, expected: Any, saw: Saw) -> None:
    """Every requirement is installed in a version that it allows, and nothing that nobody requires."""
    answer = _python(host, _LIST_DISTRIBUTIONS, expected["site"])
    installed = {canonicalize_name(name): (version, needs) for name, version, needs in answer["distributions"]}
    wanted = [Requirement(text) for text in expected["requirements"]]
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate(answer["environment"])]
    asked = {canonicalize_name(one.name) for one in wanted}
    needed = {canonicalize_name(Requirement(text).name) for _, needs in installed.values() for text in needs}
    problems = [f"missing: {name}" for name in sorted(asked - installed.keys())]
    problems += [f"nobody requires {name}" for name in sorted(installed.keys() - asked - needed)]
    for one in wanted:
        version, _ = installed.get(canonicalize_name(one.name), ("", ()))
        if version and not one.specifier.contains(version, prereleases=True):
            problems.append(f"{one.name} is {version}, wanted {one.specifier}")
    saw(", ".join(f"{name} {version}" for name, (version, _) in sorted(installed.items())) or "none")
    assert not problems, _listed(problems)


def test_runtime(host: Any, expected: Any, saw: Saw) -> None:
    """The Python and the libc of the image are those that the wheels of the runtime are for, and it finds each of them.

    What the image brings itself comes before the runtime: there may be nothing of another version.
    """
    wanted = expected["runtime"]
    if wanted is None:
        pytest.skip("no runtime is wanted")
    found = _python(host, _LOOK_FOR_RUNTIME, *wanted["wheels"])
    assert not (foreign := [*_foreign(wanted, found)]), _listed(foreign)
    problems = [*_unfit(wanted, found), *_unreached(wanted, found)]
    assert not problems, _listed(problems)
    reached = f"{counted(len(wanted['wheels']), 'distribution')} in {wanted['root']}"
    saw(f"{reached}, for Python {found['python']} with {found['libc']} on {found['machine']}")


def _foreign(wanted: Any, found: Any) -> Iterator[str]:
    """Yield why no wheel of the runtime could run in the image at all."""
    python, machine = wanted["python"], wanted["platform"].partition("-")[0]
    seen, abi = f"{found['implementation']} {found['python']}", f"cpython-{python.replace('.', '')}"
    if seen != f"cpython {python}":
        yield f"the image has {seen}, the runtime is for cpython {python}: make image.base and runtime.python agree"
    elif not found["soabi"].startswith(f"{abi}-"):
        yield f"the Python of the image has the ABI {found['soabi']}, the runtime is for {abi}"
    if found["machine"] != machine:
        yield f"the image is for {found['machine']}, the runtime is for {machine}"
    if not _GLIBC.fullmatch(found["libc"]):
        yield f"the image has {found['libc'] or 'no glibc'}, the runtime needs glibc: choose another image.base"


def _unfit(wanted: Any, found: Any) -> Iterator[str]:
    """Yield which wheels are not for this Python and libc."""
    minor = int(found["libc"].rpartition(".")[2])
    platform = f"{found['machine']}-manylinux_2_{minor}"
    for name, (version, file) in wanted["wheels"].items():
        if not wheels.fitness(file, found["python"], platform)[0]:
            needed = min(map(int, _NEEDS_GLIBC.findall(file)), default=0)
            why = f"needs glibc 2.{needed}" if needed > minor else f"is not for Python {found['python']}"
            yield f"{name} {version} {why}, the image has {found['libc']} ({file}): choose another image.base"


def _unreached(wanted: Any, found: Any) -> Iterator[str]:
    """Yield which distributions are not found, or are others than the runtime's."""
    for name, (version, _) in wanted["wheels"].items():
        if found["distributions"][name] is None:
            yield f"{name} {version} is not found: is {wanted['root']} on the path of this Python?"
            continue
        seen, where = found["distributions"][name]
        if seen != version:
            yield f"{name} is {seen} in {where}, which hides {version} of the runtime: have one version in both"


def test_runtime_import(host: Any, distribution: str, saw: Saw) -> None:
    """Each distribution that the runtime is asked for by name can be imported, each by a Python of its own.

    A machine without a GPU has no driver for it: where nothing else is missing, that is no finding.
    """
    outcome = _run(host, ["python3", "-c", _IMPORT_DISTRIBUTION, distribution])
    ended = f"its Python ended with {outcome.rc}"
    said = _last_line(outcome.stderr)
    assert outcome.stdout, f"{distribution} cannot be imported: {f'{ended}: {said}' if said else ended}"
    answer = json.loads(outcome.stdout)
    if library := _only_of_driver(answer["problem"]):
        pytest.skip(f"not imported: no driver here, which has {library}")
    assert not answer["problem"], f"{distribution} cannot be imported: {_last_line(answer['problem'][0])}"
    saw(", ".join(answer["modules"]) or "it holds no module")


def _only_of_driver(problem: Sequence[str]) -> str:
    """Return the library of the driver that was missing, empty where it was none, or another library as well.

    ``problem``: an error, then what it comes from.
    """
    text = "\n".join(problem)
    others = [library for library in _MISSING_LIBRARY.findall(text) if not _OF_DRIVER.search(library)]
    found = _OF_DRIVER.search(text)
    return found[0] if found and not others else ""


def test_import(host: Any, module: str) -> None:
    """Each module of verify.imports can be imported."""
    outcome = _run(host, ["python3", "-c", "import importlib, sys; importlib.import_module(sys.argv[1])", module])
    assert outcome.rc == 0, _last_line(outcome.stderr)


def test_not_root(host: Any, expected: Any, saw: Saw) -> None:
    """The image runs as the numeric user of the manifest, which an orchestrator can check without the image."""
    uid, user = int(host.check_output("id -u")), expected["found"]["user"]
    saw(f"uid {uid}")
    assert uid == expected["uid"], f"uid {uid}, wanted {expected['uid']}"
    assert user == f"{uid}:{uid}", f"user {user!r}, wanted numbers"


def test_command(expected: Any, saw: Saw) -> None:
    """The image starts what the manifest says, through the entry check alone, and names its fingerprint."""
    found = expected["found"]
    command, entry = found["command"] or [], found["entrypoint"] or []
    saw(json.dumps(command, ensure_ascii=False))
    assert command == expected["command"], f"starts {command}"
    assert entry == [expected["contract"]["entry"]], f"starts it through {entry}"
    fingerprint = found["labels"].get("splitbake.fingerprint")
    assert fingerprint == expected["fingerprint"], f"labelled with fingerprint {fingerprint!r}"


def test_architecture(host: Any, expected: Any, saw: Saw) -> None:
    """The image is for the hosts of the AMI, and so are the programs in it: a label alone proves nothing."""
    wanted, labelled = expected["contract"]["platform"], expected["found"]["architecture"]
    machine = host.check_output("uname -m")
    saw(f"{labelled}, {machine}")
    assert labelled.split("/")[:2] == wanted.split("/"), f"is for {labelled}, the AMI's hosts are {wanted}"
    assert machine == _MACHINES[wanted], f"is labelled {labelled}, but its programs are for {machine}"


def test_contract(host: Any, expected: Any, saw: Saw) -> None:
    """Labels and files say what the manifest says of the contract, and its folder holds nothing else."""
    wanted = expected["contract"]
    labels = {name: expected["found"]["labels"].get(name) for name in wanted["labels"]}
    assert labels == wanted["labels"], f"labelled {labels}"
    found = _python(host, _LIST_FILES, wanted["folder"], wanted["host"])
    assert found == wanted["files"], f"{wanted['folder']} is not what the manifest says: {_listed(sorted(found))}"
    saw(", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in labels.items()))


def test_entry_check_accepts_the_models(host: Any, expected: Any, saw: Saw) -> None:
    """With the locked models mounted, the entry check starts the program."""
    outcome = _run(host, [expected["contract"]["entry"], "echo", "started"])
    assert outcome.rc == 0, f"exit status {outcome.rc}: {_last_line(outcome.stderr)}"
    saw(outcome.stdout.strip())


def test_entry_check_refuses_a_host_without_models(expected: Any, saw: Saw) -> None:
    """Without any mount, the image ends at once, with the agreed exit code and one line."""
    alone, wanted = expected["found"]["alone"], expected["contract"]["refused"]
    said = _last_line(alone["said"]) or "nothing"
    assert alone["status"] == wanted, f"exit status {alone['status']}, wanted {wanted}; it said {said}"
    assert len(alone["said"].splitlines()) == 1, f"says more than one line: {alone['said']}"
    saw(f"exit status {wanted}: {alone['said']}")


def test_mount(host: Any, expected: Any, mount: str, saw: Saw) -> None:
    """Each mount shows its locked model files and refuses to be written to."""
    wanted, found = expected["mounts"][mount], _python(host, _LIST_SIZES, mount)
    saw(f"{counted(len(found), 'file')}, {format_size(sum(found.values()))}, read-only")
    assert found == wanted, f"shows {_listed(sorted(found)) or 'nothing'}"
    answer = _try_to_write(host, mount)
    assert answer == "EROFS", f"writing there: {answer}"


def test_runs_read_only(host: Any, expected: Any, saw: Saw) -> None:
    """verify.run ends well with nothing writable but /tmp, without network, with the models mounted."""
    answer = _try_to_write(host, expected["workdir"])
    assert answer == "EROFS", f"the root file system is writable here: {answer}"
    if expected["run"] is None:
        saw("verify.run names no command")
        return
    outcome = _run(host, expected["run"])
    saw(_last_line(outcome.stdout) or "exit status 0")
    assert outcome.rc == 0, f"exit status {outcome.rc}: {_last_line(outcome.stderr)}"


def _try_to_write(host: Any, folder: str) -> str:
    """Return the name of the system's refusal, ``written`` where there was none."""
    return str(_run(host, ["python3", "-c", _TRY_TO_WRITE, folder]).stdout.strip())


def _run(host: Any, arguments: Sequence[str]) -> Any:
    """Run an argument list in the container; testinfra quotes each one for the container's shell."""
    return host.run(" ".join(["%s"] * len(arguments)), *arguments)


def _python(host: Any, script: str, *arguments: str) -> Any:
    """Return the JSON that ``script`` prints in the container."""
    outcome = _run(host, ["python3", "-c", script, *arguments])
    assert outcome.rc == 0, _last_line(outcome.stderr)
    return json.loads(outcome.stdout)


def _listed(problems: Sequence[str]) -> str:
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
