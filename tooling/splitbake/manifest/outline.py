"""What a model offers at a place of its data: follows an error's location through annotations."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, Tag
from pydantic.fields import FieldInfo

from splitbake.manifest.yamldoc import Location
from splitbake.spec import is_tag


def keys_of(model: type[BaseModel]) -> list[str]:
    """Return the keys that a mapping read as ``model`` may have."""
    return [_key(name, field) for name, field in model.model_fields.items()]


def field_at(root: type[BaseModel], location: Location) -> FieldInfo | None:
    """Return the field at ``location``, None where there is none (an entry of a list, an unknown key)."""
    model = model_at(root, location[:-1]) if location else None
    if model is None:
        return None
    return next((field for name, field in model.model_fields.items() if _key(name, field) == location[-1]), None)


def model_at(root: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """Return the model that the data at ``location`` is read as, None where it is not a model."""
    annotation: Any = root
    for part in location:
        annotation = _member(annotation, part) if is_tag(part) else _inside(_bare(annotation), part)
    found = _bare(annotation)
    return found if _is_model(found) else None


def _inside(annotation: Any, part: int | str) -> Any:
    """Return the annotation of a field, of an entry of a list, or of a value of a mapping."""
    if _is_model(annotation):
        fields = annotation.model_fields.items()
        return next((field.annotation for name, field in fields if _key(name, field) == part), None)
    if get_origin(annotation) is tuple:
        return get_args(annotation)[0]
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return None


def _member(annotation: Any, tag: int | str) -> Any:
    """Return the member of a union that has the name ``tag``."""
    for member in get_args(_bare(annotation)):
        if any(isinstance(note, Tag) and note.tag == tag for note in get_args(member)[1:]):
            return member
    return None


def _bare(annotation: Any) -> Any:
    """Return ``annotation`` without its metadata and without ``| None``."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        members = [member for member in get_args(annotation) if member is not NoneType]
        if len(members) == 1:
            return _bare(members[0])
    return annotation


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _key(name: str, field: FieldInfo) -> str:
    return field.alias or name
