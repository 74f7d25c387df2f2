"""What environments say about each other: who promotes from whom, and whether the AMI can get there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from splitbake.manifest.yamldoc import Location
from splitbake.spec import nearest

Finding = tuple[Location, str]


def promotions(environments: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the place and the words of every ``promote`` that cannot be done."""
    origins = {name: origin for name, promote in _promoting(environments) if isinstance(origin := promote["from"], str)}
    for name, promote in _promoting(environments):
        at = ("environments", name, "promote")
        if name not in origins:
            continue
        origin = origins[name]
        if origin not in environments:
            yield (*at, "from"), f"there is no environment {origin!r}{nearest(origin, map(str, environments))}"
        elif name in (circle := _origins(origins, name)):
            yield (*at, "from"), f"a circle: {' from '.join([name, *circle])}; one of them must release what was built"
        else:
            yield from _between(at, promote, environments[origin], environments[name], origin)


def from_other_accounts(environments: Mapping[str, Any]) -> Iterator[Location]:
    """Yield the place of every ``promote`` of another account, which must be able to read the AMI even to copy it."""
    for name, promote in _promoting(environments):
        origin = environments.get(promote["from"]) if isinstance(promote["from"], str) else None
        if isinstance(origin, dict) and origin.get("account") != environments[name].get("account"):
            yield ("environments", name, "promote", "from")


def _promoting(environments: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, environment in environments.items():
        promote = environment.get("promote") if isinstance(environment, dict) else None
        if isinstance(promote, dict) and "from" in promote:
            yield name, promote


def _origins(origins: Mapping[str, str], name: str) -> list[str]:
    """Return where ``name`` promotes from, and where that does, to the end or until one comes again."""
    found: list[str] = []
    while name in origins and origins[name] not in found:
        name = origins[name]
        found.append(name)
    return found


def _between(at: Location, promote: Mapping[str, Any], origin: Any, target: Any, name: str) -> Iterator[Finding]:
    if not (isinstance(origin, dict) and isinstance(target, dict)):
        return
    if origin.get("endpoint", "aws") != target.get("endpoint", "aws"):
        yield (*at, "from"), f"{name!r} is behind another endpoint: nothing can be promoted from one cloud to another"
    same_account, same_region = (origin.get(key) == target.get(key) for key in ("account", "region"))
    if promote.get("ami") == "share" and not same_region:
        yield (*at, "ami"), f"an AMI can be shared within its region only, and {name!r} is in another one; copy it"
    elif "ami" in promote and same_account and same_region:
        yield (*at, "ami"), f"{name!r} is in the same account and region: its very AMI is used, nothing is to be done"
