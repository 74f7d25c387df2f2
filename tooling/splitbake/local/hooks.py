"""How moto is extended: one of its methods is wrapped, never forked.

moto keeps the books (ids, tags, filters, permissions); a hook makes the thing behind the entry real before or after.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

#: ``hook(proceed, owner, *args, **kwargs)``: ``proceed`` is the original method, bound to ``owner``.
Hook = Callable[..., Any]


def around(owner: type, name: str, hook: Hook) -> None:
    """Let ``hook`` run in place of ``owner.name``; it calls ``proceed`` for what moto did until now."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def hooked(self: Any, *args: Any, **kwargs: Any) -> Any:
        return hook(functools.partial(original, self), self, *args, **kwargs)

    setattr(owner, name, hooked)
