"""The memory of one account and region: what was built there, what verification found, how long it took.

A record is found by what it is about, so a runner with nothing on its disk knows what every other one has made:

- ``artifacts/<account>/<region>/<half>/<fingerprint>.json``: the artifact that was made from these inputs;
- ``reports/<account>/<region>/<half>/<artifact>.json``: what the latest verification of this very artifact found;
- ``inventories/<account>/<region>/<ami>.json``: what is on an instance of it: packages, versions, models, sizes;
- ``dependencies/<account>/<region>/<key>.json``: the image that code images of these dependencies lie on;
- ``sboms/<account>/<region>/<key>.json.gz``: the packages in some layers of an image;
- ``sboms/<account>/<region>/<digest>.json``: which of these is that of an image;
- ``provenance/<account>/<region>/<digest>.json``: how an image was made, the first time that it was;
- ``runs/<account>/<region>/<half>/<work>/<time>-<chance>.json``: a line of history, never changed;
- ``inputs/<half>/<fingerprint>.json``: what a fingerprint is the digest of, to tell later what has changed.
"""

from __future__ import annotations

import gzip
import json
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from splitbake.artifact import Artifact, Dependencies, Half, Report, Run, Sbom, Work
from splitbake.errors import StateError
from splitbake.inputs import Inputs
from splitbake.inventory import Inventory
from splitbake.spec import Spec, Text
from splitbake.state import Store, Stored

Kind = TypeVar("Kind", bound=Spec)


class _SbomOf(Spec):
    """Leads from an image to its bill of materials."""

    image: Text = Field(description="sha256:… of its manifest")
    sbom: Text = Field(description="key in the state")


