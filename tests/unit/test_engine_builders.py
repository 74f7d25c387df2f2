"""Building and pushing by a client on this machine: what it is asked, what is said of it, and that it ends with us."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from splitbake.artifact import Weight
from splitbake.bake import podman
from splitbake.bake.builders import Order
from splitbake.bake.docker import DockerBuilder
from splitbake.bake.engines import Engine
from splitbake.bake.podman import PodmanBuilder
from splitbake.bake.weights import OverBudgetError
from splitbake.ecr import Credentials
from splitbake.errors import BuildError, ToolError
from splitbake.ui import silent

DIGEST = "sha256:" + "a" * 64
INFO = {
    "host": {"os": "linux", "arch": "amd64", "serviceIsRemote": False},
    "store": {"graphRoot": "/nowhere", "graphDriverName": "overlay"},
    "version": {"Version": "4.3.1"},
}
#: A client of either kind: it writes down what it is asked for, and does what $ACT and $PUSH say.
CLIENT = """\
#!/bin/sh
case "$*" in
*"buildx inspect"*) echo "Platforms: linux/amd64" ;;
"info "*) cat "$ASKED.info" ;;
"version "*) echo "1.2 3.4" ;;
"image save "*) printf '%s\\n' "$3" >"$ASKED.saved"; cp "$ASKED.tar" "${3#--output=}" ;;
"history "*json*) echo '[{"size": 10, "CreatedBy": "what"}, {"size": 0, "CreatedBy": "nothing"}]' ;;
"history "*) printf '10 what\\n0 nothing\\n' ;;
"run "*) printf '%s\\n' "$@" >"$ASKED.run"; eval "$WEIGH" ;;
"rm "*) echo "$3" >>"$ASKED.removed" ;;
*"push "*) printf '%s\\n' "$@" >"$ASKED.push"; eval "$PUSH" ;;
*) printf '%s\\n' "$@" >"$ASKED"; printf '%s' "${TMPDIR-}" >"$ASKED.tmp"; eval "$ACT" ;;
esac
"""
#: How the push of each kind tells the digest.
TELLS = {
    "docker": f"echo 'tag: digest: {DIGEST} size: 1'",
    "podman": f'for each in "$@"; do case $each in --digestfile=*) printf {DIGEST} >"${{each#*=}}"; esac; done',
}
#: The client leaves a build to another process, and waits for that whatever comes.
BUILDS = "trap '' TERM; (trap - TERM; echo '#1 step' >&2; exec sleep 60) & echo $! >\"$ASKED.pid\"; wait $!; wait"
KINDS = pytest.mark.parametrize("kind", [DockerBuilder, PodmanBuilder])


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the clients on PATH; the file tells what they were asked for."""
    for name in TELLS:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(CLIENT, encoding="utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    for name in ("DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("ACT", "")
    monkeypatch.setenv("WEIGH", "echo '10 what 1.0'")
    monkeypatch.setenv("PUSH", "; ".join(TELLS.values()))
    write(tmp_path / "asked.info", INFO)
    save(tmp_path / "asked.tar")
    return tmp_path / "asked"


def write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data), encoding="utf-8")


def save(path: Path, *, packed: bool = False) -> None:
    """Write what an engine saves of an image of two layers, 40 and 2 bytes; ``packed``: with containerd's store."""
    texts: dict[str, bytes] = {}
    for name, size in (("one", 40), ("two", 2)):
        memory = io.BytesIO()
        with tarfile.open(fileobj=memory, mode="w") as layer:
            member = tarfile.TarInfo(name)
            member.size = size
            layer.addfile(member, io.BytesIO(b"x" * size))
        texts[f"{name}/layer.tar"] = gzip.compress(memory.getvalue(), 1) if packed else memory.getvalue()
    history = [{"created_by": "what"}, {"created_by": "ENV", "empty_layer": True}, {"created_by": "more"}]
    config = {"os": "linux", "architecture": "amd64", "history": history}
    manifest = [{"Config": "config.json", "RepoTags": ["registry.example/app:tag"], "Layers": [*texts]}]
    texts |= {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    with tarfile.open(path, "w") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))


