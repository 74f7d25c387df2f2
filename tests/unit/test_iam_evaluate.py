"""What policies say of a request, by the rules of AWS's own documentation."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from splitbake.iam.evaluate import Request, UnjudgedError, arn_like, evaluate, like, matching

IMAGE = "arn:aws:ec2:us-east-1::image/ami-1"


def policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(**more: Any) -> dict[str, Any]:
    return {"Sid": "A", "Effect": "Allow", "Action": "ec2:RunInstances", "Resource": "*", **more}


def deny(**more: Any) -> dict[str, Any]:
    return allow(Effect="Deny", Sid="D", **more)


def request(**more: Any) -> Request:
    return Request(**{"action": "ec2:RunInstances", "resource": IMAGE, **more})


def verdict(statement: dict[str, Any], **more: Any) -> str:
    return evaluate([policy(statement)], request(**more))


def test_what_nothing_allows_is_not_allowed():
    assert evaluate([], request()) == "not allowed"
    assert evaluate([policy()], request()) == "not allowed"
    assert evaluate([policy(allow(Action="ec2:StopInstances"))], request()) == "not allowed"


def test_one_statement_of_any_policy_allows_and_is_named():
    policies = [policy(allow(Action="ec2:StopInstances")), policy(allow(Sid="B"))]
    assert evaluate(policies, request()) == "allowed"
    assert matching(policies, request()) == ["B"]


def test_a_single_statement_needs_no_list():
    assert evaluate([{"Version": "2012-10-17", "Statement": allow()}], request()) == "allowed"


def test_a_deny_wins_wherever_it_stands():
    for policies in ([policy(allow(), deny())], [policy(deny()), policy(allow())]):
        assert evaluate(policies, request()) == "explicitly denied"


def test_a_boundary_allows_nothing_by_itself_and_can_refuse():
    assert evaluate([], request(), boundary=policy(allow())) == "not allowed"
    assert evaluate([policy(allow())], request(), boundary=policy(allow())) == "allowed"
    assert evaluate([policy(allow())], request(), boundary=policy()) == "not allowed"
    assert evaluate([policy(allow())], request(), boundary=policy(deny())) == "explicitly denied"


@pytest.mark.parametrize("pattern", ["ec2:runinstances", "EC2:Run*", "ec2:???Instances", "*", "ec2:*"])
def test_actions_match_in_any_case_and_with_wildcards(pattern):
    assert verdict(allow(Action=[pattern])) == "allowed"


@pytest.mark.parametrize("pattern", ["ec2:RunInstance", "s3:*", "ec2:RunInstances?", "RunInstances"])
def test_other_actions_do_not(pattern):
    assert verdict(allow(Action=pattern)) == "not allowed"


def test_the_opposite_of_actions_and_resources():
    statement = allow(NotAction=["ec2:Stop*", "s3:*"])
    del statement["Action"]
    assert verdict(statement) == "allowed"
    assert verdict(statement, action="s3:GetObject") == "not allowed"
    statement = allow(NotResource="arn:aws:ec2:us-east-1::image/*")
    del statement["Resource"]
    assert verdict(statement) == "not allowed"
    assert verdict(statement, resource="arn:aws:ec2:us-east-1:1:subnet/subnet-1") == "allowed"


@pytest.mark.parametrize(
    ("pattern", "arn", "fits"),
    [
        ("arn:aws:ec2:us-east-1::image/*", IMAGE, True),
        ("arn:aws:ec2:*::image/ami-?", IMAGE, True),
        ("arn:aws:ec2:us-east-1:*:image/*", IMAGE, True),
        ("arn:aws:ec2:*:image/*", IMAGE, None),  # a wildcard does not stand for several parts
        ("arn:aws:ec2:us-east-1:123456789012:image/*", IMAGE, False),
        ("arn:aws:s3:::bucket", "arn:aws:s3:::bucket/key", False),
        ("arn:aws:s3:::bucket/*", "arn:aws:s3:::bucket/a/b:c", True),
        ("arn:aws:batch:r:1:job-definition/name:*", "arn:aws:batch:r:1:job-definition/name:7", True),
        ("arn:aws:batch:r:1:job-definition/name:*", "arn:aws:batch:r:1:job-definition/names", False),
    ],
)
def test_resources_match_part_by_part(pattern, arn, fits):
    if fits is None:
        with pytest.raises(UnjudgedError, match="not a pattern of ARNs"):
            arn_like(pattern, arn)
    else:
        assert arn_like(pattern, arn) == fits


texts = st.text("ab*?[]{}$.\\\n^", max_size=8)


@given(pattern=st.text("ab*?.^$\n", max_size=6), text=st.text("ab.^$\n", max_size=8))
def test_wildcards_match_as_those_of_a_shell(pattern, text):
    assert like(pattern, text) == fnmatchcase(text, pattern)


@given(text=texts)
def test_every_text_fits_a_star_and_itself_where_it_has_no_wildcard(text):
    assert like("*", text)
    assume(not set("*?") & set(text))
    assert like(text, text)


@given(value=texts, other=texts)
def test_wildcards_in_the_value_of_a_variable_are_plain_text(value, other):
    assume(value != "")
    statement = allow(Condition={"StringLike": {"aws:SourceIdentity": "${aws:PrincipalTag/team}"}})

    def judged(source: str) -> str:
        keys = {"aws:sourceidentity": (source,)}
        return verdict(statement, context=keys, tags={"aws:principaltag/": {"team": value}})

    assert judged(value) == "allowed"
    assert judged(other) == ("allowed" if other == value else "not allowed")


@pytest.mark.parametrize(("written", "means"), [("${*}", "*"), ("${?}", "?"), ("${$}", "$")])
def test_the_three_characters_that_can_be_escaped(written, means):
    statement = allow(Resource=f"arn:aws:s3:::b/{written}")
    assert verdict(statement, resource=f"arn:aws:s3:::b/{means}") == "allowed"
    assert verdict(statement, resource="arn:aws:s3:::b/x") == "not allowed"


def judge(operator: str, wanted: Any, *values: str) -> str:
    statement = allow(Condition={operator: {"ec2:Owner": wanted}})
    return verdict(statement, context={"ec2:owner": values})


@pytest.mark.parametrize(
    ("operator", "wanted", "values", "holds"),
    [
        ("StringEquals", "amazon", ["amazon"], True),
        ("StringEquals", ["self", "amazon"], ["amazon"], True),
        ("StringEquals", "amazon", ["Amazon"], False),
        ("StringEquals", "ama*", ["amazon"], False),
        ("StringEquals", "amazon", [], False),
        ("StringEqualsIfExists", "amazon", [], True),
        ("StringEqualsIfExists", "amazon", ["other"], False),
        ("StringNotEquals", "amazon", ["other"], True),
        ("StringNotEquals", ["amazon", "other"], ["other"], False),
        ("StringNotEquals", "amazon", [], True),
        ("StringLike", "ama*", ["amazon"], True),
        ("StringNotLike", "ama*", ["amazon"], False),
        ("ArnLike", "arn:aws:iam::1:role/*", ["arn:aws:iam::1:role/r"], True),
        ("ArnEquals", "arn:aws:iam::1:role/*", ["arn:aws:iam::1:role/r"], True),
        ("ArnNotLike", "arn:aws:iam::1:role/*", ["arn:aws:iam::2:role/r"], True),
        ("Bool", "true", ["True"], True),
        ("Bool", "true", ["false"], False),
        ("Null", "true", [], True),
        ("Null", "true", ["x"], False),
        ("Null", "false", ["x"], True),
        ("ForAllValues:StringEquals", ["a", "b"], ["a", "b"], True),
        ("ForAllValues:StringEquals", ["a", "b"], ["a", "c"], False),
        ("ForAllValues:StringEquals", ["a"], [], True),
        ("ForAnyValue:StringEquals", ["a"], ["a", "c"], True),
        ("ForAnyValue:StringEquals", ["a"], [], False),
        ("ForAnyValue:StringLike", ["a*"], ["c", "ab"], True),
    ],
)
def test_condition_operators(operator, wanted, values, holds):
    assert judge(operator, wanted, *values) == ("allowed" if holds else "not allowed")


def test_all_conditions_must_hold():
    both = {"StringEquals": {"ec2:Owner": "amazon", "ec2:Region": "us-east-1"}}
    keys = {"ec2:owner": ("amazon",), "ec2:region": ("us-east-1",)}
    assert verdict(allow(Condition=both), context=keys) == "allowed"
    assert verdict(allow(Condition=both), context={**keys, "ec2:region": ("us-east-2",)}) == "not allowed"


def test_tags_are_looked_up_by_their_own_name_and_case():
    statement = allow(Condition={"StringEquals": {"aws:resourceTag/Team": "a"}})
    assert verdict(statement, tags={"aws:resourcetag/": {"Team": "a"}}) == "allowed"
    assert verdict(statement, tags={"aws:resourcetag/": {"team": "a"}}) == "not allowed"
    assert verdict(statement, tags={"aws:resourcetag/": {}}) == "not allowed"


def test_a_trust_policy_is_for_its_principal():
    statement = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Service": ["ec2.amazonaws.com"]},
    }
    asked = {"action": "sts:AssumeRole", "resource": "*"}
    assert verdict(statement, **asked, principal={"Service": "ec2.amazonaws.com"}) == "allowed"
    assert verdict(statement, **asked, principal={"Service": "batch.amazonaws.com"}) == "not allowed"
    assert verdict(statement, **asked, principal={"AWS": "ec2.amazonaws.com"}) == "not allowed"
    assert verdict({**statement, "Principal": "*"}, **asked, principal={"AWS": "x"}) == "allowed"


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"Version": "2008-10-17", "Statement": []}, "2008-10-17"),
        ({"Statement": []}, "version None"),
        ({"Version": "2012-10-17", "Statement": [], "Extra": 1}, "Extra"),
        (policy(allow(Until="tomorrow")), "Until"),
        (policy(allow(Effect="Perhaps")), "no Effect"),
        (policy(allow(NotAction="s3:*")), "one of Action and NotAction"),
        (policy(allow(NotResource="*")), "one of Resource"),
        (policy(allow(Principal="*")), "one of Resource"),
        (policy(allow(Condition={"NumericLessThan": {"ec2:Owner": "1"}})), "NumericLessThan"),
        (policy(allow(Condition={"ForSomeValues:StringEquals": {"ec2:Owner": "1"}})), "ForSomeValues"),
        (policy(allow(Condition={"StringEquals": {"aws:SourceIp": "::1"}})), "aws:SourceIp was not derived"),
        (policy(allow(Condition={"StringEquals": {"aws:ResourceTag/a": "b"}})), "aws:ResourceTag/a was not derived"),
        (policy(allow(Resource="arn:aws:s3:::${aws:username}")), "aws:username was not derived"),
        (policy(allow(Resource="arn:aws:s3:::${ec2:Owner, 'x'}")), "default value"),
        (policy(allow(Resource="arn:aws:s3:::${ec2:Vpc}")), "has 0 values"),
        (policy(allow(Resource="bucket")), "not a pattern of ARNs"),
    ],
)
def test_what_is_unknown_raises_and_is_never_allowed(document, reason):
    with pytest.raises(UnjudgedError, match=reason):
        evaluate([document], request(context={"ec2:owner": ("amazon",), "ec2:vpc": ()}))


def test_several_values_need_a_quantifier():
    with pytest.raises(UnjudgedError, match="several values"):
        judge("StringEquals", "a", "a", "b")


def test_an_unknown_condition_raises_even_where_another_does_not_hold():
    statement = allow(Condition={"StringEquals": {"ec2:Owner": "x"}, "DateLessThan": {"ec2:Owner": "x"}})
    with pytest.raises(UnjudgedError, match="DateLessThan"):
        verdict(statement, context={"ec2:owner": ("amazon",)})


actions = st.sampled_from(["ec2:RunInstances", "ec2:*", "s3:GetObject", "*"])
resources = st.sampled_from(["*", IMAGE, "arn:aws:ec2:*::image/*", "arn:aws:s3:::b/*"])
conditions = st.dictionaries(
    st.sampled_from(["StringEquals", "StringNotEquals", "StringLike"]),
    st.dictionaries(st.sampled_from(["ec2:Owner", "ec2:Vpc"]), st.sampled_from(["amazon", "a*", "self"]), max_size=2),
    max_size=2,
)
statements = st.builds(
    lambda effect, action, resource, condition: {
        "Effect": effect,
        "Action": action,
        "Resource": resource,
        "Condition": condition,
    },
    st.sampled_from(["Allow", "Deny"]),
    actions,
    resources,
    conditions,
)
documents = st.lists(statements, max_size=4).map(lambda found: policy(*found))


@given(before=documents, more=documents)
def test_policies_only_add_and_a_deny_only_takes_away(before, more):
    asked = request(context={"ec2:owner": ("amazon",), "ec2:vpc": ()})
    alone, both = evaluate([before], asked), evaluate([before, more], asked)
    denies = evaluate([more], asked) == "explicitly denied"
    if alone == "allowed":
        assert both == ("explicitly denied" if denies else "allowed")
    if alone == "explicitly denied":
        assert both == "explicitly denied"
    assert evaluate([before], asked, boundary=more) in ("allowed", "not allowed", "explicitly denied")
    if evaluate([before], asked, boundary=more) == "allowed":
        assert alone == "allowed"


@given(document=documents)
def test_the_order_of_statements_does_not_matter(document):
    asked = request(context={"ec2:owner": ("amazon",), "ec2:vpc": ()})
    turned = {**document, "Statement": document["Statement"][::-1]}
    assert evaluate([document], asked) == evaluate([turned], asked)
