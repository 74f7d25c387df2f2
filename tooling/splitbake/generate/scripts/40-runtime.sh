#!/bin/sh
# @mark@
# Installs the runtime: Python packages for the containers, not for this host. Only wheels, each by address and hash from
# runtime.txt, for the Python and the platform of the image. The installer is fetched with them and leaves with its cache.
set -eu

root='@runtime-root@'
python='@runtime-python@'
platform='@runtime-platform@'
digest='@runtime-digest@'
budget='@runtime-budget@'
inputs=/var/tmp/splitbake
work=$root/.installing

fail() {
    echo "splitbake: $1: $2" >&2
    exit 1
}

# What uv could not finish it removes: only its words tell of a full disk.
not_installed() {
    printf '%s\n' "$1" >&2
    case $1 in
    *'os error 28'*)
        findmnt --mountpoint "$root" >/dev/null || fail disk-full 'the wheels do not fit on the root volume'
        fail budget "the wheels do not fit on the volume that runtime.budget, $budget bytes, asks for"
        ;;
    esac
    fail runtime 'the wheels cannot be installed; the lines above say why'
}

trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

command -v python3 >/dev/null || fail tool 'the base AMI has no python3, which fetches the runtime'
if [ -e "$root" ] && { [ ! -d "$root" ] || [ -n "$(ls -A -I .installing "$root")" ]; }; then
    fail folder "$root has content already, whose owner and mode would change"
fi
mkdir -p "$work"
python3 -I -X utf8 "$inputs/fetch.py" "$inputs/installer.tsv" "$work"
python3 -m zipfile -e "$work/installer.whl" "$work"
uv=$(find "$work" -path '*/scripts/uv')
chmod +x "$uv"

echo "splitbake: installing: $(wc -l <"$inputs/runtime.txt") wheels for Python $python"
# The cache lies on the same file system, so that nothing is copied; --target wants no environment of that Python.
said=$(UV_CACHE_DIR=$work/cache UV_NO_CONFIG=1 UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1 UV_LINK_MODE=hardlink \
    "$uv" pip install --quiet --no-progress --target "$root" --python-version "$python" --python-platform "$platform" \
    --only-binary :all: --no-deps --require-hashes --requirement "$inputs/runtime.txt" 2>&1) || not_installed "$said"
# The same wheels are the same files, from wherever they came.
rm -rf "$work" "$root/.lock" "$root"/*.dist-info/direct_url.json

install -d "$root/.splitbake"
printf '%s\n' "$digest" >"$root/.splitbake/runtime"
chown -R root:root "$root"
chmod -R u=rwX,go=rX "$root"
size=$(du -s --apparent-size --block-size=1 "$root" | cut -f 1)
if [ "$size" -gt "$budget" ]; then
    du -s --apparent-size --block-size=1M "$root"/* | sort -rn | head -n 5 >&2
    fail budget "the runtime takes $size bytes, runtime.budget is $budget; the biggest folders in MiB stand above"
fi
echo "splitbake: installed: the runtime, $size bytes"
