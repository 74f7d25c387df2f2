"""Names and sizes that keep a file out of the image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake import travel
from splitbake.errors import BuildError

ROOT = Path("/project")

SECRET = [
    ".env", ".env.local", ".env.production", ".env.example.local", ".env-prod", ".env_prod", ".env~", "prod.env",
    "example.env.env", ".envrc", "id_rsa", "id_ed25519", "id_ed25519_sk", "id_rsa.bak", "id_ed25519_sk.old", "id_rsa~",
    ".netrc", "_netrc", ".pypirc", ".npmrc", ".git-credentials", ".pgpass", ".htpasswd", ".dockercfg",
    ".docker/config.json", ".aws/credentials", ".aws/sso/cache/a.json", ".ssh/config", ".kube/config", ".azure/a",
    ".gnupg/a", ".config/gcloud/a.db", "kubeconfig", "credentials.json", "application_default_credentials.json",
    "client_secret.json", "client_secret_12.apps.json", "service-account.json", "service_account-prod.json",
    "serviceaccount.json", ".vault-token", ".huggingface/token", ".cache/huggingface/token", "a.p12", "a.pfx", "a.jks",
    "a.keystore", "a.ppk", "a.kdbx", "terraform.tfstate", "terraform.tfstate.backup",
]  # fmt: skip
KEY = ["ca.pem", "server.key"]
MODEL = [
    "a.pt", "a.pth", "a.pth.tar", "a.onnx", "a.ort", "a.safetensors", "a.ckpt", "a.ckpt-100.meta", "a.gguf", "a.ggml",
    "a.h5", "a.hdf5", "a.keras", "a.tflite", "saved_model.pb", "a.engine", "a.trt", "a.mlmodel", "a.caffemodel",
    "a.pdparams", "a.pdmodel", "a.nemo", "variables.data-00000-of-00001", "pytorch_model.bin",
    "pytorch_model-00001-of-00002.bin", "flax_model.msgpack", "model.tar.gz", "model.tar",
]  # fmt: skip
FINE = [
    "run.py", "env", ".env.example", ".env.sample", ".env.template", ".env.prod.example", ".env-example",
    ".env_prod.sample", "example.env", "prod.template.env", ".environment", "environment.py", ".envs/a.py", "prod.envs",
    "env.py", "my_env", "id_rsa.pub", "id_rsa.pub.bak", "id_rsa.py", "netrc.py", ".npmrc.md", "aws/credentials.py",
    "xaws/a", ".awsx/a", "config.json", "model.py", "a.bin", "docker/config.json", "my_credentials.json",
    "credentials.jsonl", "service.json", "key.py", "key", "pem", "pt", "onnx.py", "a.pt.py", "a.onnx.md", "a.ptx",
    "a.json", "a.npz", "a.pkl", "a.tar", "a.xml", "a.proto", "a.pbtxt", "data-1-of-2", "tokens.py", "huggingface/a.py",
    "token", "a.crt", "a.pub",
]  # fmt: skip


def refuse(*paths: str, include: tuple[str, ...] = ("**",)) -> None:
    travel.refuse_names(ROOT, paths, include)


@pytest.mark.parametrize("folder", ["", "lib/", "deep/.hidden folder/-x/"])
@pytest.mark.parametrize("name", SECRET + KEY)
def test_names_of_secrets_are_refused_wherever_they_lie(folder, name):
    for path in (folder + name, folder + name.upper()):
        with pytest.raises(BuildError, match="likely to hold secrets") as caught:
            refuse("run.py", path, "z.py")
        assert caught.value.message.splitlines()[1:] == [f"  {ROOT}/{path}"]


@pytest.mark.parametrize("folder", ["", "lib/"])
@pytest.mark.parametrize("name", MODEL)
def test_names_of_models_are_refused_wherever_they_lie(folder, name):
    for path in (folder + name, folder + name.upper()):
        with pytest.raises(BuildError, match=r"look like models") as caught:
            refuse("run.py", path)
        assert "models.files" in caught.value.hint


def test_other_names_travel():
    refuse(*FINE, *(f"lib/{name}" for name in FINE), *(name.upper() for name in FINE))
    refuse()


@pytest.mark.parametrize("path", ["lib/weights.pt", "lib/ca.pem", "lib/it's [1].onnx"])
def test_a_model_or_certificate_that_is_named_itself_may_travel(path):
    refuse(path, "run.py", include=("lib/", path))
    for include in (("lib/",), ("lib",), ("lib/*",), (f"{path}x",), (f"{path}/",)):
        with pytest.raises(BuildError, match="these files"):
            refuse(path, include=include)


def test_a_wildcard_is_no_consent_even_where_a_file_has_that_name():
    with pytest.raises(BuildError, match="look like models"):
        refuse("*.pt", include=("*.pt",))


@pytest.mark.parametrize("path", [".env", "id_rsa", "lib/a.p12", ".aws/credentials"])
def test_for_a_secret_there_is_no_consent(path):
    with pytest.raises(BuildError, match="likely to hold secrets"):
        refuse(path, include=(path,))


def test_consent_for_one_is_none_for_another():
    with pytest.raises(BuildError) as caught:
        refuse("a.pt", "b.pt", include=("a.pt", "*"))
    assert caught.value.message.splitlines()[1:] == [f"  {ROOT}/b.pt"]


def test_links_are_judged_by_all_that_they_lead_through():
    for target, kind in (("../.env", "secrets"), ("certs/ca.pem", "secrets"), ("weights/a.onnx", "models")):
        with pytest.raises(BuildError, match=kind) as caught:
            travel.refuse_names(ROOT, ["run.py", "lib/x"], ("**",), {"lib/x": ["lib/y", target, "plain"]})
        assert caught.value.message.splitlines()[1:] == [f"  {ROOT}/lib/x -> {target}"]
    travel.refuse_names(ROOT, ["lib/x"], ("lib/x",), {"lib/x": ["certs/ca.pem", "weights/a.onnx"]})
    travel.refuse_names(ROOT, ["lib/x"], ("**", "weights/a.onnx"), {"lib/x": ["weights/a.onnx"]})
    travel.refuse_names(ROOT, ["lib/x"], ("**",), {"lib/x": ["lib/y"]})


def test_many_are_told_in_order_and_not_without_end():
    with pytest.raises(BuildError) as caught:
        refuse(*(f"{number}.pem" for number in range(7, 0, -1)))
    assert caught.value.message.splitlines()[1:] == [*(f"  {ROOT}/{n}.pem" for n in range(1, 6)), "  and 2 more"]


def test_odd_names_are_told_so_that_they_can_be_printed():
    with pytest.raises(BuildError) as caught:
        refuse(os.fsdecode(b"\xff.pem"), "é.pem", "a\nb.key", "-rf/.env")
    assert caught.value.message.encode()
    assert "é.pem" in caught.value.message


names = st.sampled_from([*SECRET, *KEY, *MODEL, *FINE, "İ.pem", "Σ", "a\nb", ".", "lib", "\u212aey"])
some_paths = st.lists(st.lists(names, min_size=1, max_size=3).map("/".join), unique=True, max_size=6)


@given(paths=some_paths)
def test_many_paths_are_judged_as_each_alone(paths):
    def refused(*some: str) -> bool:
        try:
            refuse(*some)
        except BuildError:
            return True
        return False

    assert refused(*paths) == any(map(refused, paths))


def test_files_within_the_budget_travel():
    travel.refuse_more_than(10, ROOT, ["a", "b/c"], [4, 6])
    travel.refuse_more_than(0, ROOT, [], [])


def test_what_breaks_the_budget_is_told_by_folder():
    sizes = {
        "lib/vendor/torch/a.so": 60_000_000,
        "lib/vendor/torch/b.so": 30_000_000,
        "lib/vendor/small.py": 1_000,
        "lib/data/x.csv": 50_000_000,
        "lib/run.py": 5_000,
        "big.json": 20_000_000,
        "docs/a.md": 10,
    }
    with pytest.raises(BuildError) as caught:
        travel.refuse_more_than(100_000_000, ROOT, [*sizes], sizes.values())
    first, *rest = caught.value.message.splitlines()
    assert first.startswith("the files for the image have 160.0 MB, more than image.budget (100.0 MB)")
    assert rest == [
        f"  140.0 MB {ROOT}/lib/", f"  90.0 MB {ROOT}/lib/vendor/torch/", f"  50.0 MB {ROOT}/lib/data/",
        f"  20.0 MB {ROOT}/big.json", f"  10 B {ROOT}/docs/",
    ]  # fmt: skip


sized = st.dictionaries(some_paths.filter(bool).map(lambda paths: paths[0]), st.integers(0, 9), min_size=1)


@given(sizes=sized)
def test_what_takes_most_is_told_whatever_the_tree(sizes):
    if not sum(sizes.values()):
        return
    with pytest.raises(BuildError) as caught:
        travel.refuse_more_than(0, ROOT, [*sizes], sizes.values())
    assert "What takes most:\n  " in caught.value.message
