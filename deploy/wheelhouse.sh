#!/bin/sh
# On a connected machine: everything that an air-gapped one needs to install Concordat, in one folder.
#
#     sh deploy/wheelhouse.sh FOLDER [PYTHON]
#
# FOLDER (new or empty) gets a wheel of this project, wheels of all its dependencies with the drivers of PostgreSQL and MySQL,
# install-offline.sh, and SHA256SUMS over all of it. PYTHON must be of the version, the system and the kind of processor
# of the air-gapped machine: wheels are made for one of each. Last line: the hash of SHA256SUMS, to be read over the telephone.
set -eu

[ $# -ge 1 ] || { echo "usage: wheelhouse.sh FOLDER [PYTHON]" >&2; exit 2; }
python=${2:-python3}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mkdir -p -- "$1"
folder=$(CDPATH='' cd -- "$1" && pwd)
[ -z "$(ls -A "$folder")" ] || { echo "wheelhouse.sh: $folder is not empty" >&2; exit 1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || { echo "wheelhouse.sh: Concordat needs Python 3.11 or later" >&2; exit 1; }
"$python" -m pip wheel --quiet --disable-pip-version-check --wheel-dir "$folder" "$here/..[postgres,mysql]"

cp "$here/install-offline.sh" "$folder/install-offline.sh"
"$python" -c 'import sys, sysconfig; print(f"{sys.version_info[0]}.{sys.version_info[1]} {sysconfig.get_platform()}")' \
    > "$folder/PYTHON"
cd "$folder"
sha256sum -- *.whl install-offline.sh PYTHON > SHA256SUMS
echo "$(ls -- *.whl | wc -l) wheels in $folder, for Python $(cat PYTHON)"
sha256sum SHA256SUMS
