"""``splitbake schema``."""

from __future__ import annotations

import click

from splitbake import ui


@click.command()
def command() -> None:
    """Print the JSON Schema of splitbake.yaml.

    \b
    Editors with a YAML language server complete and check the manifest after
      splitbake schema > splitbake.schema.json
    and this first line of splitbake.yaml:
      # yaml-language-server: $schema=./splitbake.schema.json
    """
    from splitbake.manifest import schema

    ui.emit_json(schema.json_schema())
