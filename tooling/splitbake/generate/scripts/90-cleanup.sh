#!/bin/sh
# @mark@
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

@hygiene@

sync