def order(folder: Path, **more: Any) -> Order:
    values: dict[str, Any] = {
        "context": folder / "context",
        "platform": "linux/amd64",
        "repository": "registry.example/app",
        "tag": "tag",
        "arguments": {"REGISTRY": "registry.example", "A": "a b"},
        "secrets": {},
        "network": None,
        "credentials": Credentials("registry.example", "c2VjcmV0"),
        "budget": 100,
        "project": None,
        "cloud": None,
        "log": folder / "image.log",
    }
    return Order(**{**values, **more})


def without_folder(arguments: list[str]) -> list[str]:
    """Return what a client was asked, with the name of its private folder left out."""
    folder = next((each for each in arguments if "/splitbake-" in each), "").partition("=")[2] or "/none"
    return [each.replace(str(Path(folder).parent), "FOLDER") for each in arguments]


@KINDS
def test_an_image_is_built_weighed_and_pushed(tmp_path, asked, monkeypatch, kind):
    monkeypatch.setenv("ACT", "echo '#1 one' >&2; echo '#2 two' >&2")
    said: list[str] = []
    made = kind().make(order(tmp_path), said.append)
    weights = (
        Weight(kind="layer", size=10, name="what"),
        Weight(kind="distribution", size=10, name="what 1.0"),
    )
    assert (made.digest, made.size, made.heaviest) == (DIGEST, 42, weights)
    assert made.tools[kind.program]
    assert said[:2] == ["#1 one", "#2 two"]
    assert not Path(Path(f"{asked}.saved").read_text().strip().removeprefix("--output=")).parent.exists()
    assert (tmp_path / "image.log").read_text().startswith("#1 one\n#2 two\n")


SHARED = [
    "--platform=linux/amd64",
    "--file={0}/context/Dockerfile",
    "--tag=registry.example/app:tag",
    "--build-arg=REGISTRY=registry.example",
    "--build-arg=A=a b",
]


def test_what_docker_is_asked(tmp_path, asked):
    DockerBuilder().make(order(tmp_path), silent)
    client, config, *arguments = asked.read_text().splitlines()
    assert (client, config.startswith("/")) == ("--config", True)
    assert arguments == [
        *("buildx", "build", "--load", "--provenance=false", "--progress=plain"),
        *(each.format(tmp_path) for each in SHARED),
        f"{tmp_path}/context",
    ]
    assert Path(f"{asked}.push").read_text().splitlines()[2:] == ["image", "push", "registry.example/app:tag"]


def test_what_podman_is_asked(tmp_path, asked):
    PodmanBuilder().make(order(tmp_path), silent)
    assert without_folder(asked.read_text().splitlines()) == [
        *("build", "--authfile=FOLDER/auth.json"),
        *("--format=oci", "--layers=true", "--identity-label=false"),
        "--secret=id=splitbake-mark,type=file,src=FOLDER/splitbake-mark",
        *(each.format(tmp_path) for each in SHARED),
        f"{tmp_path}/context",
    ]
    assert without_folder(Path(f"{asked}.push").read_text().splitlines()) == [
        *("push", "--authfile=FOLDER/auth.json", "--compression-format=gzip"),
        *("--digestfile=FOLDER/digest", "registry.example/app:tag"),
    ]


def test_only_a_registry_of_this_machine_is_reached_without_tls(tmp_path, asked):
    for plain in (False, True):
        PodmanBuilder().make(order(tmp_path, credentials=Credentials("127.0.0.1:5000", "x", plain=plain)), silent)
        for file in (asked, Path(f"{asked}.push")):
            assert ("--tls-verify=false" in file.read_text().splitlines()) is plain


@KINDS
def test_what_is_installed_is_weighed_without_network_or_a_place_to_write(tmp_path, asked, kind):
    kind().make(order(tmp_path), silent)
    arguments = Path(f"{asked}.run").read_text().splitlines()
    assert {"--rm", "--pull=never", "--network=none", "--read-only", "--entrypoint=python3"} <= {*arguments}
    assert any("importlib.metadata" in each for each in arguments)


@KINDS
def test_what_cannot_be_weighed_is_told_and_pushed_all_the_same(tmp_path, asked, monkeypatch, kind):
    monkeypatch.setenv("WEIGH", "echo no python3 >&2; exit 127")
    said: list[str] = []
    made = kind().make(order(tmp_path), said.append)
    assert (made.digest, [each.kind for each in made.heaviest]) == (DIGEST, ["layer"])
    assert any("what takes most of the image is not known" in line and "no python3" in line for line in said)


