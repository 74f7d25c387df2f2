"""A release for readers: lines for people, plain data for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from splitbake.release.plan import ReleasePlan
from splitbake.release.promote import Promotion
from splitbake.release.record import Record, write_step
from splitbake.release.steps import Output, shown
from splitbake.release.targets import Pair

#: How people read the way of a half that is promoted.
_WAYS = {"same": "is there already", "share": "is used as its owner shares it", "copy": "is copied"}


def promotion_lines(promotion: Promotion) -> Iterator[str]:
    """Yield what promoting takes as people read it: each half, and the calls that are still to be made."""
    yield f"from environment {promotion.origin}, {promotion.record or 'where nothing is released: what was verified'}"
    for one in promotion.transfers:
        way = f"is there: {one.there.uri}" if one.there and one.way == "copy" else _WAYS[one.way]
        yield f"{one.half:5}  {one.source.uri} {way}"
        yield from (f"   {call}" for call in one.calls)
    if promotion.pair is None:
        yield "The targets are planned when this is done."


def promotion_data(promotion: Promotion, pair: Pair | None) -> dict[str, Any]:
    """Return a promotion as plain data; ``pair``: what it led to, None where it was not done."""
    ends = {"ami": pair.ami.uri, "image": pair.image.uri} if pair else {}
    halves: dict[str, Any] = {
        one.half: {
            "source": one.source.uri,
            "way": one.way,
            "artifact": ends.get(one.half),
            "calls": list(one.calls),
        }
        for one in promotion.transfers
    }
    return {"from": promotion.origin, "record": promotion.record, **halves}


def lines(plan: ReleasePlan) -> Iterator[str]:
    """Yield the plan as people read it: pair, warnings, diff, and the calls with what they change."""
    yield f"AMI    {plan.pair.ami.uri}"
    yield f"image  {plan.pair.image.uri}"
    yield from (f"warning: {warning}" for warning in plan.warnings)
    if diff := plan.diff():
        yield f"\n{diff.rstrip()}"
    for number, step in enumerate(plan.steps, start=1):
        yield f"\n{number}. [{step.phase.name}] {step.title}"
        yield from (f"   {line}" for line in _changes(step.before, step.after))
        yield from (f"   {call}" for call in step.calls)
    if not plan.steps:
        yield "Every target names this pair already; there is nothing to release."


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for key, value in after.items():
        yield f"{key}: {_text(before.get(key))} -> {_text(shown(value, {}))}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def as_data(plan: ReleasePlan, record: Record | None) -> dict[str, Any]:
    """Return a plan, and the record of having done it, as plain data.

    ``launch_template_version`` is a number, of the first launch template where there are several, None where no
    launch template is a target.
    """
    steps = record.steps if record else tuple(write_step(step, {}) for step in plan.steps)
    versions = {name: int(one.predicted if isinstance(one, Output) else one) for name, one in plan.versions.items()}
    if record:
        versions = {name: int(number) for name, number in record.versions.items()}
    return {
        "environment": plan.environment,
        "ami": plan.pair.ami.uri,
        "image": plan.pair.image.uri,
        "record": record.key if record else None,
        "status": record.status if record else "planned" if plan.steps else "unchanged",
        "steps": [step.model_dump(mode="json") for step in steps],
        "warnings": list(plan.warnings),
        "diff": plan.diff(),
        "terraform_diff_lines": plan.terraform_diff_lines,
        "launch_templates": versions,
        "launch_template_version": next(iter(versions.values()), None),
    }