@dataclass(frozen=True)
class Catalog:
    """What the state says of one account and region."""

    store: Store
    account: str
    region: str

    def artifact(self, half: Half, fingerprint: str) -> Artifact | None:
        """Return the artifact that was built from exactly these inputs, None where there is none.

        Raises:
            StateError: something else stands there.
        """
        key = self._key("artifacts", half, fingerprint)
        return _read(Artifact, key, self.store.get(key))

    def artifacts(self, half: Half) -> list[Artifact]:
        """Return every artifact that is remembered."""
        prefix = self._key("artifacts", half, "").removesuffix(".json")
        found = (_read(Artifact, key, self.store.get(key)) for key in self.store.keys(prefix))
        return [artifact for artifact in found if artifact]

    def keep(self, artifact: Artifact, *, instead_of: Artifact | None) -> Artifact:
        """Remember ``artifact`` in the place of ``instead_of``, and return the one that is remembered.

        That is another one where somebody was quicker: of two that build the same, one artifact counts.
        """
        key = self._key("artifacts", artifact.half, artifact.fingerprint)
        value = _text(artifact)
        while True:
            stored = self.store.get(key)
            there = _read(Artifact, key, stored)
            if there not in (None, instead_of):
                return there
            done = self.store.replace(key, value, stored.version) if stored else self.store.create(key, value)
            if done:
                return artifact

    def report(self, artifact: Artifact, standard: str | None = None) -> Report | None:
        """Return the report about exactly this artifact, None where it was never verified so.

        ``standard``: that it must have been verified by; None takes any.
        """
        key = self.report_place(artifact)
        report = _read(Report, key, self.store.get(key))
        if report is None or report.fingerprint != artifact.fingerprint or standard not in (None, report.standard):
            return None
        return report

    def report_place(self, artifact: Artifact) -> str:
        """Return the key under which the state has the report about ``artifact``, if it was verified."""
        return self._key("reports", artifact.half, artifact.id)

    def keep_report(self, report: Report) -> None:
        """Remember ``report``; the latest about one artifact counts."""
        self.store.put(self._key("reports", report.half, report.artifact), _text(report))

    def keep_inventory(self, inventory: Inventory) -> None:
        """Remember ``inventory``; an AMI never changes, and the latest one counts."""
        self.store.put(self.inventory_place(inventory.ami), _text(inventory))

    def inventory(self, ami: str) -> Inventory | None:
        """Return what is on instances of ``ami``, None where it was never taken."""
        key = self.inventory_place(ami)
        return _read(Inventory, key, self.store.get(key))

    def inventory_place(self, ami: str) -> str:
        """Return the key under which the state has the inventory of ``ami``, if it was taken."""
        return f"inventories/{self.account}/{self.region}/{_name(ami)}"

    def inventories(self) -> list[str]:
        """Return the AMIs of which there is an inventory, sorted."""
        prefix = self.inventory_place("").removesuffix(".json")
        return [key.removeprefix(prefix).removesuffix(".json") for key in self.store.keys(prefix)]

    def dependencies(self, key: str) -> Dependencies | None:
        """Return the image of the dependencies with this key, None where none was made."""
        place = self._dependencies(key)
        return _read(Dependencies, place, self.store.get(place))

    def keep_dependencies(self, made: Dependencies) -> None:
        """Remember the image of dependencies; the latest of one key counts."""
        self.store.put(self._dependencies(made.key), _text(made))

    def sbom(self, key: str) -> tuple[str, Sbom] | None:
        """Return the bill of materials of the layers with this key and where it stands, None where none was made.

        That of another account tells the same: the key is a digest of what is in the layers.
        """
        return _sbom(*self._found(self.sbom_place(key)))

    def sbom_of(self, digest: str, *, elsewhere: bool) -> tuple[str, Sbom] | None:
        """Return the bill of materials of the image with this digest, as ``sbom``; no registry is asked.

        ``elsewhere``: also look at what other accounts have, which one that was just built cannot be in.

        Raises:
            StateError: something else stands there.
        """
        place = self._sbom_of(digest)
        place, stored = self._found(place) if elsewhere else (place, self.store.get(place))
        named = _read(_SbomOf, place, stored)
        if named is None:
            return None
        if named.image != digest:
            raise _damaged(place, f"it is about {named.image}")
        return _sbom(named.sbom, self.store.get(named.sbom))

    def keep_sbom_of(self, digest: str, place: str) -> None:
        """Remember that the bill of materials of the image with this digest stands under ``place``."""
        self.store.put(self._sbom_of(digest), _text(_SbomOf(image=digest, sbom=place)))

    def keep_sbom(self, sbom: Sbom) -> None:
        """Remember a bill of materials; the latest of one key counts."""
        text = sbom.model_dump_json().encode()
        self.store.put(self.sbom_place(sbom.key), gzip.compress(text, mtime=0))

    def sbom_place(self, key: str) -> str:
        """Return the key under which the state has the bill of materials of these layers, if it was made."""
        return f"sboms/{self.account}/{self.region}/{_name(key)}.gz"

    def keep_provenance(self, digest: str, statement: Mapping[str, Any]) -> None:
        """Remember how the image with this digest was made; what was said first stays."""
        text = json.dumps(statement, indent=2, ensure_ascii=False)
        self.store.create(self.provenance_place(digest), text.encode())

    def provenance(self, digest: str) -> dict[str, Any] | None:
        """Return how the image with this digest was made, here or in the account that it was promoted from.

        Raises:
            StateError: something else stands there.
        """
        place, stored = self._found(self.provenance_place(digest))
        if stored is None:
            return None
        try:
            statement: dict[str, Any] = json.loads(stored.value)
            (subject,) = statement["subject"]
            found = f"sha256:{subject['digest']['sha256']}"
        except (LookupError, TypeError, ValueError) as problem:
            raise _damaged(place, problem) from problem
        if found != digest:
            raise _damaged(place, f"it is about {found}")
        return statement

    def provenance_place(self, digest: str) -> str:
        """Return the key under which the state says how the image with this digest was made, if it was here."""
        return f"provenance/{self.account}/{self.region}/{_name(digest)}"

    def _found(self, place: str) -> tuple[str, Stored | None]:
        """Return what stands under ``place``, else under its name in another account or region: key and content."""
        if stored := self.store.get(place):
            return place, stored
        top, _, rest = place.partition("/")
        name = rest.rpartition("/")[2]
        others = [key for key in self.store.keys(f"{top}/") if key.endswith(f"/{name}")]
        return (others[0], self.store.get(others[0])) if others else (place, None)

    def log(self, run: Run) -> None:
        """Write down that ``run`` was done."""
        moment = run.created.replace(":", "").replace("+0000", "Z")
        self.store.create(f"{self._runs(run.half, run.work)}{moment}-{secrets.token_hex(3)}.json", _text(run))

    def runs(self, half: Half, work: Work, *, last: int) -> list[Run]:
        """Return the latest ``last`` runs, the newest first."""
        keys = self.store.keys(self._runs(half, work))[-last:]
        found = (_read(Run, key, self.store.get(key)) for key in reversed(keys))
        return [run for run in found if run]

    def keep_inputs(self, inputs: Inputs) -> None:
        """Remember what a fingerprint is made of."""
        self.store.create(inputs_place(inputs.half, inputs.fingerprint), inputs.text)

    def inputs(self, half: Half, fingerprint: str) -> Inputs | None:
        """Return what ``fingerprint`` was made of; None where nobody wrote it down, or by another scheme.

        Raises:
            StateError: something else stands there.
        """
        key = inputs_place(half, fingerprint)
        stored = self.store.get(key)
        try:
            found = Inputs.from_text(stored.value) if stored else None
        except ValueError as problem:
            raise _damaged(key, problem) from problem
        if found and found.fingerprint != fingerprint:
            raise _damaged(key, "its digest is another one")
        return found

    def lease(self, work: Work, half: Half, fingerprint: str = "") -> str:
        """Return the name of the lease for ``work`` on these inputs; without them, what all of ``half`` begin with."""
        return f"{leases(work, self.account, self.region)}{half}/{fingerprint}"

    def _sbom_of(self, digest: str) -> str:
        return f"sboms/{self.account}/{self.region}/{_name(digest)}"

    def _dependencies(self, key: str) -> str:
        return f"dependencies/{self.account}/{self.region}/{_name(key)}"

    def _runs(self, half: Half, work: Work) -> str:
        return f"runs/{self.account}/{self.region}/{half}/{work}/"

    def _key(self, what: str, half: Half, name: str) -> str:
        return f"{what}/{self.account}/{self.region}/{half}/{_name(name)}"


