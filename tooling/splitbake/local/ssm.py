"""SSM parameters: as moto has them, but a structured AWS parameter is JSON text, as on AWS."""

from __future__ import annotations

import json
from typing import Any

from moto.ssm.models import ParameterDict

from splitbake.local.hooks import Hook, around


def install() -> None:
    """Hook the loading of the parameters that AWS publishes."""
    around(ParameterDict, "_load_tree_parameters", load)


def load(proceed: Hook, parameters: Any, path: str) -> None:
    """Turn the values that moto keeps as objects into text."""
    proceed(path)
    for versions in list(parameters.values()):
        for parameter in versions:
            if not isinstance(parameter.value, str):
                parameter.value = json.dumps(parameter.value)
