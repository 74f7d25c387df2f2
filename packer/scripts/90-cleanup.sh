#!/bin/sh
# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
# The last step: nothing of the builder may live on in its instances. Nobody can log in again after it.
# Every rule is applied, then looked at. When the machine goes down all of them are applied once more, because some
# daemons write until the end; one of them may carry the connection that this script runs in.
set -eu

again=/run/splitbake-cleanup
unit=/run/systemd/system/splitbake-cleanup.service

fail() {
    echo "splitbake: $1: $2" >&2
    exit 1
}

# remove PATTERN...: the shell has expanded them; one that fits nothing is itself.
remove() {
    for path in "$@"; do
        [ "$looking" = yes ] || rm -rf "$path" || : # what is left is told below
        if [ -e "$path" ] || [ -L "$path" ]; then
            left="$left $path"
        fi
    done
}

empty() {
    for path in "$@"; do
        [ "$looking" = yes ] || truncate --no-create --size 0 "$path" || :
        if [ -s "$path" ]; then
            left="$left $path"
        fi
    done
}

# At the end only: their daemon must not be stopped before.
late() { [ "$last" = no ] || "$@"; }

rules() {
    left=
    looking=$1
    # ECS agent identity: instances that share the agent's state cannot register; /var/lib/ecs/ecs.config turns the GPU on and stays
remove /var/lib/ecs/data/*
remove /var/lib/ecs/data/.[!.]*
remove /var/lib/ecs/data/..?*
remove /var/lib/ecs/gpu/nvidia-gpu-info.json
remove /var/log/ecs/*
remove /var/log/ecs/.[!.]*
remove /var/log/ecs/..?*
# SSH host keys: each instance has its own
remove /etc/ssh/ssh_host_*
# shell history: commands of whoever looked around on the builder, and what they reached from there
remove /root/.*_history
remove /root/.lesshst
remove /root/.viminfo
remove /root/.wget-hsts
remove /root/.ssh/known_hosts*
remove /home/*/.*_history
remove /home/*/.lesshst
remove /home/*/.viminfo
remove /home/*/.wget-hsts
remove /home/*/.ssh/known_hosts*
# credentials: keys and logins are never part of an AMI
remove /root/.aws
remove /root/.docker
remove /root/.ecr
remove /root/.netrc
remove /root/.git-credentials
remove /root/.pypirc
remove /root/.ssh/id_*
remove /root/.config/containers
remove /root/.config/gcloud
remove /root/.cache/huggingface
remove /root/.huggingface
remove /home/*/.aws
remove /home/*/.docker
remove /home/*/.ecr
remove /home/*/.netrc
remove /home/*/.git-credentials
remove /home/*/.pypirc
remove /home/*/.ssh/id_*
remove /home/*/.config/containers
remove /home/*/.config/gcloud
remove /home/*/.cache/huggingface
remove /home/*/.huggingface
# first-boot state: cloud-init does its work anew on each instance
remove /var/lib/cloud/instance
remove /var/lib/cloud/instances/*
remove /var/lib/cloud/instances/.[!.]*
remove /var/lib/cloud/instances/..?*
remove /var/lib/cloud/data/*
remove /var/lib/cloud/data/.[!.]*
remove /var/lib/cloud/data/..?*
remove /var/lib/cloud/sem/*
remove /var/lib/cloud/sem/.[!.]*
remove /var/lib/cloud/sem/..?*
remove /var/lib/cloud/seed/*
remove /var/lib/cloud/seed/.[!.]*
remove /var/lib/cloud/seed/..?*
# host registrations: leases, addresses, secrets and random seed of the builder
remove /var/lib/dhclient/*
remove /var/lib/dhclient/.[!.]*
remove /var/lib/dhclient/..?*
remove /var/lib/dhcp/*
remove /var/lib/dhcp/.[!.]*
remove /var/lib/dhcp/..?*
remove /var/lib/NetworkManager/*
remove /var/lib/NetworkManager/.[!.]*
remove /var/lib/NetworkManager/..?*
remove /etc/udev/rules.d/70-persistent-net.rules
remove /var/lib/systemd/credential.secret
remove /var/lib/systemd/random-seed
remove /boot/efi/loader/random-seed
# container engine identity: Docker and containerd make an id for each host
remove /etc/docker/key.json
remove /var/lib/docker/engine-id
remove /var/lib/containerd/*/uuid
# Systems Manager state: registration and logs of the agent; the connection that this runs in may be one of its sessions
late remove /var/lib/amazon/ssm/*
late remove /var/lib/amazon/ssm/.[!.]*
late remove /var/lib/amazon/ssm/..?*
late remove /var/log/amazon/ssm/*
late remove /var/log/amazon/ssm/.[!.]*
late remove /var/log/amazon/ssm/..?*
# logs of the build: what happened on the builder
remove /var/log/cloud-init*
remove /var/log/audit/*
remove /var/log/audit/.[!.]*
remove /var/log/audit/..?*
remove /var/log/journal/*
remove /var/log/journal/.[!.]*
remove /var/log/journal/..?*
remove /var/log/sa/*
remove /var/log/sa/.[!.]*
remove /var/log/sa/..?*
remove /var/log/dnf*
remove /var/log/yum*
remove /var/log/apt/*
remove /var/log/apt/.[!.]*
remove /var/log/apt/..?*
remove /var/log/*.gz
remove /var/lib/rsyslog/imjournal.state
remove /var/lib/systemd/coredump/*
remove /var/lib/systemd/coredump/.[!.]*
remove /var/lib/systemd/coredump/..?*
remove /var/crash/*
remove /var/crash/.[!.]*
remove /var/crash/..?*
# login records: who logged in on the builder; their programs want the files to exist
empty /var/log/wtmp
empty /var/log/btmp
empty /var/log/lastlog
empty /var/log/faillog
empty /var/log/tallylog
empty /var/log/secure
empty /var/log/auth.log
empty /var/log/messages
empty /var/log/syslog
empty /var/log/boot.log
empty /var/log/cron
empty /var/log/dmesg
empty /var/log/dpkg.log
# sudo lectures: who was told once what sudo is
remove /var/lib/sudo/*
remove /var/lib/sudo/.[!.]*
remove /var/lib/sudo/..?*
remove /var/db/sudo/*
remove /var/db/sudo/.[!.]*
remove /var/db/sudo/..?*
# package caches: space for nothing
remove /var/cache/dnf/*
remove /var/cache/dnf/.[!.]*
remove /var/cache/dnf/..?*
remove /var/cache/yum/*
remove /var/cache/yum/.[!.]*
remove /var/cache/yum/..?*
remove /var/cache/apt/archives/*.deb
remove /var/lib/dnf/history*
remove /var/lib/yum/history
remove /root/.cache/pip
remove /root/.cache/uv
remove /home/*/.cache/pip
remove /home/*/.cache/uv
# build leftovers: uploads and scripts of this bake; /.autorelabel would make each instance boot twice
remove /tmp/*
remove /tmp/.[!.]*
remove /tmp/..?*
remove /var/tmp/*
remove /var/tmp/.[!.]*
remove /var/tmp/..?*
remove /.autorelabel
# authorized keys: the builder's login key; the connection that is open now lives on, no other can be made
remove /root/.ssh/authorized_keys*
remove /home/*/.ssh/authorized_keys*
# host name: each instance gets its own; an empty file counts as none
empty /etc/hostname
# machine id: systemd makes a new one where the file exists and is empty, but not where it is missing
empty /etc/machine-id
# machine id of D-Bus: a link to the other one, made anew at boot; a file here would be a second id that all instances share
remove /var/lib/dbus/machine-id
}

