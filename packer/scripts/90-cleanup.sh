#!/bin/sh
# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
# The last step: nothing of the builder may live on in its instances. Nobody can log in again after it.
set -eu

remove() {
    for path in "$@"; do
        rm -rf "$path"
        if [ -e "$path" ] || [ -L "$path" ]; then
            echo "splitbake: cleanup: $path cannot be removed" >&2
            exit 1
        fi
    done
}

empty() {
    for path in "$@"; do
        if [ -e "$path" ]; then
            : >"$path"
        fi
    done
}

# Daemons that would write their old state, or what is going on here, again.
for unit in ecs amazon-ssm-agent auditd rsyslog; do
    if systemctl --quiet is-active "$unit" 2>/dev/null; then
        systemctl stop "$unit" 2>/dev/null || service "$unit" stop # auditd refuses systemctl
    fi
done
if command -v cloud-init >/dev/null 2>&1; then
    cloud-init clean --logs
fi

# ECS agent identity: instances that share the agent's state cannot register; /var/lib/ecs/ecs.config turns the GPU on and stays
remove /var/lib/ecs/data/*
remove /var/lib/ecs/gpu/nvidia-gpu-info.json
remove /var/log/ecs/*
# SSH host keys: each instance has its own
remove /etc/ssh/ssh_host_*
# shell history: commands of whoever looked around on the builder
remove /root/.*_history
remove /home/*/.*_history
remove /root/.lesshst
remove /home/*/.lesshst
# credentials: keys and logins are never part of an AMI
remove /root/.aws
remove /root/.docker
remove /root/.netrc
remove /root/.git-credentials
remove /root/.config/gcloud
remove /root/.cache/huggingface
remove /home/*/.aws
remove /home/*/.docker
remove /home/*/.netrc
remove /home/*/.git-credentials
remove /home/*/.config/gcloud
remove /home/*/.cache/huggingface
# first-boot state: cloud-init does its work anew on each instance
remove /var/lib/cloud/instance
remove /var/lib/cloud/instances/*
remove /var/lib/cloud/data/*
remove /var/lib/cloud/sem/*
# host registrations: leases, Systems Manager registration and random seed of the builder
remove /var/lib/dhclient/*
remove /var/lib/dhcp/*
remove /var/lib/NetworkManager/*.lease
remove /var/lib/amazon/ssm/*
remove /var/lib/systemd/random-seed
# logs of the build: what happened on the builder
remove /var/log/cloud-init*
remove /var/log/amazon/ssm/*
remove /var/log/audit/*
remove /var/log/journal/*
remove /var/log/dnf*
remove /var/log/yum*
remove /var/log/apt/*
# login records: who logged in on the builder; their programs want the files to exist
empty /var/log/wtmp
empty /var/log/btmp
empty /var/log/lastlog
empty /var/log/secure
empty /var/log/auth.log
empty /var/log/messages
# package caches: space for nothing
remove /var/cache/dnf/*
remove /var/cache/yum/*
remove /var/cache/apt/archives/*.deb
remove /var/lib/dnf/history*
# build leftovers: uploads and scripts of this bake among them
remove /tmp/*
remove /tmp/.*-unix/*
remove /var/tmp/*
# authorized keys: the builder's login key; the connection that is open now lives on, no other can be made
remove /root/.ssh/authorized_keys
remove /home/*/.ssh/authorized_keys
# machine id: systemd makes a new one where the file exists and is empty, but not where it is missing
empty /etc/machine-id

sync
