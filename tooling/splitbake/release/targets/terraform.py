"""A value in Terraform text, patched byte-exactly; whoever owns the text applies it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from splitbake.errors import PatchError
from splitbake.release.targets import Context, Planned, Target
from splitbake.spec import RelativePath, Text

#: Ids have 8 hexadecimal digits (before 2016) or 17.
_AMI_ID = "ami-([0-9a-f]{8}|[0-9a-f]{17})"


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as problem:
        raise ValueError(f"not a regular expression: {problem}") from problem
    return text


class Terraform(Target):
    """One attribute of one resource in a Terraform file."""

    kind: ClassVar[str] = "terraform"
    terraform: RelativePath = Field(description="a file, or a glob such as terraform/*.tf, in the project")
    resource: Text = Field(description="for example aws_launch_template.batch_gpu, or variable.ami")
    attribute: Text = Field(description="for example image_id")
    value: Literal["ami.id", "image.uri"] = Field(alias="set", description="what it shall hold")
    expect: Annotated[Text, AfterValidator(_pattern)] | None = Field(
        default=None, description="what the old value must look like (regular expression); default: an AMI id"
    )
    follow: bool = Field(default=False, description="set the variable's default or local that it refers to")

    @property
    def label(self) -> str:
        """See Target."""
        return f"terraform {self.resource}.{self.attribute}"

    def plan(self, context: Context) -> Planned:
        """See Target."""
        from splitbake import hclpatch
        from splitbake.release.steps import TextStep

        value = context.pair.ami.id if self.value == "ami.id" else context.pair.image.uri
        expect = self.expect or (_AMI_ID if self.value == "ami.id" else None)
        sources = hclpatch.load(self._files(context.root))
        edit = hclpatch.set_value(
            sources,
            hclpatch.Selector.of(self.resource, self.attribute),
            value,
            expect=re.compile(expect) if expect else None,
            follow=self.follow,
        )
        if not edit.changes:
            return Planned(warnings=edit.notes)
        step = TextStep.of(sources, [edit], self.label, context.root)
        return Planned(steps=(step,), warnings=step.patch.notes)

    def _files(self, root: Path) -> list[Path]:
        files = sorted(path for path in root.glob(self.terraform) if path.is_file())
        if not files:
            raise PatchError(
                f"{self.label}: there is no file {root / self.terraform}",
                hint="correct terraform in the environment's release list; it is relative to the manifest",
            )
        return files
