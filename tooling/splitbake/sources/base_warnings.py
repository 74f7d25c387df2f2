"""What the owner of a base AMI should know, though it can be used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime

from splitbake.lock import LockedBaseAmi

#: The day after which Amazon Linux 2 gets no updates (README of aws/amazon-ecs-ami).
AL2_END = date(2026, 6, 30)

# "amzn2-ami-ecs-gpu-hvm-…", "Deep Learning … (Amazon Linux 2) …", "…/optimized-ami/amazon-linux-2/gpu/recommended";
# and not "al2023-…", "amazon-linux-2023" or the name al2 within another word.
_AL2 = re.compile(r"(?<![a-z0-9])(?:amzn2|al2|amazon[ _-]?linux[ _-]?2)(?![a-z0-9])", re.IGNORECASE)


def warnings(base: LockedBaseAmi, now: datetime) -> Iterator[str]:
    """Yield a sentence for each thing that speaks against ``base`` at the moment ``now``."""
    if _AL2.search(base.name) or _AL2.search(base.request):
        tense = "gets" if now.date() <= AL2_END else "has got"
        yield (
            f"the base AMI {base.id} ({base.name}) is an Amazon Linux 2, which {tense} no updates after {AL2_END}; "
            "take one of Amazon Linux 2023"
        )
    if base.deprecated and _moment(base.deprecated) <= now:
        yield (
            f"the base AMI {base.id} ({base.name}) is deprecated since {base.deprecated[:10]}: its owner advises "
            "against it, and may remove it; splitbake lock --update base looks for a newer one"
        )


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
