"""What a build of CodeBuild runs: commands that never change, and the values that they are given.

The commands hold no value, so nothing of a manifest can become shell or YAML. Values are environment variables, which
the commands quote; only two lists of names, which have no other characters than names have, are split.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Final

import yaml

from splitbake import contract
from splitbake.bake import weights
from splitbake.bake.builders import DOCKERFILE, Order
from splitbake.bake.codebuild_context import CA, CONTEXT
from splitbake.errors import BuildError
from splitbake.generate import dockerfile

#: Variables that a build hands back.
DIGEST: Final = "DIGEST"
SIZE: Final = "SIZE"
COMPRESSED: Final = "COMPRESSED"
DOCKER: Final = "DOCKER"
#: Begins the lines by which a build says what it has weighed: kind, bytes, what.
WEIGHED: Final = re.compile(r"splitbake:(?P<kind>layer|distribution|image|compressed) (?P<size>\d+) (?P<what>.*)")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Seconds until the Docker Engine answers.
_ENGINE_SECONDS: Final = 60

_NEEDED = "aws awk cat docker gzip head mktemp rm sed sleep sort tail wc"
_REQUIRE = f"""\
missing=
for program in {_NEEDED}; do
  command -v "$program" > /dev/null || missing="$missing $program"
done
if [ -n "$missing" ]; then
  echo "the build environment lacks:$missing"
fi
[ -z "$missing" ]
"""
# In an image of one's own nobody starts it; in those of AWS it runs.
_DOCKER = f"""\
if ! docker info > /dev/null 2>&1; then
  said=$(mktemp)
  nohup dockerd > "$said" 2>&1 < /dev/null &
  left={_ENGINE_SECONDS}
  until docker info > /dev/null 2>&1 || [ "$left" = 0 ]; do
    left=$((left - 1))
    sleep 1
  done
  if [ "$left" = 0 ]; then
    echo "no Docker Engine answers in the build environment; dockerd says:"
    tail -n 20 "$said"
  fi
fi
{DOCKER}=$(docker version --format '{{{{.Client.Version}}}} {{{{.Server.Version}}}}') && export {DOCKER}
"""
_LOGIN = """\
aws ecr get-login-password --region "$SPLITBAKE_REGION" |
  docker login --username AWS --password-stdin "$SPLITBAKE_REGISTRY"
"""
# awk hands a variable over as it is, by a name that is data: no eval, and no newline lost ("%s." keeps the last ones).
_BUILD = f"""\
(
  set -eu
  umask 077
  secrets=$(mktemp -d)
  trap 'rm -rf "$secrets"' EXIT
  set -- --file {CONTEXT}/{DOCKERFILE} --platform "$SPLITBAKE_PLATFORM" --progress plain --tag "$SPLITBAKE_IMAGE"
  for name in ${{SPLITBAKE_ARGUMENTS-}}; do
    value=$(awk 'BEGIN {{ printf "%s.", ENVIRON["ARGUMENT_" ARGV[1]] }}' "$name")
    set -- "$@" --build-arg "$name=${{value%.}}"
  done
  for name in ${{SPLITBAKE_SECRETS-}}; do
    awk 'BEGIN {{ printf "%s", ENVIRON["SECRET_" ARGV[1]] }}' "$name" > "$secrets/$name"
    set -- "$@" --secret "id=$name,src=$secrets/$name"
  done
  if [ -f {CA} ]; then
    set -- "$@" --secret id={dockerfile.CA},src={CA}
  fi
  if [ -n "${{SPLITBAKE_NETWORK-}}" ]; then
    set -- "$@" --network "$SPLITBAKE_NETWORK"
  fi
  DOCKER_BUILDKIT=1 BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build "$@" {CONTEXT}
)
"""
_WEIGH = f"""\
docker history --no-trunc --human=false --format '{weights.LAYERS}' "$SPLITBAKE_IMAGE" |
  sort -rn | head -n {weights.KEPT} | sed 's/^/splitbake:layer /'
