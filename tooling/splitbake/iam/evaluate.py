"""What IAM policies say of one request: pure, and never a silent allow.

A model of AWS's policy evaluation for identity policies, permission boundaries and trust policies ("Policy evaluation
logic", IAM user guide). What this module does not know (an operator, an element, a condition key that the caller of
``evaluate`` did not derive) raises; so "allowed" is only ever said of what was understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Literal

from splitbake.errors import SplitbakeError

Verdict = Literal["allowed", "not allowed", "explicitly denied"]
Document = Mapping[str, Any]


class UnjudgedError(SplitbakeError):
    """A policy or a request holds something that this evaluator does not know, so nothing is said about it."""

    code = "unjudged"


@dataclass(frozen=True)
class Request:
    """One action on one resource.

    Attributes:
        action: ``service:Operation``.
        resource: an ARN; ``*`` where the action knows no resources.
        context: condition key, in lower case -> its values. A key that is known to be absent has none: ``()``.
        tags: the same for keys with a prefix and any name, ``aws:resourcetag/`` -> tag -> value; a tag that is not
            there is absent, a prefix that is not there was not derived.
        principal: who asks, for trust policies: ``{"Federated": ARN}``, ``{"Service": name}``, ``{"AWS": ARN}``.
    """

    action: str
    resource: str = "*"
    context: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    principal: Mapping[str, str] = field(default_factory=dict)

    def values(self, key: str) -> Sequence[str]:
        """Return the values of a condition key, none where it is absent.

        Raises:
            UnjudgedError: whoever made the request did not derive it.
        """
        name = key.lower()
        if name in self.context:
            return self.context[name]
        prefix, slash, tag = key.partition("/")
        if slash and f"{prefix.lower()}/" in self.tags:
            found = self.tags[f"{prefix.lower()}/"].get(tag)
            return () if found is None else (found,)
        raise UnjudgedError(f"{self.action} on {self.resource}: the condition key {key} was not derived from the call")


def evaluate(policies: Iterable[Document], request: Request, *, boundary: Document | None = None) -> Verdict:
    """Judge ``request`` by all ``policies`` of its principal: a deny wins, and what nothing allows is not allowed.

    Args:
        policies: policy documents as AWS keeps them, decoded from JSON.
        request: what is asked for.
        boundary: the permissions boundary of the principal, which must allow it as well.

    Raises:
        UnjudgedError: a policy or the request holds something unknown.
    """
    verdicts = [_of_document(policies, request)]
    if boundary is not None:
        verdicts.append(_of_document([boundary], request))
    if "explicitly denied" in verdicts:
        return "explicitly denied"
    return "allowed" if all(one == "allowed" for one in verdicts) else "not allowed"


def matching(policies: Iterable[Document], request: Request) -> list[str]:
    """Return the Sids of the statements of ``policies`` that apply to ``request``, in their order."""
    return [
        str(one.get("Sid", "")) for policy in policies for one in _statements(policy) if _applies(_read(one), request)
    ]


def _of_document(policies: Iterable[Document], request: Request) -> Verdict:
    effects = {one["Effect"] for policy in policies for one in _statements(policy) if _applies(_read(one), request)}
    if "Deny" in effects:
        return "explicitly denied"
    return "allowed" if "Allow" in effects else "not allowed"


_ELEMENTS: Final = {
    *("Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition", "Principal"),
}


def _statements(policy: Document) -> Sequence[Mapping[str, Any]]:
    if policy.get("Version") != "2012-10-17" or policy.keys() - {"Version", "Id", "Statement"}:
        raise UnjudgedError(f"a policy of version {policy.get('Version')!r} with {sorted(policy)} is not known here")
    statements = policy["Statement"]
    return [statements] if isinstance(statements, Mapping) else statements


def _read(statement: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``statement`` where it is one that is understood."""
    where = f"statement {statement.get('Sid', '(without Sid)')!r}"
    if unknown := sorted(statement.keys() - _ELEMENTS):
        raise UnjudgedError(f"{where} has {', '.join(unknown)}, which is not known here")
    if statement.get("Effect") not in {"Allow", "Deny"}:
        raise UnjudgedError(f"{where} has no Effect of Allow or Deny")
    if ("Action" in statement) == ("NotAction" in statement):
        raise UnjudgedError(f"{where} must have one of Action and NotAction")
    named = [name for name in ("Resource", "NotResource") if name in statement]
    if len(named) > 1 or bool(named) == ("Principal" in statement):
        raise UnjudgedError(f"{where} must have one of Resource, NotResource, and Principal (of a trust policy)")
    return statement


