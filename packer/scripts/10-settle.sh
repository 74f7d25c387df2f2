#!/bin/sh
# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
# Waits until the first boot is over and nobody else changes the machine; stops the ECS agent; makes room for uploads.
set -eu

inputs=/var/tmp/splitbake
login=${SUDO_USER:-root}

if command -v cloud-init >/dev/null 2>&1; then
    # 2 means: done, with a recoverable warning.
    status=0
    cloud-init status --wait >/dev/null || status=$?
    if [ "$status" -ne 0 ] && [ "$status" -ne 2 ]; then
        echo "splitbake: first-boot: cloud-init failed on the builder: $(cloud-init status --long | tr '\n' ' ')" >&2
        exit 1
    fi
fi

# Fleet management may install packages right after the boot: wait for the package database, 5 minutes at most.
waited=0
while pgrep -x 'dnf|yum|rpm|apt-get|dpkg' >/dev/null 2>&1; do
    if [ "$waited" -ge 300 ]; then
        echo 'splitbake: first-boot: a package manager is still busy on the builder after 5 minutes' >&2
        exit 1
    fi
    sleep 5
    waited=$((waited + 5))
done

# The agent must not register the builder; its unit stays enabled for the instances to come.
if systemctl cat ecs.service >/dev/null 2>&1; then
    systemctl stop ecs.service
fi

rm -rf "$inputs"
install -d -m 0700 -o "$login" "$inputs"
