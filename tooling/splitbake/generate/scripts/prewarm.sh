#!/bin/sh
# @mark@
# Reads each model once, so that its blocks are there before a job asks for them: a volume that was made from a snapshot
# gets its blocks at their first reading, some 5 MiB/s for one reader. What is read is what the AMI says it offers.
set -eu

root='@root@'
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
