#!/bin/sh
# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
# Sets up the hosts to be: units that mount and read the models, what Docker and the ECS agent need them for, and the
# agent's settings. Where the base has no Docker or no agent, what is for them is left out.
set -eu

pull=once
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

put - '/etc/systemd/system/opt-dl\x2dmodels.mount' <<'END OF FILE'
# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
# noload: the file system was unmounted cleanly in the bake, and nothing is ever written again.
[Unit]
Description=Volume dl-models (read-only)
DefaultDependencies=no
After=local-fs-pre.target
Conflicts=umount.target
Before=umount.target

[Mount]
What=/dev/disk/by-label/dl-models
Where=/opt/dl-models
Type=ext4
Options=ro,noload

[Install]
WantedBy=multi-user.target
END OF FILE
put docker.service /etc/systemd/system/docker.service.d/10-splitbake.conf <<'END OF FILE'
# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
[Unit]
RequiresMountsFor=/opt/dl-models
END OF FILE
put ecs.service /etc/systemd/system/ecs.service.d/10-splitbake.conf <<'END OF FILE'
# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
[Unit]
RequiresMountsFor=/opt/dl-models
END OF FILE
put - /usr/local/lib/splitbake/prewarm <<'END OF FILE'
#!/bin/sh
# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
# Reads each model once, so that its blocks are there before a job asks for them: a volume that was made from a snapshot
# gets its blocks at their first reading, some 5 MiB/s for one reader. What is read is what the AMI says it offers.
set -eu

root=/opt/dl-models
parallel=16
piece_mib=64
export root piece_mib

now() { cut -d ' ' -f 1 /proc/uptime; }

# Many small files in one process, pieces of the large ones in several: each reads on and on, as EBS likes it.
started=$(now)
awk -F '\t' '$1 == "file" && $2 <= ENVIRON["piece_mib"] * 1048576 { print ENVIRON["root"] "/" $3 }' \
    "$root/.splitbake/contract" |
    xargs -r -d '\n' -n 64 -P "$parallel" cat >/dev/null
# shellcheck disable=SC2016 # the inner shell expands them
awk -F '\t' '$1 == "file" && $2 > ENVIRON["piece_mib"] * 1048576 {
        for (at = 0; at * 1048576 < $2; at += ENVIRON["piece_mib"]) printf "%d\n%s/%s\n", at, ENVIRON["root"], $3
    }' "$root/.splitbake/contract" |
    xargs -r -d '\n' -n 2 -P "$parallel" sh -c \
        'exec dd "if=$2" of=/dev/null bs=1M "skip=$1" "count=$piece_mib" status=none' read

awk -F '\t' -v seconds="$(now) $started" '
    $1 == "file" { bytes += $2; files++ }
    END {
        split(seconds, at, " ")
        took = at[1] - at[2] + 0.01 # the clock counts hundredths
        printf "read %.0f MB in %d files, %.1f s: %.0f MB/s\n", bytes / 1e6, files, took, bytes / 1e6 / took
    }' "$root/.splitbake/contract"
END OF FILE
put - /etc/systemd/system/dl-models-prewarm.service <<'END OF FILE'
# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
[Unit]
Description=Reads the models once: blocks of a snapshot come slowly at their first reading
DefaultDependencies=no
After=local-fs.target
Conflicts=shutdown.target
Before=shutdown.target
RequiresMountsFor=/opt/dl-models

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=infinity
IOSchedulingClass=idle
Nice=19
ExecStart=/bin/sh /usr/local/lib/splitbake/prewarm

[Install]
WantedBy=multi-user.target
END OF FILE
start_at_boot 'opt-dl\x2dmodels.mount'
start_at_boot dl-models-prewarm.service

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