docker run --rm --network=none --read-only --entrypoint=python3 "$SPLITBAKE_IMAGE" \\
  -c {shlex.quote(weights.DISTRIBUTIONS)} "$SPLITBAKE_SITE" |
  sort -rn | head -n {weights.KEPT} | sed 's/^/splitbake:distribution /'
{SIZE}=$(docker image inspect --format '{{{{.Size}}}}' "$SPLITBAKE_IMAGE") && export {SIZE}
"""
_JUDGE = f"""\
echo "splitbake:image ${SIZE} of $SPLITBAKE_BUDGET bytes"
[ "${SIZE}" -le "$SPLITBAKE_BUDGET" ]
"""
# About what the registry gets, which has each layer with gzip. A pipe hides that its first program failed, so that one
# removes what has to be there.
_JUDGE_COMPRESSED = f"""\
if [ -n "${{SPLITBAKE_COMPRESSED_BUDGET-}}" ]; then
  whole=$(mktemp)
  {COMPRESSED}=$({{ docker save "$SPLITBAKE_IMAGE" || rm -f "$whole"; }} | gzip -c | wc -c)
  {COMPRESSED}=$(({COMPRESSED})) && export {COMPRESSED}
  echo "splitbake:compressed ${COMPRESSED} of $SPLITBAKE_COMPRESSED_BUDGET bytes"
  rm "$whole" && [ "${COMPRESSED}" -le "$SPLITBAKE_COMPRESSED_BUDGET" ]
fi
"""
# What this very push says: the image may have other digests in the repository, of other compressions.
_PUSH = f"""\
if [ "$CODEBUILD_BUILD_SUCCEEDING" = 1 ]; then
  said=$(mktemp)
  docker push "$SPLITBAKE_IMAGE" > "$said" 2>&1
  pushed=$?
  cat "$said"
  {DIGEST}=$(sed -n 's/.*digest: \\(sha256:[0-9a-f]\\{{64\\}}\\) size: .*/\\1/p' "$said" | tail -n 1)
  export {DIGEST}
  rm -f "$said"
  [ "$pushed" = 0 ] && [ -n "${DIGEST}" ]
fi
"""
_PHASES: Final = {
    "pre_build": (_REQUIRE, _DOCKER, _LOGIN),
    "build": (_BUILD, _WEIGH, _JUDGE, _JUDGE_COMPRESSED),
    # It runs after a failed build too.
    "post_build": (_PUSH,),
}
#: Lines of the commands: CodeBuild repeats a command in the log before it runs it, and again where it fails.
ECHOES: Final = frozenset(
    line.strip() for commands in _PHASES.values() for command in commands for line in command.splitlines()
)


def text() -> str:
    """Return the buildspec."""
    structure = {
        "version": 0.2,
        "env": {"exported-variables": [DIGEST, SIZE, COMPRESSED, DOCKER]},
        "phases": {name: {"commands": [one.strip() for one in commands]} for name, commands in _PHASES.items()},
    }
    return yaml.safe_dump(structure, sort_keys=False, width=1000)


def variables(order: Order, secrets: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the environment of a build.

    Args:
        order: what is wanted.
        secrets: build secret -> where AWS Secrets Manager has it.

    Raises:
        BuildError: a name is none.
    """
    plain = {
        "SPLITBAKE_REGION": order.cloud.environment.region,
        "SPLITBAKE_REGISTRY": order.repository.partition("/")[0],
        "SPLITBAKE_IMAGE": order.name,
        "SPLITBAKE_PLATFORM": order.platform,
        "SPLITBAKE_SITE": contract.SITE,
        "SPLITBAKE_BUDGET": str(order.budget),
        "SPLITBAKE_COMPRESSED_BUDGET": "" if order.compressed_budget is None else str(order.compressed_budget),
        "SPLITBAKE_NETWORK": order.network or "",
        "SPLITBAKE_ARGUMENTS": _names(order.arguments),
        "SPLITBAKE_SECRETS": _names(secrets),
        **{f"ARGUMENT_{name}": value for name, value in order.arguments.items()},
    }
    # One that is empty is left out: it reads the same, and nothing says that CodeBuild takes it.
    return [
        *({"name": name, "value": value, "type": "PLAINTEXT"} for name, value in plain.items() if value),
        *({"name": f"SECRET_{name}", "value": where, "type": "SECRETS_MANAGER"} for name, where in secrets.items()),
    ]


def _names(given: Mapping[str, str]) -> str:
    for name in given:
        if not _NAME.fullmatch(name):
            raise BuildError(f"{name!r} is no name of a build argument or secret", hint="letters, digits and _ only")
    return " ".join(given)
