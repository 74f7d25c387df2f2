"""Byte-exact edits of other people's HCL.

One literal string becomes another; not one byte besides it changes. Reading, planning and writing are apart:

    sources = load([Path("terraform")])
    edit = set_value(sources, Selector.parse("aws_launch_template.gpu.image_id"), "ami-0123456789abcdef0")
    patch = plan(sources, [edit])       # judged by python-hcl2; patch.diff(), patch.notes
    write(patch)                        # every file or none

Terraform references are followed to a variable's default or a local's literal on request; whatever is not a
literal string is refused with the place where the literal stands. Every error is a `PatchError`.
"""

from .edit import Edit, set_value
from .find import Found, find
from .patch import FileChange, Patch, plan
from .references import Chain, follow
from .selector import Selector
from .source import Source, Sources, load
from .values import Value, ValueKind
from .write import write

__all__ = [
    "Chain",
    "Edit",
    "FileChange",
    "Found",
    "Patch",
    "Selector",
    "Source",
    "Sources",
    "Value",
    "ValueKind",
    "find",
    "follow",
    "load",
    "plan",
    "set_value",
    "write",
]
