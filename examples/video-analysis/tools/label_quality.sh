#!/bin/sh
# Shows each picture of a folder and appends the typed quality (0 to 1) to result/quality_labels.csv.
set -eu
for picture in "${1:?usage: label_quality.sh FOLDER}"/*.png; do
    feh "$picture" &
    viewer=$!
    printf '%s: ' "$picture"
    read -r quality
    kill "$viewer"
    printf '%s,%s\n' "$(basename "$picture")" "$quality" >>result/quality_labels.csv
done
