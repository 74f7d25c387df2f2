"""Client tokens: the second call of two alike makes nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from moto.ec2.exceptions import EC2ClientError

from splitbake.local.tokens import Tokens


def call(region="us-east-1", **params):
    backend = SimpleNamespace(account_id="123456789012", region_name=region)
    return SimpleNamespace(ec2_backend=backend, params=params, _get_param=params.get)


def test_a_token_makes_one_thing_in_one_region():
    tokens, made = Tokens(), iter(range(10))

    def once(**params):
        return tokens.once(lambda: next(made), call(**params))

    assert [once(ClientToken="a"), once(ClientToken="b"), once(ClientToken="a")] == [0, 1, 0]
    assert once(ClientToken="a", region="eu-west-1") == 2
    assert [once(), once()] == [3, 4], "no token, no promise"
    with pytest.raises(EC2ClientError) as problem:
        once(ClientToken="a", Size=2)
    assert problem.value.code == "IdempotentParameterMismatch"


def test_a_call_that_failed_can_come_again():
    tokens = Tokens()

    def fail():
        raise EC2ClientError("InvalidParameterValue", "no")

    with pytest.raises(EC2ClientError, match="no"):
        tokens.once(fail, call(ClientToken="a"))
    assert tokens.once(lambda: "made", call(ClientToken="a")) == "made"
