"""``packer/``: the HCL of the bake and the shell scripts that it runs.

One core, ``main.pkr.hcl``, is for every Packer from 1.6 on: no plugin block, no data source, and none of the functions
that came later. What only a current Packer knows is added for ``latest``: the plugin block in a file of its own, and
the settings that cannot be split out of the source block.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from splitbake.generate import hcl, host, hygiene, source
from splitbake.generate.mark import MARK
from splitbake.lock import Lock
from splitbake.manifest import Manifest

if TYPE_CHECKING:
    from splitbake.generate import Compat

FOLDER: Final = "packer"
MAIN: Final = f"{FOLDER}/main.pkr.hcl"
VERSIONS: Final = f"{FOLDER}/versions.pkr.hcl"
FETCH: Final = f"{FOLDER}/scripts/fetch.py"

#: Where scripts and uploads meet on the builder; ``scripts/`` names it too.
REMOTE_INPUTS: Final = "/var/tmp/splitbake"  # noqa: S108 - made by 10-settle.sh with mode 0700

#: Run by name with sh, so that no /tmp mounted noexec and no lost mode bit stands in the way.
_RUN_SCRIPT = "sudo env {{ .Vars }} sh {{ .Path }}"
#: The same here: Packer 1.6 would put the path into the text of a command as it is, with every space in it (seen).
_RUN_HERE = ["sh", "-c", '{{ .Vars }} sh "$0"', "{{ .Script }}"]
#: A script of the user's keeps its own first line (#!).
_RUN_PROVISION = "chmod +x {{ .Path }}; sudo env {{ .Vars }} {{ .Path }}"

#: The variables of the template: what each is for, and its default.
_VARIABLES: Mapping[str, tuple[str, str]] = {
    "run": ("names this bake and everything temporary of it", "manual"),
    "fingerprint": ("digest of everything that the AMI is made from", "unset"),
    "inputs": ("folder with models.tsv, ami.json, contract and the model files to upload", "inputs"),
    "record": ("where Packer writes down what it made", "packer-manifest.json"),
    "ec2_endpoint": ("another EC2 than AWS's own", ""),
    "key_pair": ("name of an existing key pair; Packer makes one where this is empty", ""),
    "private_key": ("file with the private key of key_pair", ""),
    "security_group": ("id of an existing security group; Packer makes one where this is empty", ""),
}


def render(manifest: Manifest, lock: Lock, compat: Compat) -> dict[str, str]:
    """Return the files of ``packer/``: path below the project's folder -> text.

    Raises:
        ManifestError: the volume that the manifest asks for cannot be.
    """
    texts = {MAIN: _main(manifest, lock, compat), **scripts(manifest, lock)}
    if compat == "latest":
        texts[VERSIONS] = _HEADER.format(compat=compat) + hcl.render(_plugins())
    return texts


def scripts(manifest: Manifest, lock: Lock) -> dict[str, str]:
    """Return the scripts alone, which are the same for every Packer.

    Raises:
        ManifestError: nothing can be mounted at ``models.root`` or ``runtime.root``.
    """
    values = {
        "'@root@'": shlex.quote(manifest.models.root),
        "'@mode@'": shlex.quote(manifest.models.mode),
        "# @mark@": MARK,
        "@hygiene@": hygiene.cleanup(),
        **host.placeholders(manifest, lock),
        **_runtime(manifest, lock),
    }
    # In one pass: a value that looks like a placeholder is a value.
    placeholder = re.compile("|".join(map(re.escape, values)))
    texts = {}
    for name in (_SETTLE, *_provisioning(manifest), _FETCH, _GATE, _CLEANUP):
        text = files("splitbake.generate").joinpath("scripts", name).read_text(encoding="utf-8")
        texts[f"{FOLDER}/scripts/{name}"] = placeholder.sub(lambda found: values[found[0]], text)
    return texts


def recipe(manifest: Manifest, lock: Lock) -> str:
    """Return the part of the HCL that decides what is in the AMI: its volumes, its tags, and what provisions it.

    Where it is baked, how the builder is reached and how long Packer waits have no part in it.
    """
    return hcl.render(*source.mappings(manifest, lock), _locals(manifest), _build(manifest))


def ami_name(manifest: Manifest, fingerprint: str, run: str) -> str:
    """Return the AMI's name as the HCL composes it from its variables."""
    return f"{manifest.project}-{fingerprint.removeprefix('sha256:')[:_SHORT]}-{run}"


def tags(manifest: Manifest, fingerprint: str, run: str) -> dict[str, str]:
    """Return the tags that AMI and snapshots carry, as the HCL writes them."""
    return {
        "Name": ami_name(manifest, fingerprint, run),
        "splitbake:project": manifest.project,
        "splitbake:run": run,
        "splitbake:fingerprint": fingerprint,
        "splitbake:contract": str(manifest.contract),
    }


