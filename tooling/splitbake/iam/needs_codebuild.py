"""What calls of CodeBuild need, and those on the log of a build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from splitbake.iam.evaluate import Request
from splitbake.iam.needs import Asked, Row, without_resource

_SERVICE: Final = "codebuild.amazonaws.com"


def _arn(asked: Asked, name: str) -> str:
    return name if name.startswith("arn:") else asked.arn("codebuild", f"project/{name}")


def _on_projects(action: str, path: str) -> Row:
    """Return the row of an action on projects, with the tags that they get."""

    def row(asked: Asked) -> Iterator[Request]:
        gets = {str(tag["key"]): str(tag.get("value", "")) for tag in asked.get("tags")}
        for name in asked.get(path):
            # Only what sets tags knows them.
            tagging = gets if action in {"CreateProject", "UpdateProject"} else None
            yield asked.tagged(f"codebuild:{action}", _arn(asked, str(name)), gets=tagging)
        if role := asked.one("serviceRoleOverride"):
            yield asked.pass_role(role, _SERVICE)

    return row


def _on_builds(action: str, path: str) -> Row:
    """Return the row of an action on builds, which is one on their projects: ``project:number`` or an ARN."""

    def row(asked: Asked) -> Iterator[Request]:
        names = {str(name).rpartition(":build/")[2].partition(":")[0] for name in asked.get(path)}
        for name in sorted(names):
            yield asked.request(f"codebuild:{action}", _arn(asked, name))

    return row


def _group(asked: Asked) -> str:
    return asked.arn("logs", f"log-group:{asked.one('logGroupName')}")


def _create_log_group(asked: Asked) -> Iterator[Request]:
    given: Mapping[str, Any] = next(iter(asked.get("tags")), {})
    gets = {key: str(value) for key, value in given.items()}
    yield asked.tagged("logs:CreateLogGroup", _group(asked), gets=gets)
    if gets:  # "you must have either the logs:TagResource or logs:TagLogGroup permission" (API of CreateLogGroup)
        yield asked.tagged("logs:TagResource", _group(asked), gets=gets)


def _on_stream(action: str) -> Row:
    def row(asked: Asked) -> Iterator[Request]:
        yield asked.request(f"logs:{action}", f"{_group(asked)}:log-stream:{asked.one('logStreamName')}")

    return row


ROWS: Final[Mapping[str, Row]] = {
    "codebuild:BatchGetProjects": _on_projects("BatchGetProjects", "names"),
    "codebuild:CreateProject": _on_projects("CreateProject", "name"),
    "codebuild:UpdateProject": _on_projects("UpdateProject", "name"),
    "codebuild:StartBuild": _on_projects("StartBuild", "projectName"),
    "codebuild:StopBuild": _on_builds("StopBuild", "id"),
    "codebuild:BatchGetBuilds": _on_builds("BatchGetBuilds", "ids"),
    "logs:CreateLogGroup": _create_log_group,
    "logs:DescribeLogGroups": without_resource("logs:DescribeLogGroups"),
    "logs:PutRetentionPolicy": lambda asked: [asked.request("logs:PutRetentionPolicy", _group(asked))],
    **{f"logs:{action}": _on_stream(action) for action in ("CreateLogStream", "PutLogEvents")},
}
