"""What is live: AWS as the planners and steps of a release ask it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from splitbake.cloud import Cloud, aws_errors
from splitbake.errors import ReleaseError

#: Seconds between two looks at what takes long.
_LONGEST_PAUSE = 15.0


@dataclass(frozen=True)
class Live:
    """Calls by their API names; throttling is retried by boto3 (see ``Cloud``).

    ``doing`` completes "could not …" in the error of a call. ``pause`` is seconds between two looks; while one waits
    for a change it grows.
    """

    cloud: Cloud
    pause: float = 0.5

    @property
    def where(self) -> str:
        """The environment and its region, for messages."""
        return f"{self.cloud.name!r} (region {self.cloud.environment.region})"

    def call(self, service: str, operation: str, doing: str, **parameters: Any) -> dict[str, Any]:
        """Make one call, for example ``("ec2", "DescribeImages", "find the AMI", ImageIds=[…])``.

        Raises:
            CloudError: AWS refused it or cannot be reached.
        """
        client = self.cloud.client(service)
        with aws_errors(doing):
            answer: dict[str, Any] = getattr(client, _method(operation))(**parameters)
            return answer

    def pages(self, service: str, operation: str, key: str, doing: str, **parameters: Any) -> list[Any]:
        """Return what all pages of a call list under ``key``."""
        client = self.cloud.client(service)
        with aws_errors(doing):
            pages = client.get_paginator(_method(operation)).paginate(**parameters)
            return [item for page in pages for item in page.get(key, [])]

    def wait(self, until: Callable[[], bool], within: float, otherwise: str) -> None:
        """Ask ``until`` again and again, at most ``within`` seconds.

        Raises:
            ReleaseError: it never came true; the message is ``otherwise``.
        """
        end, pause = time.monotonic() + within, self.pause
        while not until():
            if time.monotonic() >= end:
                raise ReleaseError(f"{otherwise} (waited {within:.0f} s)")
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def _method(operation: str) -> str:
    from botocore import xform_name

    return str(xform_name(operation))
