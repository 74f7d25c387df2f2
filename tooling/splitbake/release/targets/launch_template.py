"""LaunchTemplate."""

from __future__ import annotations

from typing import ClassVar

from splitbake.release.targets import Target
from splitbake.spec import Text


class LaunchTemplate(Target):
    """LaunchTemplate."""

    kind: ClassVar[str] = "launch_template"
    launch_template: Text
