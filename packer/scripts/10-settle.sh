#!/bin/sh
# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
# Stops the ECS agent; waits until the first boot is over and nobody else changes the machine; notes what the base was
# like; makes room for uploads.
set -eu

inputs=/var/tmp/splitbake
login=${SUDO_USER:-root}

fail() {
    echo "splitbake: $1: $2" >&2
    exit 1
}

# The agent must not register the builder; its unit stays enabled for the instances to come.
stop_ecs() {
    if systemctl cat ecs.service >/dev/null 2>&1; then
        systemctl stop ecs.service
    fi
}

stop_ecs # first of all: also where it only waits for cloud-init to end
if command -v cloud-init >/dev/null 2>&1; then
    # 2 means: done, with a recoverable warning.
    status=0
    cloud-init status --wait >/dev/null || status=$?
    if [ "$status" -ne 0 ] && [ "$status" -ne 2 ]; then
        fail first-boot "cloud-init failed on the builder: $(cloud-init status --long | tr '\n' ' ')"
    fi
fi
stop_ecs # user data may have started it

# Fleet management may install packages right after the boot: wait for the package database, 5 minutes at most.
waited=0
while pgrep -x 'dnf|yum|rpm|apt-get|dpkg' >/dev/null 2>&1; do
    [ "$waited" -lt 300 ] || fail first-boot 'a package manager is still busy on the builder after 5 minutes'
    sleep 5
    waited=$((waited + 5))
done

packages() {
    # shellcheck disable=SC2016 # dpkg-query expands it
if command -v rpm >/dev/null; then
    rpm -qa kernel 'kernel[0-9]*' 'kmod-*' '*nvidia*'
else
    dpkg-query --show --showformat '${db:Status-Status} ${Package}-${Version}\n' 'linux-image-*' '*nvidia*' \
        2>/dev/null | sed -n 's/^installed //p'
fi | sort
}

install -d -m 0755 /etc/splitbake
{
    if cat /var/lib/ecs/ecs.config /etc/ecs/ecs.config 2>/dev/null | grep -q '^ECS_ENABLE_GPU_SUPPORT=true'; then
        echo ecs-gpu
    fi
    packages | sed 's/^/package /'
    for unit in docker.service ecs.service; do
        if systemctl cat "$unit" >/dev/null 2>&1; then
            echo "unit $unit $(systemctl is-enabled "$unit")"
        fi
    done
} >/etc/splitbake/base

rm -rf "$inputs"
install -d -m 0700 -o "$login" "$inputs"
