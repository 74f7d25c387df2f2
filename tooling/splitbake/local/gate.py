"""Behind the guard: what a role may do is judged by its policies, and every call is written down.

The account's own key may do everything, as the root of an account; its calls are only noted, after the answer. Roles
are judged by our evaluator over the policies in moto's books, with resources and conditions: moto's own check knows
neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from splitbake.iam import evaluate, needs
from splitbake.iam.calls import Call
from splitbake.iam.evaluate import Request, UnjudgedError
from splitbake.local import denials
from splitbake.local.books import Books
from splitbake.local.calls import CALLER, Caller, Environ, Recorder, decode, now, snapshot


@dataclass(frozen=True)
class Gate:
    """A WSGI application in front of another one; the guard has written down who calls.

    Attributes:
        app: what answers the calls that may be made.
        recorder: what takes all of them.
    """

    app: Callable[..., Iterable[bytes]]
    recorder: Recorder

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Pass a call on, or refuse it as AWS does."""
        caller: Caller = environ[CALLER]
        seen = snapshot(environ)
        if not caller.role:
            return self._answer(environ, start_response, lambda: _described(decode(seen)))
        call = decode(seen)
        books = Books(call.account, call.region)
        requests, refusal = judge(call, books, caller.role)
        call = replace(call, actions=tuple((one.action, one.resource) for one in requests), error=refusal)
        if not refusal:
            return self._answer(environ, start_response, lambda: call)
        status, headers, body = denials.answer(call)
        if region := books.region_of_bucket(call.parameters.get("Bucket", "")):
            headers.append(("x-amz-bucket-region", region))
        self.recorder.put(lambda: replace(call, time=now(), status=int(status.partition(" ")[0])))
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(
        self, environ: Environ, start_response: Callable[..., Any], make: Callable[[], Call]
    ) -> Iterable[bytes]:
        status = "500"

        def started(text: str, headers: Any, *rest: Any) -> Any:
            nonlocal status
            status = text
            return start_response(text, headers, *rest)

        try:
            return self.app(environ, started)
        finally:
            moment = now()
            self.recorder.put(lambda: replace(make(), time=moment, status=int(status.partition(" ")[0])))


def judge(call: Call, books: Books, role: str) -> tuple[list[Request], str]:
    """Return what ``call`` needs of its role, and why it is refused; empty where it may be made."""
    try:
        requests = needs.needs(call, books)
        policies, boundary = books.policies(role)
        for one in requests:
            verdict = evaluate.evaluate(policies, one, boundary=boundary)
            if verdict != "allowed":
                within = boundary is not None and evaluate.evaluate(policies, one) == "allowed"
                return requests, denials.message(call, one, verdict, "permissions boundary" if within else "")
    except UnjudgedError as problem:
        return [], denials.unjudged(call, problem.message)
    return requests, ""


def _described(call: Call) -> Call:
    """Return ``call`` with the actions that it would need of a role, as far as they are known."""
    try:
        requests = needs.needs(call, Books(call.account, call.region))
    except UnjudgedError:
        return call
    return replace(call, actions=tuple((one.action, one.resource) for one in requests))
