"""Client tokens: a call that comes again with the token of an earlier one makes nothing new (EC2 user guide)."""

from __future__ import annotations

from threading import Lock
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses.amis import AmisResponse
from moto.ec2.responses.elastic_block_store import ElasticBlockStore
from moto.ec2.responses.launch_templates import LaunchTemplates

from splitbake.local.hooks import Hook, around


def install() -> None:
    """Hook the calls that honour a token, after everything else has hooked them; RunInstances sees to its own."""
    for owner, name in (
        (AmisResponse, "copy_image"),
        (ElasticBlockStore, "create_volume"),
        (LaunchTemplates, "create_launch_template"),
        (LaunchTemplates, "create_launch_template_version"),
    ):
        around(owner, name, Tokens().once)


class Tokens:
    """The answers of one call, by account, region and token."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str, str], tuple[str, ActionResult]] = {}
        self._lock = Lock()

    def once(self, proceed: Hook, response: Any) -> ActionResult:
        """Answer as the first time, one call after the other: the second may come while the first is at work.

        Raises:
            EC2ClientError: ``IdempotentParameterMismatch``: the token came with other parameters.
        """
        backend, token = response.ec2_backend, response._get_param("ClientToken")
        key, asked = (backend.account_id, backend.region_name, token), repr(response.params)
        with self._lock:
            before, answer = self._answers.get(key, (asked, None))
            if before != asked:
                raise mismatch()
            if answer is None:
                answer = proceed()
                if token:
                    self._answers[key] = asked, answer
            return answer


def mismatch() -> EC2ClientError:
    """Say in EC2's words that a token came with other parameters."""
    return EC2ClientError("IdempotentParameterMismatch", "The client token was used before with other parameters")
