"""The manifest's JSON Schema, for editors."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from splitbake import manifest


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the manifest (Draft 2020-12)."""
    schema = manifest.Manifest.model_json_schema(by_alias=True, schema_generator=_EditorSchema)
    return {"$schema": _EditorSchema.schema_dialect, **schema, "title": manifest.FILE_NAME}


class _EditorSchema(GenerateJsonSchema):
    """pydantic's schema without titles that repeat the keys, and strict about the keys of free mappings too."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Leave titles out: an editor shows key and description."""
        return False

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Refuse keys that do not fit the pattern; pydantic's own schema lets them pass with any value."""
        result = super().dict_schema(schema)
        if "patternProperties" in result:
            result.pop("propertyNames", None)
            result["additionalProperties"] = False
        return result
