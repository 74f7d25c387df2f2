"""BatchComputeEnvironment."""

from __future__ import annotations

from typing import ClassVar

from splitbake.release.targets import Target
from splitbake.spec import Text


class BatchComputeEnvironment(Target):
    """BatchComputeEnvironment."""

    kind: ClassVar[str] = "batch_compute_environment"
    batch_compute_environment: Text
