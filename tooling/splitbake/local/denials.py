"""How AWS says that a role may not do something: each protocol has its own form."""

from __future__ import annotations

import json
from typing import Final
from xml.sax.saxutils import escape

from splitbake.iam.calls import Call
from splitbake.iam.evaluate import Request, Verdict

#: HTTP status, headers, body.
Answer = tuple[str, list[tuple[str, str]], bytes]

#: Services whose operations are named in a header, and that answer in JSON; they say 400 (AWS JSON 1.1 protocol).
_JSON: Final = {"ssm", "ecr", "ecs", "logs"}
_REST_JSON: Final = {"batch"}


def message(call: Call, request: Request, verdict: Verdict, by: str = "") -> str:
    """Return AWS's sentence about a request that is not allowed ("Access denied error messages", IAM user guide).

    ``by``: the kind of policy that did not allow it; identity-based policies unless it is given.
    """
    resource = f'"{request.resource}"' if call.service == "s3" else request.resource
    if verdict == "explicitly denied":
        why = "with an explicit deny in an identity-based policy"
    else:
        kind = by or "identity-based policy"
        why = f"because no {kind} allows the {request.action} action"
    return f"User: {call.principal} is not authorized to perform: {request.action} on resource: {resource} {why}"


def unjudged(call: Call, reason: str) -> str:
    """Return the sentence for a call that nobody can judge; it is refused, as nothing proves that it may be made."""
    return (
        f"User: {call.principal} is not authorized to perform: {call.name} because the local cloud cannot judge it "
        f"({reason})"
    )


def answer(call: Call) -> Answer:
    """Return the answer to ``call``, which is refused because of its ``error``."""
    if call.service in _REST_JSON:
        headers = [("Content-Type", "application/json"), ("x-amzn-ErrorType", "AccessDeniedException")]
        return "403 Forbidden", headers, json.dumps({"message": call.error}).encode()
    if call.service in _JSON:
        body = {"__type": "AccessDeniedException", "message": call.error, "Message": call.error}
        return "400 Bad Request", [("Content-Type", "application/x-amz-json-1.1")], json.dumps(body).encode()
    return "403 Forbidden", [("Content-Type", "text/xml")], _xml(call).encode()


def _xml(call: Call) -> str:
    text = escape(call.error)
    start = "<?xml version='1.0' encoding='UTF-8'?>"
    if call.service == "s3":
        return f"{start}<Error><Code>AccessDenied</Code><Message>{text}</Message></Error>"
    if call.service == "ec2":
        told = f"You are not authorized to perform this operation. {text}"
        error = f"<Error><Code>UnauthorizedOperation</Code><Message>{told}</Message></Error>"
        return f"{start}<Response><Errors>{error}</Errors><RequestID>local</RequestID></Response>"
    error = f"<Error><Type>Sender</Type><Code>AccessDenied</Code><Message>{text}</Message></Error>"
    return f"{start}<ErrorResponse>{error}<RequestId>local</RequestId></ErrorResponse>"
