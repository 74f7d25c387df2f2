"""The part of the manifest about the runtime: heavy Python packages that live on the host, not in the image."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from splitbake import contract, units
from splitbake.spec import AbsolutePath, RelativePath, Spec, matching


class Runtime(Spec):
    """Heavy packages (torch and its CUDA libraries …), baked into the AMI and mounted into the container."""

    requirements: RelativePath = Field(description="a pip requirements file in the project; wheels only")
    python: Annotated[str, matching("3[.][0-9]{1,2}", "a version of Python", "3.11")] = Field(
        description="the Python of the image, for which the wheels are chosen"
    )
    root: Annotated[AbsolutePath, AfterValidator(contract.beside_ours)] = Field(
        default="/opt/dl-runtime", description="where they lie on the host, and in the container"
    )
    budget: units.Size = Field(description="the most that they may take installed, for example 8 GiB")
