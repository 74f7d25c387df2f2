"""How an AMI gets from one environment to another, whose it is then, and who must be able to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from splitbake.manifest import Environment

Way = Literal["same", "share", "copy"]


def way(origin: Environment, target: Environment) -> Way:
    """Return how an AMI gets from one environment to one that promotes from it; ``same``: it is there already."""
    if (origin.account, origin.region) == (target.account, target.region):
        return "same"
    return target.promote.ami if target.promote else "copy"


def owner(environments: Mapping[str, Environment], name: str) -> str:
    """Return the environment that the AMIs of ``name`` belong to: itself, or where it promotes them from uncopied."""
    promote = environments[name].promote
    if promote is None or way(environments[promote.origin], environments[name]) == "copy":
        return name
    return owner(environments, promote.origin)


def receivers(environments: Mapping[str, Environment], name: str) -> list[str]:
    """Return the other accounts that must be able to use the AMIs of environment ``name``, sorted.

    They are those of every environment that promotes from it, and from one that has no copy of its own.
    """
    found = set(_receivers(environments, name))
    return sorted(found - {environments[name].account})


def _receivers(environments: Mapping[str, Environment], name: str) -> Iterator[str]:
    for other, target in environments.items():
        if target.promote and target.promote.origin == name:
            yield target.account
            if way(environments[name], target) != "copy":
                yield from _receivers(environments, other)
