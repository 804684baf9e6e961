#!/usr/bin/env bash
# Usage: deploy/install_dependencies.sh
# Installs those packages of deploy/packages.txt that are missing, and nothing they merely recommend. Safe to repeat: with
# nothing missing it touches nothing and needs no network. Exits with 78 when something is missing and it may not install.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here

is_installed() {
  [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=()
while read -r package; do
  is_installed "$package" || missing+=("$package")
done < <(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$here/packages.txt")

[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "install_dependencies: these packages are missing; as root: apt-get install ${missing[*]}" >&2
  exit 78
fi
echo "install_dependencies: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet >&2
apt-get install --quiet --yes --no-install-recommends "${missing[@]}" >&2
