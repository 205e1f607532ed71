#!/bin/sh
# On the air-gapped machine, in the folder that wheelhouse.sh filled: check every hash, then install without a network.
#
#     sh install-offline.sh HASH [PREFIX] [PYTHON]
#
# HASH: of SHA256SUMS, as the connected machine printed it, by another way than the folder came (telephone).
# PREFIX: where the virtual environment goes, /opt/concordat if not named; the environment that is there is replaced
# only after the new one works. Nothing is installed from a folder with a file missing, altered or added.
set -eu

[ $# -ge 1 ] || { echo "usage: install-offline.sh HASH [PREFIX] [PYTHON]" >&2; exit 2; }
prefix=${2:-/opt/concordat}
python=${3:-python3}
cd -- "$(dirname -- "$0")"

refuse() { echo "install-offline.sh: $1; nothing was installed" >&2; exit 1; }

[ -f SHA256SUMS ] || refuse "there is no SHA256SUMS in this folder"
[ "$(sha256sum SHA256SUMS | cut -d ' ' -f 1)" = "$1" ] || refuse "SHA256SUMS is not the one with this hash"
sha256sum --quiet --strict --check SHA256SUMS || refuse "a file is missing or altered"
[ "$(ls -A | grep -v '^SHA256SUMS$' | LC_ALL=C sort)" = "$(sed 's/^[0-9a-f]* [ *]//' SHA256SUMS | LC_ALL=C sort)" ] \
    || refuse "the folder has a file that SHA256SUMS does not list"
here=$("$python" -c \
    'import sys, sysconfig; print(f"{sys.version_info[0]}.{sys.version_info[1]} {sysconfig.get_platform()}")')
[ "$here" = "$(cat PYTHON)" ] || refuse "these wheels are for Python $(cat PYTHON), and this is $here"

# Scripts of a virtual environment name its path: it is made where it stays, beside the old one until it works.
rm -rf -- "$prefix.before"
[ ! -e "$prefix" ] || mv -- "$prefix" "$prefix.before"
restore() {
    rm -rf -- "$prefix"
    [ ! -e "$prefix.before" ] || mv -- "$prefix.before" "$prefix"
    refuse "$1"
}
"$python" -m venv "$prefix" || restore "python -m venv failed (on Debian: python3-venv)"
"$prefix/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-cache-dir --only-binary :all: \
    --find-links . 'concordat[postgres,mysql]' || restore "pip could not install from this folder"
"$prefix/bin/concordat" recipe > /dev/null || restore "the installed program does not start"
"$prefix/bin/concordat-party" --help > /dev/null || restore "the installed program does not start"
echo "Installed in $prefix. The former version, if there was one, is in $prefix.before."
