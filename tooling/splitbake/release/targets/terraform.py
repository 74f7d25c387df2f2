"""Terraform."""

from __future__ import annotations

from typing import ClassVar

from splitbake.release.targets import Target
from splitbake.spec import Text


class Terraform(Target):
    """Terraform."""

    kind: ClassVar[str] = "terraform"
    terraform: Text