def _applies(statement: Mapping[str, Any], request: Request) -> bool:
    if not _names(statement, "Action", lambda pattern: like(pattern.lower(), request.action.lower())):
        return False
    if "Principal" in statement:
        if not _is_principal(statement["Principal"], request.principal):
            return False
    elif not _names(statement, "Resource", lambda pattern: _is_resource(pattern, request)):
        return False
    held = [
        _holds(operator, key, _listed(wanted), request)
        for operator, keys in statement.get("Condition", {}).items()
        for key, wanted in keys.items()
    ]
    return all(held)  # of a list: an unknown one raises even where another does not hold


def _names(statement: Mapping[str, Any], element: str, matches: Callable[[str], bool]) -> bool:
    if f"Not{element}" in statement:
        return not any(matches(pattern) for pattern in _listed(statement[f"Not{element}"]))
    return any(matches(pattern) for pattern in _listed(statement[element]))


def _is_principal(wanted: Any, principal: Mapping[str, str]) -> bool:
    if wanted == "*":
        return True
    if not isinstance(wanted, Mapping):
        raise UnjudgedError(f"the Principal {wanted!r} is not known here")
    return any(value in _listed(wanted[kind]) for kind, value in principal.items() if kind in wanted)


def _is_resource(pattern: str, request: Request) -> bool:
    if pattern == "*":
        return True
    return arn_like(_filled(pattern, request), request.resource)


def _holds(operator: str, key: str, wanted: Sequence[str], request: Request) -> bool:
    values = request.values(key)
    if operator == "Null":
        return any((text.lower() == "true") == (not values) for text in wanted)
    quantifier, _, name = operator.rpartition(":")
    base = name.removesuffix("IfExists")
    if base not in _OPERATORS or quantifier not in {"", "ForAllValues", "ForAnyValue"}:
        raise UnjudgedError(f"the condition operator {operator} is not known here")
    if base != name and not values:
        return True
    fits, negated = _OPERATORS[base]
    patterns = [_filled(text, request) for text in wanted]
    results = [any(fits(pattern, value) for pattern in patterns) != negated for value in values]
    if quantifier == "ForAllValues":
        return all(results)
    if quantifier == "ForAnyValue":
        return any(results)
    if len(values) > 1:
        raise UnjudgedError(f"{key} has several values, so {operator} needs ForAllValues or ForAnyValue")
    return results[0] if results else negated  # an absent key fits nothing, so it satisfies the opposite


#: ``${key}``, and the three characters that can only be written so.
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
#: They travel as characters of Unicode's private use area, so that no wildcard comes of them.
_LITERAL: Final = {"*": "\ue000", "?": "\ue001", "$": "$"}


def _filled(pattern: str, request: Request) -> str:
    """Return ``pattern`` with its variables filled in; wildcards of their values are plain text."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name in _LITERAL:
            return _LITERAL[name]
        if "," in name:
            raise UnjudgedError(f"a default value of the policy variable {name!r} is not known here")
        values = request.values(name)
        if len(values) != 1:
            raise UnjudgedError(f"the policy variable {name!r} has {len(values)} values")
        return re.sub(r"[*?]", lambda one: _LITERAL[one[0]], values[0])

    return _VARIABLE.sub(value, pattern)


def like(pattern: str, text: str) -> bool:
    """Whether ``text`` fits ``pattern``, in which ``*`` is any text and ``?`` any character."""
    return _compiled(pattern).fullmatch(text) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = {"*": ".*", "?": ".", **{_LITERAL[one]: re.escape(one) for one in "*?"}}
    return re.compile("".join(parts.get(one, re.escape(one)) for one in pattern), re.DOTALL)


#: ``arn:partition:service:region:account:resource``; the last part may hold colons of its own.
_ARN_PARTS: Final = 6


def arn_like(pattern: str, arn: str) -> bool:
    """Whether ``arn`` fits ``pattern`` part by part: a wildcard does not reach over the colons of the first five.

    Raises:
        UnjudgedError: the pattern is no ARN.
    """
    wanted, parts = pattern.split(":", _ARN_PARTS - 1), arn.split(":", _ARN_PARTS - 1)
    if len(wanted) != _ARN_PARTS:
        raise UnjudgedError(f"{pattern!r} is not a pattern of ARNs as this evaluator knows them")
    return len(parts) == _ARN_PARTS and all(like(one, part) for one, part in zip(wanted, parts, strict=True))


def _listed(value: Any) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


#: Condition operator -> whether one value fits one wanted one, and whether it says the opposite.
_OPERATORS: Mapping[str, tuple[Callable[[str, str], bool], bool]] = {
    "StringEquals": (lambda wanted, value: wanted == value, False),
    "StringNotEquals": (lambda wanted, value: wanted == value, True),
    "StringLike": (like, False),
    "StringNotLike": (like, True),
    "ArnLike": (arn_like, False),
    "ArnEquals": (arn_like, False),  # "behave identically" (IAM user guide)
    "ArnNotLike": (arn_like, True),
    "Bool": (lambda wanted, value: wanted.lower() == value.lower(), False),
}