def test_a_build_on_the_machines_own_network_is_asked_for_so(tmp_path, asked):
    DockerBuilder().make(order(tmp_path, network="host"), silent)
    assert {"--network=host", "--allow=network.host"} <= {*asked.read_text().splitlines()}
    PodmanBuilder().make(order(tmp_path, network="host"), silent)
    assert "--network=host" in asked.read_text().splitlines()
    assert "--allow=network.host" not in asked.read_text()


@KINDS
def test_a_secret_is_a_private_file_that_goes_with_the_build(tmp_path, asked, monkeypatch, kind):
    show = (
        'for each in "$@"; do case $each in --secret=id=INDEX,*) f=${each#*src=}; stat -c %a "$f"; cat "$f"; esac; done'
    )
    monkeypatch.setenv("ACT", f'{show} >"$ASKED.secret"')
    kind().make(order(tmp_path, secrets={"INDEX": "https://me:secret@x"}), silent)
    assert Path(f"{asked}.secret").read_text() == "600\nhttps://me:secret@x"
    (option,) = [each for each in asked.read_text().splitlines() if each.startswith("--secret=id=INDEX,type=file,src=")]
    assert not Path(option.partition("src=")[2]).exists()
    assert "me:secret" not in asked.read_text()
    assert "me:secret" not in repr(order(tmp_path, secrets={"INDEX": "https://me:secret@x"}))


@KINDS
def test_the_password_is_in_no_argument_and_nothing_of_it_stays(tmp_path, asked, kind):
    kind().make(order(tmp_path), silent)
    for file in (asked, Path(f"{asked}.push")):
        assert "c2VjcmV0" not in file.read_text()
    left = {path.name for path in (tmp_path / "scratch").iterdir()}
    assert left <= {"buildah-cache", f"buildah-cache-{os.getuid()}"}


def test_podman_gets_the_users_logins_and_ours_in_a_private_file(tmp_path, asked, monkeypatch):
    mine = tmp_path / "mine.json"
    theirs = {"auths": {"other.example": {"auth": "b3RoZXI="}, "registry.example": {"auth": "b2xk"}}}
    write(mine, theirs | {"credHelpers": {"registry.example": "pass", "third.example": "pass"}})
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(mine))
    show = 'for each in "$@"; do case $each in --authfile=*) f=${each#*=}; stat -c %a "$f"; cat "$f"; esac; done'
    monkeypatch.setenv("ACT", f'{show} >"$ASKED.logins"')
    PodmanBuilder().make(order(tmp_path), silent)
    mode, text = Path(f"{asked}.logins").read_text().split("\n", 1)
    assert mode == "600"
    assert json.loads(text) == {
        "auths": {"other.example": {"auth": "b3RoZXI="}, "registry.example": {"auth": "c2VjcmV0"}},
        "credHelpers": {"third.example": "pass"},
    }
    assert json.loads(mine.read_text())["auths"] == theirs["auths"]
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "bin"))
    with pytest.raises(ToolError, match=r"the logins of podman in .*/bin cannot be read"):
        PodmanBuilder().make(order(tmp_path), silent)


def test_podman_works_in_a_private_folder_and_keeps_its_caches(tmp_path, asked, monkeypatch):
    monkeypatch.setenv("ACT", 'touch "$TMPDIR/rest" "$TMPDIR/buildah-cache/wheel"; stat -c %a "$TMPDIR" >"$ASKED.mode"')
    PodmanBuilder().make(order(tmp_path), silent)
    used = Path(Path(f"{asked}.tmp").read_text())
    assert (used.parent, used.exists()) == (tmp_path / "scratch", False)
    assert Path(f"{asked}.mode").read_text() == "700\n"
    assert (tmp_path / "scratch/buildah-cache/wheel").exists()


