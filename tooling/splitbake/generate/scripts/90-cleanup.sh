#!/bin/sh
# @mark@
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
    @hygiene@
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

# @close-volumes@

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
