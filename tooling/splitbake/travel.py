"""What may not travel into the code image, judged by names and sizes alone: nothing is read for it.

What a file holds is judged elsewhere: locked models by ``context``, tokens by ``tokens``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from splitbake import patterns, units
from splitbake.errors import BuildError

#: So many files or folders are named in an error.
_SHOWN = 5
#: A folder with at least so much of another one's bytes says more than that one does.
_MOSTLY = 0.9


class _Rule(NamedTuple):
    """Names of one kind: regular expressions for lower case, where ``#`` stands for the rest of a name.

    Attributes:
        suffixes: what may follow a dot, up to the end of the path.
        names: what may follow a slash or begin the path, up to its end.
    """

    suffixes: tuple[str, ...]
    names: tuple[str, ...] = ()

    def searches(self) -> Sequence[Callable[[str], object]]:
        """Return what finds such a name in a text of paths that each begin with ``/`` and end with NUL.

        The place and the first letter are looked at before anything else, which settles nearly all of a text.
        """
        marked = [(mark, words) for mark, words in ((r"\.", self.suffixes), ("/", self.names)) if words]
        return [re.compile(_expression(mark, words)).search for mark, words in marked]


def _expression(mark: str, words: Sequence[str]) -> str:
    first = "".join(sorted({word.removeprefix("\\")[0] for word in words}))
    return rf"{mark}(?=[{first}])(?:{'|'.join(words)})\0".replace("#", "[^/\0]*")


_KEY = _Rule(("pem", "key"))
_BACKUP = r"~|\.(?:bak|backup|old|orig|save)"
_SECRET = _Rule(
    (
        # What shows others how to make one of their own holds no secret, here and below.
        r"env(?<!example\.env)(?<!sample\.env)(?<!template\.env)",
        *("p12", "pfx", "pkcs12", "jks", "keystore", "ppk", "kdbx", "tfstate", r"tfstate\.backup"),
    ),
    (
        r"\.env(?:rc|~|(?!#[-._](?:example|sample|template)\0)[-._]#)?",
        f"id_(?:rsa|dsa|ecdsa|ed25519)(?:_sk)?(?:{_BACKUP})?",
        r"\.(?:netrc|pypirc|npmrc|git-credentials|pgpass|my\.cnf|htpasswd|s3cfg|boto|databrickscfg|vault-token)",
        "_netrc",
        r"credentials\.json",
        r"application_default_credentials\.json",
        r"client_secret#\.json",
        r"service[-_]?account#\.json",
        "kubeconfig",
        r"\.dockercfg",
        r"\.docker/config\.json",
        r"\.huggingface/token",
        "huggingface/token",
        r"\.(?:aws|ssh|gnupg|azure|kube|config/gcloud)/[^\0]*",
    ),
)
#: Left out on purpose is what code has as well: .bin, .json, .npy, .npz, .pkl, .tar, .xml.
_MODEL = _Rule(
    (
        *("pt", "pth", "onnx", "ort", "safetensors", "ckpt", "gguf", "ggml", "h5", "hdf5", "keras", "tflite", "pb"),
        *("engine", "trt", "mlmodel", "caffemodel", "pdparams", "pdmodel", "nemo", r"pth\.tar", "ckpt-#"),
        "data-[0-9]{5}-of-[0-9]{5}",
    ),
    (r"pytorch_(?:model|lora_weights)#\.bin", r"flax_model#\.msgpack", r"model\.tar(?:\.gz)?"),
)
_KEYS, _SECRETS, _MODELS = _KEY.searches(), _SECRET.searches(), _MODEL.searches()
_ANY = _Rule(_KEY.suffixes + _SECRET.suffixes + _MODEL.suffixes, _SECRET.names + _MODEL.names).searches()


def refuse_names(
    root: Path,
    paths: Sequence[str],
    include: Collection[str],
    steps: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Refuse files that by their names are secrets or models, whatever the case of the letters.

    A link is judged by its own name and by those of all that it leads through: ``steps``, path -> paths.

    A model, and a certificate or key as text, may travel where a pattern of ``include`` is its very path: whoever
    writes that down means it. (A private key is still found by what it holds.)

    Raises:
        BuildError: the message names some of them.
    """
    through = [(path, step) for path, each in steps.items() for step in each if step != path]
    if not _found(_ANY, "/" + "\0/".join([*paths, *(step for _, step in through)]).lower() + "\0"):
        return
    meant = {path for path in include if not patterns.is_glob(path)}
    judged = [
        *((path, path, path in meant) for path in paths),
        *((step, f"{path} -> {step}", not meant.isdisjoint((path, step))) for path, step in through),
    ]
    secret = [
        shown for name, shown, is_meant in judged if _named(_SECRETS, name) or (not is_meant and _named(_KEYS, name))
    ]
    if secret:
        raise BuildError(
            f"these files are likely to hold secrets, which never belong into an image:\n{listed(root, secret)}",
            hint="take them out with image.exclude, and hand secrets to the job when it starts; a certificate (.pem, "
            ".key) that is public travels where image.include names the file itself",
        )
    if models := [shown for name, shown, is_meant in judged if not is_meant and _named(_MODELS, name)]:
        raise BuildError(
            f"these files look like models, which travel in the AMI:\n{listed(root, models)}",
            hint="list them in models.files and take them out with image.exclude; one that is to travel with the code "
            "all the same must be named in image.include, without a wildcard",
        )


def _found(searches: Iterable[Callable[[str], object]], text: str) -> bool:
    return any(search(text) for search in searches)


def _named(searches: Iterable[Callable[[str], object]], path: str) -> bool:
    return _found(searches, f"/{path.lower()}\0")


def refuse_more_than(budget: int, root: Path, paths: Sequence[str], sizes: Iterable[int]) -> None:
    """Refuse files that alone, without the image below them, take more than ``budget`` bytes.

    Raises:
        BuildError: the message says which folders take most.
    """
    each = [*sizes]
    if (total := sum(each)) > budget:
        largest = "\n".join(f"  {units.format_size(size)} {_shown(root, path)}" for path, size in _largest(paths, each))
        raise BuildError(
            f"the files for the image have {units.format_size(total)}, more than image.budget "
            f"({units.format_size(budget)}) even without the base; nothing was built. What takes most:\n{largest}",
            hint="take out with image.exclude what the job does not read, or raise image.budget",
        )


def _largest(paths: Sequence[str], sizes: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yield the largest folders (with ``/`` at the end) and files of the top, none of which is mostly another one."""
    below: Counter[str] = Counter()
    for path, size in zip(paths, sizes, strict=True):
        parents = PurePosixPath(path).parents
        for name in [f"{folder}/" for folder in parents[:-1]] or [path]:
            below[name] += size
    mostly = {
        f"{PurePosixPath(name).parent}/"
        for name, size in below.items()
        if size >= _MOSTLY * below[f"{PurePosixPath(name).parent}/"]
    }
    order = sorted(below.items(), key=lambda item: (-item[1], item[0]))
    yield from [(name, size) for name, size in order if name not in mostly][:_SHOWN]


def listed(root: Path, paths: Collection[str]) -> str:
    """Return the first of ``paths`` below ``root``, a line each, and how many more there are."""
    shown = [f"  {_shown(root, path)}" for path in sorted(paths)[:_SHOWN]]
    return "\n".join([*shown, f"  and {len(paths) - _SHOWN} more"] if len(paths) > _SHOWN else shown)


def _shown(root: Path, path: str) -> str:
    """Write a path so that it can be printed, also where its name is not UTF-8."""
    return f"{root}/{path}".encode(errors="backslashreplace").decode()
