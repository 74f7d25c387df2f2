#!/bin/sh
# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
# Puts the model files in place (fetch.py tells how) and the notes of what this AMI holds: one for people and tools, one
# below the root for the entry check of images (the contract).
# The list of models holds presigned URLs: it is removed when this ends, whatever happens.
set -eu

root=/opt/dl-models
mode=0755
inputs=/var/tmp/splitbake

fail() {
    echo "splitbake: $1: $2" >&2
    exit 1
}

trap 'rm -rf "$inputs/models.tsv" "$inputs/files"' EXIT
trap 'exit 1' HUP INT TERM

command -v python3 >/dev/null || fail tool 'the base AMI has no python3, which fetches the models'
python3 -c 'import sys; sys.exit(sys.version_info < (3, 7))' ||
    fail tool "$(python3 --version 2>&1) of the base AMI is too old to fetch the models: 3.7 is needed"

# Owner and mode of all that is there are set below; a killed run has left what it fetched.
if [ -e "$root" ] && { [ ! -d "$root" ] || [ -n "$(ls -A -I .splitbake-fetch "$root")" ]; }; then
    fail folder "$root has content already, whose owner and mode would change"
fi

# Settings of Python in the environment, and of the locale, have no say.
python3 -I -X utf8 "$inputs/fetch.py" "$inputs/models.tsv" "$root"

install -d "$root/.splitbake"
install "$inputs/contract" "$root/.splitbake/contract"
chown -R root:root "$root"
chmod -R "$mode" "$root"
install -d -m 0755 /etc/splitbake
install -m 0644 -o root -g root "$inputs/ami.json" /etc/splitbake/ami.json