def leases(work: Work, account: str, region: str) -> str:
    """Return what the names of all leases for ``work`` in one account and region begin with."""
    return f"{work}/{account}/{region}/"


def inputs_place(half: Half, fingerprint: str) -> str:
    """Return where in the state it stands what a fingerprint is the digest of."""
    return f"inputs/{half}/{_name(fingerprint)}"


def _name(digest_or_id: str) -> str:
    return f"{digest_or_id.replace(':', '-')}.json"


def _text(item: Spec) -> bytes:
    return item.model_dump_json(indent=2, exclude_none=True).encode()


def _read(kind: type[Kind], key: str, stored: Stored | None) -> Kind | None:
    """Read what was written.

    Raises:
        StateError: something else stands there.
    """
    try:
        return None if stored is None else kind.model_validate_json(stored.value)
    except ValidationError as problem:
        raise _damaged(key, problem.errors()[0]["msg"]) from problem


def _sbom(place: str, stored: Stored | None) -> tuple[str, Sbom] | None:
    """Read a bill of materials, and return it with its place."""
    try:
        plain = Stored(gzip.decompress(stored.value), stored.version) if stored else None
    except (OSError, EOFError, zlib.error) as problem:
        raise _damaged(place, problem) from problem
    found = _read(Sbom, place, plain)
    return (place, found) if found else None


def _damaged(key: str, what: object) -> StateError:
    return StateError(
        f"{key} in the state is damaged, or of another version of splitbake: {what}",
        hint="remove it; then splitbake build and splitbake verify make it anew",
    )
