#!/bin/sh
# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
# Puts the model files in place, each only after its checksum was right, and the notes of what this AMI holds: one for
# people and tools, one below the root for the entry check of images (the contract).
# Reads models.tsv: sha256 <TAB> bytes <TAB> path below the root <TAB> URL, or upload:NAME for a file beside the list.
# The list holds presigned URLs: it is removed when this script ends, whatever happens.
set -eu

root=/opt/dl-models
mode=0755
inputs=/var/tmp/splitbake
list=$inputs/models.tsv
tab=$(printf '\t')
parallel=8
reserve_kib=262144

fail() {
    echo "splitbake: $1: $2" >&2
    exit 255 # xargs starts nothing more after 255
}

# Continues a broken download; asks again where asking again can help.
download() {
    url=$1 part=$2 path=$3
    : >"$part" # curl makes no file for an empty answer
    for attempt in 1 2 3 4 5; do
        status=0
        answer=$(printf 'url = "%s"\n' "$url" | curl --config - --silent --show-error --fail --location \
            --proto '=http,https' --proto-redir '=https' --connect-timeout 15 --speed-limit 1024 --speed-time 60 \
            --continue-at - --output "$part" --write-out '%{http_code}') || status=$?
        case $status:$answer in
        0:*) return 0 ;;
        23:*) fail disk-full "$path: the disk of the builder is full, or cannot be written" ;;
        22:404 | 22:410) fail not-found "$path: its source answers $answer" ;;
        22:400 | 22:401 | 22:403) fail forbidden "$path: its source answers $answer" ;;
        33:* | 36:* | 22:416) : >"$part" ;; # it cannot be continued: from the start
        esac
        sleep "$attempt"
    done
    fail unreachable "$path: curl ended with $status (HTTP ${answer:-000}) five times"
}

place() {
    IFS=$tab read -r sha256 size path from <<EOF
$(sed -n "$1p" "$list")
EOF
    target=$root/$path
    part=$target.part
    mkdir -p "$(dirname "$target")"
    case $from in
    upload:*) mv "$inputs/files/${from#upload:}" "$part" ;;
    *) download "$from" "$part" "$path" ;;
    esac
    found_size=$(wc -c <"$part")
    found=$(sha256sum <"$part" | cut -d ' ' -f 1)
    if [ "$found_size" -ne "$size" ] || [ "$found" != "$sha256" ]; then
        rm -f "$part"
        fail checksum "$path has $found_size bytes with sha256 $found, locked are $size bytes with sha256 $sha256"
    fi
    mv "$part" "$target"
    echo "splitbake: placed: $path ($size bytes)"
}

if [ "${1:-}" = place ]; then
    place "$2"
    exit 0
fi

trap 'rm -rf "$inputs"' EXIT
trap 'exit 1' HUP INT TERM

for tool in curl sha256sum xargs install; do
    command -v "$tool" >/dev/null || fail tool "the base AMI has no $tool"
done

mkdir -p "$root"
# Uploaded files take no more space: they are moved.
needed_kib=$(awk -F '\t' '$4 !~ /^upload:/ { sum += $2 } END { printf "%.0f", sum / 1024 + 1 }' "$list")
free_kib=$(df -Pk "$root" | awk 'NR == 2 { print $4 }')
if [ "$free_kib" -lt $((needed_kib + reserve_kib)) ]; then
    fail disk-full "the models need $((needed_kib / 1024)) MiB below $root, free are $((free_kib / 1024)) MiB"
fi

echo "splitbake: fetching: $(wc -l <"$list") files, $((needed_kib / 1024)) MiB to download"
seq "$(wc -l <"$list")" | xargs -n 1 -P "$parallel" sh "$0" place || exit 1

install -d "$root/.splitbake"
install "$inputs/contract" "$root/.splitbake/contract"
chown -R root:root "$root"
chmod -R "$mode" "$root"
install -d -m 0755 /etc/splitbake
install -m 0644 -o root -g root "$inputs/ami.json" /etc/splitbake/ami.json