# close DEVICE LABEL GIB FOLDER: instances mount it without its journal, so it has to be whole.
close() {
    disk=$(findmnt --noheadings --output SOURCE --mountpoint "$4") || fail volume "$2 is not mounted at $4 any more"
    sync -f "$4"
    umount "$4" || fail volume "$4 is still in use, by a process or container that this bake started"
    e2fsck -f -n "$disk" >/dev/null 2>&1 || fail volume "the file system $2 on $disk is damaged"
}

last=no
if [ "${1:-}" = last ]; then
    last=yes
    rules no
    sync
    exit 0
fi

close /dev/sdf dl-models 1 /opt/dl-models

# Daemons that would write their old state, or what is going on here, again.
for daemon in ecs amazon-ecs-volume-plugin syslog.socket rsyslog auditd; do
    if systemctl --quiet is-active "$daemon" 2>/dev/null; then
        systemctl stop "$daemon" 2>/dev/null || service "$daemon" stop # auditd refuses systemctl
    fi
done
journalctl --relinquish-var 2>/dev/null || echo 'splitbake: cleaning: this journal goes on in /var/log'

cp "$0" "$again"
mkdir -p "${unit%/*}"
cat >"$unit" <<EOF
[Unit]
Description=Nothing of the builder lives on in its instances
DefaultDependencies=no
RequiresMountsFor=/tmp /var/tmp /var/log
Conflicts=shutdown.target
# What starts later stops earlier.
Before=shutdown.target amazon-ssm-agent.service snap.amazon-ssm-agent.amazon-ssm-agent.service
Before=systemd-random-seed.service systemd-journal-flush.service systemd-update-utmp.service NetworkManager.service
Before=docker.service containerd.service sshd.service ssh.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh $again last
EOF
systemctl daemon-reload
systemctl start "${unit##*/}"

# A timer may write once more, a daemon does it each time.
for _ in 1 2 3; do
    rules no
    [ -z "$left" ] || fail cleanup "cannot be removed:$left"
    rules yes
    [ -n "$left" ] || break
done
[ -z "$left" ] || fail cleanup "written again after it was removed:$left"
sync
