#!/bin/sh
# @mark@
# Makes a file system on each volume that this AMI gets beside its root, and mounts it for the bake.
# Only a disk without any content is ever formatted.
set -eu

wait_seconds=60

fail() {
    echo "splitbake: $1: $2" >&2
    exit 1
}

# Nothing on it that blkid knows, no partitions, and nobody uses it. blkid ends with 2 where it finds nothing.
is_blank() {
    status=0
    blkid -p "$1" >/dev/null 2>&1 || status=$?
    [ "$status" -eq 2 ] && [ -z "$(lsblk --noheadings --output MOUNTPOINT "$1" | tr -d '[:space:]')" ] &&
        [ "$(lsblk --noheadings --list --output NAME "$1" | wc -l)" -eq 1 ]
}

bytes_of() { lsblk --noheadings --nodeps --bytes --output SIZE "$1" | tr -d ' '; }

# What EC2 calls /dev/sdf may be that (udev links it where the AMI has EC2's rules, as Amazon Linux does) or /dev/xvdf.
# Elsewhere it is the one blank disk that has its size.
find_disk() {
    for name in "$1" "/dev/xvd${1#/dev/sd}"; do
        if [ -b "$name" ]; then
            echo "$name"
            return
        fi
    done
    lsblk --noheadings --nodeps --paths --list --output NAME,TYPE | while read -r name type; do
        if [ "$type" = disk ] && [ "$(bytes_of "$name")" = "$2" ] && is_blank "$name"; then
            echo "$name"
        fi
    done
}

# make DEVICE LABEL GIB FOLDER
make() {
    bytes=$(($3 * 1024 * 1024 * 1024))
    waited=0
    while disk=$(find_disk "$1" "$bytes") && [ -z "$disk" ]; do
        [ "$waited" -lt "$wait_seconds" ] || fail volume "$1 is not there, and no other blank disk has $3 GiB"
        sleep 1
        waited=$((waited + 1))
    done
    [ "$(echo "$disk" | wc -l)" -eq 1 ] || fail volume "$1 may be any of $(echo "$disk" | tr '\n' ' ')"
    [ "$(bytes_of "$disk")" = "$bytes" ] || fail volume "$disk has $(bytes_of "$disk") bytes, wanted are $3 GiB"
    is_blank "$disk" || fail volume "$disk is in use or has content: $(blkid -p -o export "$disk" | tr '\n' ' ')"
    if [ -e "$4" ] && { [ ! -d "$4" ] || [ -n "$(ls -A "$4")" ]; }; then
        fail volume "$4 has content already, which the volume would hide"
    fi

    # All of the tables are written now: no thread of the kernel goes on with that on the instances.
    mkfs.ext4 -q -F -L "$2" -m 0 -b 4096 -i '@bytes-per-inode@' \
        -E lazy_itable_init=0,lazy_journal_init=0 "$disk"
    mkdir -p "$4"
    mount -t ext4 "$disk" "$4"
    rmdir "$4/lost+found" # fsck makes it where it needs it
    echo "splitbake: mounted: $disk ($1), $3 GiB, is $2, mounted at $4"
}

for tool in lsblk blkid mkfs.ext4 e2fsck mount; do
    command -v "$tool" >/dev/null || fail tool "the base AMI has no $tool"
done

# @make-volumes@
