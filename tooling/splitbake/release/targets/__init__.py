"""The places that name an artifact: one file a kind."""

from __future__ import annotations

from typing import ClassVar

from splitbake.spec import Spec


class Target(Spec):
    """A place that names an artifact; its fields are what the manifest holds."""

    kind: ClassVar[str]
