"""The memory of one account and region: what was built there, what verification found, how long it took.

A record is found by what it is about, so a runner with nothing on its disk knows what every other one has made:

- ``artifacts/<account>/<region>/<half>/<fingerprint>.json``: the artifact that was made from these inputs;
- ``reports/<account>/<region>/<half>/<artifact>.json``: what the latest verification of this very artifact found;
- ``inventories/<account>/<region>/<ami>.json``: what is on an instance of it: packages, versions, models, sizes;
- ``runs/<account>/<region>/<half>/<work>/<time>-<chance>.json``: a line of history, never changed;
- ``inputs/<half>/<fingerprint>.json``: what a fingerprint is the digest of, to tell later what has changed.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from splitbake.artifact import Artifact, Half, Report, Run, Work
from splitbake.errors import StateError
from splitbake.inputs import Inputs
from splitbake.inventory import Inventory
from splitbake.spec import Spec
from splitbake.state import Store, Stored

Kind = TypeVar("Kind", bound=Spec)


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
        key = self._key("reports", artifact.half, artifact.id)
        report = _read(Report, key, self.store.get(key))
        if report is None or report.fingerprint != artifact.fingerprint or standard not in (None, report.standard):
            return None
        return report

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
        self.store.create(_inputs_key(inputs.half, inputs.fingerprint), inputs.text)

    def inputs(self, half: Half, fingerprint: str) -> Inputs | None:
        """Return what ``fingerprint`` was made of; None where nobody wrote it down, or by another scheme.

        Raises:
            StateError: something else stands there.
        """
        key = _inputs_key(half, fingerprint)
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

    def _runs(self, half: Half, work: Work) -> str:
        return f"runs/{self.account}/{self.region}/{half}/{work}/"

    def _key(self, what: str, half: Half, name: str) -> str:
        return f"{what}/{self.account}/{self.region}/{half}/{_name(name)}"


def leases(work: Work, account: str, region: str) -> str:
    """Return what the names of all leases for ``work`` in one account and region begin with."""
    return f"{work}/{account}/{region}/"


def _inputs_key(half: Half, fingerprint: str) -> str:
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


def _damaged(key: str, what: object) -> StateError:
    return StateError(
        f"{key} in the state is damaged, or of another version of splitbake: {what}",
        hint="remove it; then splitbake build and splitbake verify make it anew",
    )
