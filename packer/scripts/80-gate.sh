#!/bin/sh
# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
# The gate before the snapshot: the checks of the AMI, on the builder, while it lives. Runs on the machine on which
# Packer runs; a finding ends the bake, and Packer terminates the builder.
# Reads the environment: SPLITBAKE_GATE is a folder of splitbake build; a bake that is started by hand has none.
set -eu

if [ -z "${SPLITBAKE_GATE:-}" ]; then
    echo 'splitbake: check: nothing is checked before the snapshot: this bake was not started by splitbake build'
    exit 0
fi
if [ ! -x "${SPLITBAKE_PYTHON:-}" ]; then
    echo "splitbake: gate: ${SPLITBAKE_PYTHON:-SPLITBAKE_PYTHON} is no Python that can be run" >&2
    exit 1
fi
# -P: the folder in which Packer was started is no place to look for modules.
exec "$SPLITBAKE_PYTHON" -P -m splitbake.verify.gate
