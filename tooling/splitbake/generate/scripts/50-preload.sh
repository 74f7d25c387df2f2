#!/bin/sh
# @mark@
# Pulls the images that every host has from the start, by digest.
# Reads preload.tsv, a reference on each line, and docker/config.json with logins: that is removed when this ends.
set -eu

inputs=/var/tmp/splitbake
list=$inputs/preload.tsv
logins=$inputs/docker

fail() {
    echo "splitbake: $1: $2" >&2
    exit 1
}

trap 'rm -rf "$logins"' EXIT
trap 'exit 1' HUP INT TERM

[ -s "$list" ] || exit 0
command -v docker >/dev/null || fail tool 'the base AMI has no docker, and ami.preload names images'
docker version >/dev/null 2>&1 || fail preload "Docker does not run on the builder: $(docker version 2>&1 | tail -n 1)"
install -d -m 0700 "$logins"
[ ! -e "$logins/config.json" ] || chmod 0600 "$logins/config.json"

while IFS= read -r image; do
    echo "splitbake: preloading: $image"
    docker --config "$logins" pull --quiet "$image" || fail preload "$image cannot be pulled"
    docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$image" | grep -qF "@${image##*@}" ||
        fail preload "$image was pulled, but Docker knows no image of that digest"
done <"$list"
