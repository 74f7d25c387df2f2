#!/bin/sh
# @mark@
# Sets up the hosts to be: units that mount and read the models, what Docker and the ECS agent need them for, and the
# agent's settings. Where the base has no Docker or no agent, what is for them is left out.
set -eu

pull='@ecs-pull@'
ecs_config=/etc/ecs/ecs.config

fail() {
    echo "splitbake: $1: $2" >&2
    exit 1
}

has() { [ "$1" = - ] || systemctl cat "$1" >/dev/null 2>&1; }

# put UNIT FILE: what follows, where the base has the unit; - stands for always.
put() {
    if ! has "$1"; then
        echo "splitbake: skipped: the base has no $1, so no $2"
        return
    fi
    install -d -m 0755 "$(dirname "$2")"
    cat >"$2"
    chmod 0644 "$2"
}

start_at_boot() { systemctl --quiet enable "$1"; }

# What an instance gets with its user data must not be in an AMI that others start, and a login never.
refuse() {
    for file in /var/lib/ecs/ecs.config "$ecs_config"; do
        if [ -f "$file" ] && grep -Eq "^[[:space:]]*$1=[\"']?[^[:space:]\"']" "$file"; then
            fail ecs "$1 is set in $file of the builder: $2"
        fi
    done
}

# set_ecs NAME VALUE: once in the file, which keeps its owner, mode and label.
set_ecs() {
    others=$(grep -v "^[[:space:]]*$1=" "$ecs_config" || [ $? -eq 1 ])
    printf '%s\n' "${others:+$others
}$1=$2" >"$ecs_config"
}

# @host-files@

if has ecs.service; then
    refuse ECS_CLUSTER 'every instance would join that cluster'
    refuse ECS_ENGINE_AUTH_DATA 'credentials are never part of an AMI'
    install -d -m 0755 "${ecs_config%/*}"
    touch "$ecs_config"
    set_ecs ECS_IMAGE_PULL_BEHAVIOR "$pull"
else
    echo 'splitbake: skipped: the base has no ecs.service, so no settings of the ECS agent'
fi
systemctl daemon-reload
