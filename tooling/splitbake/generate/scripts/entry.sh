#!/bin/sh
# @mark@
# Refuses to start where the host does not offer the models that this image needs; otherwise becomes the program.
# Compares needs (of the image) with host/contract (of the AMI): lines of fields between tabs, data and never syntax.
set -euf

refuse() {
    printf 'splitbake: %s\n' "$1" >&2
    exit 78 # EX_CONFIG of sysexits.h: another host may do
}

# The AMI says NAME VALUE as well.
agree() {
    offered=none
    while IFS=$tab read -r field value; do
        [ "$field" = "$1" ] || continue
        offered=$value
        break
    done <"$offer"
    [ "$offered" = "$2" ] || refuse "this image is for $1 $2, the AMI of this host offers $offered"
}

# The files have these sizes, a line each. One process tells all; which one is wrong is asked only where one is.
compare() {
    [ "$(stat -L -c %s "$@" 2>/dev/null)$newline" != "$sizes" ] || return 0
    for file in "$@"; do
        size=${sizes%%"$newline"*} sizes=${sizes#*"$newline"}
        found=$(stat -L -c %s "$file" 2>/dev/null) || found='no known number of'
        [ "$found" = "$size" ] || refuse "$file has $found bytes, the AMI of this host says $size"
    done
}

# What the AMI offers for each need is at the place of the need, with the sizes that the AMI says.
# In a subshell: a variable of the program's environment may have the name of one in here, and keeps its value.
check() (
    here=${0%/*}
    offer=$here/host/contract
    tab=$(printf '\t')
    newline='
'
    [ -f "$offer" ] || refuse "this host offers no models: there is no $offer, \
so it was not booted from the AMI of this release, or the job definition lacks that mount"
    (: <"$offer") 2>/dev/null || refuse "$offer cannot be read: its mode or SELinux forbids it"
    sizes=
    while IFS=$tab read -r what need place; do
        case $what in
        contract | architecture | runtime) agree "$what" "$need" ;;
        esac
        if [ "$what" = runtime ] && [ ! -r "$place/.splitbake/runtime" ]; then
            refuse "the AMI of this host offers a runtime, but it is not at $place"
        fi
        [ "$what" = need ] || continue
        met=no
        while IFS=$tab read -r field size path; do
            case $field:$need in
            file:*/) rest=${path#"$need"} ;;
            file:*) rest= ;;
            *) continue ;;
            esac
            [ "$path" = "$need$rest" ] || continue
            met=yes
            [ -f "$place$rest" ] || refuse "the AMI of this host offers $path, but it is not at $place$rest"
            [ -r "$place$rest" ] || refuse "$place$rest cannot be read: its mode or SELinux forbids it"
            set -- "$@" "$place$rest"
            sizes=$sizes$size$newline
            if [ "$#" -eq 100 ]; then # few enough for one command line, and a list stays quick to append to
                compare "$@"
                set --
                sizes=
            fi
        done <"$offer"
        [ "$met" = yes ] || refuse "this image needs $need, the AMI of this host does not have it"
    done <"$here/needs"
    [ "$#" -eq 0 ] || compare "$@"
)

check
: "${1:?no command was given}"
exec "$@"
