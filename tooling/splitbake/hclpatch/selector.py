"""Addresses of values: `resource.aws_launch_template.batch_gpu.block_device_mappings[0].ebs[0].snapshot_id`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import PatchError
from .tokens import Kind, ScanError, Token, tokenize
from .values import quote, unquote

Step = str | int
"""A name (of an attribute, nested block or map key) or an index (of a nested block or list element, from 0)."""

_LABELS = {
    "resource": 2,
    "data": 2,
    "variable": 1,
    "module": 1,
    "output": 1,
    "provider": 1,
    "locals": 0,
    "terraform": 0,
}
_ALIASES = {"var": "variable", "local": "locals"}


@dataclass(frozen=True, slots=True)
class Selector:
    """The address of one value.

    Attributes:
        kind: the type of the top-level block, such as `resource` or `locals`.
        labels: its labels, such as `("aws_launch_template", "batch_gpu")`.
        path: the steps from the block to the value.
    """

    kind: str
    labels: tuple[str, ...]
    path: tuple[Step, ...]

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Read an address as Terraform writes references: names with dots, `[0]` and `["map key"]`.

        `resource.` may be left out. `variable.x`, `variable.x.default` and `var.x` mean the default of the
        variable, `var.x["key"]` a key in it; `local.a.b` means a key of a map in any `locals` block.

        Raises:
            PatchError: the text is not such an address, or it names a block but nothing in it.
        """
        try:
            steps = traversal(tokenize(text))
        except ScanError:
            steps = None
        if not steps:
            raise PatchError(
                f"{text!r} is not the address of a value",
                hint='Write one like resource.aws_launch_template.gpu.image_id or local.amis["us-east-1"].',
            )
        if steps[0] == "variable" and steps[2:3] == ("default",):
            steps = (*steps[:2], *steps[3:])
        selector = cls.of_steps(steps)
        if not selector.path or len(selector.labels) < _LABELS[selector.kind]:
            raise PatchError(
                f"{text!r} names a block, but no attribute in it",
                hint="Add the attribute, as in resource.aws_launch_template.gpu.image_id.",
            )
        return selector

    @classmethod
    def of(cls, block: str, attribute: str) -> Selector:
        """The address of an attribute of a block: `of("aws_launch_template.batch_gpu", "image_id")`."""
        return cls.parse(f"{block}.{attribute}")

    @classmethod
    def of_steps(cls, steps: Sequence[Step]) -> Selector:
        """The address that a reference means, step by step; its path may be empty."""
        kind = _ALIASES.get(str(steps[0]), str(steps[0]))
        if kind not in _LABELS:
            kind, steps = "resource", ("resource", *steps)
        count = 1 + _LABELS[kind]
        labels = tuple(step for step in steps[1:count] if isinstance(step, str))
        path = tuple(steps[count:])
        return cls(kind, labels, ("default", *path) if kind == "variable" else path)

    @property
    def block(self) -> str:
        """The address of the block."""
        return ".".join((self.kind, *self.labels))

    def __str__(self) -> str:
        return self.block + "".join(map(_write, self.path))


def traversal(tokens: Sequence[Token]) -> tuple[Step, ...] | None:
    """The steps of a reference such as `a.b[0]["c"]`; None where it is anything else, a computed index too."""
    if not tokens or tokens[0].kind is not Kind.NAME:
        return None
    steps: list[Step] = [tokens[0].text]
    rest = list(tokens[1:])
    while rest:
        match [token.text for token in rest[:3]], [token.kind for token in rest[:3]]:
            case [".", name, *_], [_, Kind.NAME, *_]:
                steps.append(name)
                del rest[:2]
            case [".", number, *_], [_, Kind.NUMBER, *_] if number.isdecimal():
                steps.append(int(number))
                del rest[:2]
            case ["[", number, "]"], [_, Kind.NUMBER, _] if number.isdecimal():
                steps.append(int(number))
                del rest[:3]
            case ["[", string, "]"], [_, Kind.STRING, _]:
                steps.append(unquote(string))
                del rest[:3]
            case _:
                return None
    return tuple(steps)


def _write(step: Step) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    plain = step.isidentifier() or step.replace("-", "_").isidentifier()
    return f".{step}" if plain else f"[{quote(step)}]"