@pytest.mark.parametrize("what", ["file", "link", "folder of somebody else"])
def test_a_cache_of_podman_that_is_not_our_own_folder_is_refused(tmp_path, asked, monkeypatch, what):
    cache = tmp_path / "scratch/buildah-cache"
    cache.parent.mkdir(exist_ok=True)
    if what == "file":
        cache.write_text("")
    elif what == "link":
        (tmp_path / "theirs").mkdir()
        cache.symlink_to(tmp_path / "theirs")
    else:
        cache.mkdir()
        monkeypatch.setattr(podman.os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(ToolError, match="buildah-cache is no folder of this user") as told:
        PodmanBuilder().make(order(tmp_path), silent)
    assert "TMPDIR" in told.value.hint
    assert not asked.exists()


def test_containers_that_an_ended_podman_worked_in_are_removed_and_no_others(tmp_path, asked, monkeypatch):
    store = tmp_path / "store"
    write(Path(f"{asked}.info"), INFO | {"store": {"graphRoot": str(store), "graphDriverName": "vfs"}})
    note = f"d={store}/vfs-containers; mkdir -p $d/ours/userdata $d/theirs/userdata $d/odd; "
    note += 'echo "id=splitbake-mark,src=$TMPDIR/splitbake-mark" >$d/ours/userdata/buildah.json; '
    note += (
        'echo "id=splitbake,src=/var/tmp/splitbake-podman-x/splitbake-mark" >$d/theirs/userdata/buildah.json; exit 1'
    )
    monkeypatch.setenv("ACT", note)
    with pytest.raises(BuildError, match="could not build"):
        PodmanBuilder().make(order(tmp_path), silent)
    assert Path(f"{asked}.removed").read_text() == "ours\n"


@KINDS
def test_an_image_that_breaks_its_budget_is_not_pushed(tmp_path, asked, kind):
    with pytest.raises(BuildError, match=r"42 B uncompressed, 2 B over image\.budget") as caught:
        kind().make(order(tmp_path, budget=40), silent)
    assert "10 B  what 1.0" in caught.value.message
    assert not Path(f"{asked}.push").exists()


@KINDS
@pytest.mark.parametrize("packed", [False, True])
def test_an_image_weighs_the_same_however_an_engine_keeps_it(tmp_path, asked, kind, packed):
    save(Path(f"{asked}.tar"), packed=packed)
    assert kind().make(order(tmp_path), silent).size == 42
    with pytest.raises(OverBudgetError, match=r"42 B uncompressed"):
        kind().make(order(tmp_path, budget=41), silent)


@KINDS
@pytest.mark.parametrize("packed", [False, True])
def test_an_image_that_breaks_its_compressed_budget_is_not_pushed(tmp_path, asked, kind, packed):
    save(Path(f"{asked}.tar"), packed=packed)
    with pytest.raises(OverBudgetError, match=r"in the registry, .*image\.compressed_budget \(100 B\)") as caught:
        kind().make(order(tmp_path, compressed_budget=100), silent)
    lines = caught.value.message.splitlines()
    assert [line.split()[-1] for line in lines if line.endswith((" what", " more"))] in (
        ["what", "more"],
        ["more", "what"],
    )
    assert "  distributions, as installed:\n        10 B  what 1.0" in caught.value.message
    assert not Path(f"{asked}.push").exists()
    kind().make(order(tmp_path, compressed_budget=1000), silent)
    assert Path(f"{asked}.push").exists()


@KINDS
def test_what_an_engine_saves_and_nobody_can_read_is_told(tmp_path, asked, kind):
    Path(f"{asked}.tar").write_bytes(b"x" * 2000)
    with pytest.raises(BuildError, match=r"cannot measure registry\.example/app:tag: .*no archive"):
        kind().make(order(tmp_path), silent)
    Path(f"{asked}.tar").unlink()
    with pytest.raises(BuildError, match=r"could not save registry\.example/app:tag"):
        kind().make(order(tmp_path), silent)
    assert not Path(f"{asked}.push").exists()


@KINDS
def test_a_build_that_fails_says_why(tmp_path, asked, monkeypatch, kind):
    monkeypatch.setenv("ACT", "for n in $(seq 20); do echo \"#$n step\" >&2; done; echo 'ERROR: no luck' >&2; exit 17")
    with pytest.raises(BuildError) as caught:
        kind().make(order(tmp_path), silent)
    lines = caught.value.message.splitlines()
    assert (lines[0], lines[-1], len(lines)) == (
        "could not build registry.example/app:tag: #10 step",
        "ERROR: no luck",
        12,
    )
    assert "a b" not in caught.value.message
    assert f"everything is in {tmp_path}/image.log" in caught.value.hint


@KINDS
def test_a_push_that_is_refused_is_told(tmp_path, asked, monkeypatch, kind):
    monkeypatch.setenv("PUSH", "echo 'denied: not you' >&2; exit 1")
    with pytest.raises(BuildError, match=r"could not push registry\.example/app:tag: denied: not you"):
        kind().make(order(tmp_path), silent)
    monkeypatch.setenv("PUSH", "true")
    with pytest.raises(BuildError, match=f"was pushed, but {kind.program} told no digest"):
        kind().make(order(tmp_path), silent)


@KINDS
@pytest.mark.parametrize("work", ["ACT", "PUSH"])
def test_an_interrupt_ends_the_client_and_what_it_started(tmp_path, asked, monkeypatch, work, kind):
    """SIGTERM, as from a cancelled CI job, comes to splitbake alone."""
    monkeypatch.setenv(work, BUILDS)

    def interrupt(line: str) -> None:
        if line == "#1 step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kind().make(order(tmp_path), interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path(f"{asked}.pid").read_text()), 0)


@KINDS
def test_another_architecture_is_refused_where_nothing_emulates_it(tmp_path, asked, monkeypatch, kind):
    monkeypatch.setattr(podman, "_EMULATED", tmp_path / "none")
    with pytest.raises(BuildError, match=r"must be for linux/arm64, .*; this machine builds for linux/amd64"):
        kind().make(order(tmp_path, platform="linux/arm64"), silent)
    assert not asked.exists()


@pytest.mark.parametrize(
    ("host", "emulates", "offered"),
    [
        ({}, [], {"linux/amd64"}),
        ({}, ["qemu-aarch64", "qemu-arm", "register"], {"linux/amd64", "linux/arm64"}),
        ({"emulatedArchitectures": ["linux/arm64"]}, [], {"linux/amd64", "linux/arm64"}),
        ({"serviceIsRemote": True}, [], set()),
    ],
)
def test_what_podman_builds_for(asked, monkeypatch, host, emulates, offered):
    write(Path(f"{asked}.info"), INFO | {"host": INFO["host"] | host})
    known = asked.parent / "known"
    known.mkdir()
    monkeypatch.setattr(podman, "_EMULATED", known)
    for name in emulates:
        (known / name).touch()
    assert PodmanBuilder().platforms() == offered


@pytest.mark.parametrize("version", ["4.0.0", "4.3.1", "5.6.0-rc1", "10.0.0"])
def test_a_healthy_podman(asked, version):
    write(Path(f"{asked}.info"), INFO | {"version": {"Version": version}})
    PodmanBuilder().health()


@pytest.mark.parametrize("version", ["3.4.4", ""])
def test_a_podman_without_cache_mounts_is_refused(asked, version):
    write(Path(f"{asked}.info"), INFO | {"version": {"Version": version}})
    with pytest.raises(ToolError, match="is too old: cache mounts"):
        PodmanBuilder().health()


def test_a_podman_that_cannot_work_says_why(asked, monkeypatch, tmp_path):
    Path(f"{asked}.info").unlink()
    with pytest.raises(ToolError, match="could not ask podman for info"):
        PodmanBuilder().health()
    Path(f"{asked}.info").write_text("no JSON")
    with pytest.raises(ToolError, match="gave no JSON"):
        PodmanBuilder().health()
    client = tmp_path / "bin/podman"
    client.write_text("#!/bin/sh\necho 'cannot find newuidmap: executable file not found' >&2; exit 125\n")
    with pytest.raises(ToolError, match="newuidmap") as told:
        PodmanBuilder().health()
    assert "package uidmap" in told.value.hint


@KINDS
def test_a_client_that_is_not_there_is_told(tmp_path, asked, monkeypatch, kind: type[Engine]):
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(ToolError, match=f"{kind.program} "):
        kind().make(order(tmp_path), silent)


def test_a_cache_in_a_registry_is_none_of_podmans(tmp_path, asked):
    said: list[str] = []
    PodmanBuilder().make(order(tmp_path, cache="registry.example/cache:x"), said.append)
    assert said[0].endswith("image.cache does nothing")
