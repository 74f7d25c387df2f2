"""BatchJobDefinition."""

from __future__ import annotations

from typing import ClassVar

from splitbake.release.targets import Target
from splitbake.spec import Text


class BatchJobDefinition(Target):
    """BatchJobDefinition."""

    kind: ClassVar[str] = "batch_job_definition"
    batch_job_definition: Text