def inventory(manifest: Manifest, lock: Lock, fingerprint: str) -> dict[str, Any]:
    """Return what ``/etc/splitbake/ami.json`` says on an instance: what this AMI is and what it holds."""
    runtime = (
        {"root": manifest.runtime.root, "digest": lock.runtime.digest} if manifest.runtime and lock.runtime else None
    )
    return {
        "version": 1,
        "project": manifest.project,
        "contract": manifest.contract,
        "fingerprint": fingerprint,
        "base_ami": lock.base_ami.id,
        "models": {
            "root": manifest.models.root,
            "digest": lock.models_digest,
            "size": lock.models_size,
            "files": {file.path: {"sha256": file.sha256, "size": file.size} for file in lock.files},
        },
        **({"runtime": runtime} if runtime else {}),
    }


_HEADER = MARK + "\n# packer-compat: {compat}\n\n"
_SETTLE, _FETCH, _GATE, _CLEANUP = "10-settle.sh", "fetch.py", "80-gate.sh", "90-cleanup.sh"
_SHORT = 12


def _provisioning(manifest: Manifest) -> tuple[str, ...]:
    """Return the scripts that run between the upload and the cleanup, in this order."""
    runtime = ("40-runtime.sh",) if manifest.runtime else ()
    return ("20-volumes.sh", "30-models.sh", *runtime, "50-preload.sh", "60-host.sh")


def _runtime(manifest: Manifest, lock: Lock) -> dict[str, str]:
    """Return what 40-runtime.sh says in the place of its quoted values; nothing where there is no runtime."""
    if manifest.runtime is None or lock.runtime is None:
        return {}
    values = {
        "root": manifest.runtime.root,
        "python": lock.runtime.python,
        "platform": lock.runtime.platform,
        "digest": lock.runtime.digest,
        "budget": str(manifest.runtime.budget),
    }
    return {f"'@runtime-{name}@'": shlex.quote(value) for name, value in values.items()}


def _main(manifest: Manifest, lock: Lock, compat: Compat) -> str:
    profile = ("name of the instance profile of the builder", source.text(manifest.ami.builder.profile or ""))
    variables = [
        hcl.Block("variable", (name,), {"type": hcl.Expression("string"), "description": what, "default": default})
        for name, (what, default) in {**_VARIABLES, "profile": profile}.items()
    ]
    blocks = (*variables, _locals(manifest), source.block(manifest, lock, compat), _build(manifest))
    return _HEADER.format(compat=compat) + hcl.render(*blocks)


def _locals(manifest: Manifest) -> hcl.Block:
    """Return what ``ami_name`` and ``tags`` say, in HCL."""
    short = hcl.Expression(f'substr(replace(var.fingerprint, "sha256:", ""), 0, {_SHORT})')
    marks: dict[str, hcl.Value] = {
        "Name": hcl.Expression("local.name"),
        "splitbake:project": manifest.project,
        "splitbake:run": hcl.Expression("var.run"),
        "splitbake:fingerprint": hcl.Expression("var.fingerprint"),
        "splitbake:contract": str(manifest.contract),
    }
    name = hcl.Template(manifest.project, "-", short, "-", hcl.Expression("var.run"))
    return hcl.Block("locals", (), {"name": name, "tags": marks})


def _plugins() -> hcl.Block:
    amazon = {"source": "github.com/hashicorp/amazon", "version": ">= 1.2.8"}
    plugins = hcl.Block("required_plugins", (), {"amazon": amazon})
    return hcl.Block("packer", (), {"required_version": ">= 1.7.0"}, (plugins,))


def _build(manifest: Manifest) -> hcl.Block:
    provision = [_shell(f"../{path}", _RUN_PROVISION) for path in manifest.ami.provision]
    inputs = hcl.Block(
        "provisioner",
        ("file",),
        {
            "source": hcl.Template(hcl.Expression("var.inputs"), "/"),
            "destination": REMOTE_INPUTS,
            "generated": True,
        },
        comment="The list of models holds presigned URLs: it is not in this text, and gone after 30-models.sh.",
    )
    steps = (
        _shell(f"scripts/{_SETTLE}", _RUN_SCRIPT),
        *provision,
        inputs,
        *(_shell(f"scripts/{name}", _RUN_SCRIPT) for name in _provisioning(manifest)),
        _gate(),
        _shell(f"scripts/{_CLEANUP}", _RUN_SCRIPT, skip_clean=True),
        hcl.Block("post-processor", ("manifest",), {"output": hcl.Expression("var.record")}),
    )
    return hcl.Block("build", (), {"name": manifest.project, "sources": ["source.amazon-ebs.ami"]}, steps)


def _gate() -> hcl.Block:
    known = ("Host", "Port", "User")
    where = [hcl.Template(f"SPLITBAKE_GATE_{name.upper()}=", hcl.Expression(f"build.{name}")) for name in known]
    script = hcl.Template(hcl.Expression("path.root"), f"/scripts/{_GATE}")
    return hcl.Block(
        "provisioner",
        ("shell-local",),
        {"script": script, "environment_vars": where, "execute_command": _RUN_HERE},
        comment="Checks the builder before there is any AMI; splitbake build says by its environment how.",
    )


def _shell(path: str, execute: str, *, skip_clean: bool = False) -> hcl.Block:
    script = hcl.Template(hcl.Expression("path.root"), f"/{source.text(path)}")
    attributes: dict[str, hcl.Value] = {"script": script, "execute_command": execute}
    return hcl.Block("provisioner", ("shell",), attributes | ({"skip_clean": True} if skip_clean else {}))
