#!/usr/bin/env bash
# Download Debian packages with all they depend on, and unpack them into a folder. Nothing is installed.
# Usage: tools/unpack_debian.sh FOLDER PACKAGE ... < CONFIGURATION
#
# The configuration is apt's, and adds to this machine's: such as another architecture, or a list of sources. FOLDER is
# there whole or not at all; if it is there, nothing is done.
set -euo pipefail
folder=$(realpath -m "$1")
shift
[ ! -e "$folder" ] || exit 0
{ command -v apt-get && command -v dpkg-deb; } > /dev/null || { echo "Debian's packages are unpacked with apt-get and dpkg-deb: install both" >&2; exit 1; }
apt=$folder.apt part=$folder.part
rm -rf "$apt" "$part"
mkdir -p "$apt"/{lists/partial,archives/partial} "$part"
: > "$apt/status" # as if no package were installed, so that each one is downloaded
cat > "$apt/conf" <<END
$(cat)
APT::Install-Recommends "false";
APT::Sandbox::User "";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache::archives "$apt/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
END
export APT_CONFIG=$apt/conf
apt-get -qq update || echo "apt-get could not read all of its sources; going on with the others" >&2
apt-get -qq -y --download-only install "$@" > /dev/null
for package in "$apt"/archives/*.deb; do dpkg-deb -x "$package" "$part"; done
mv "$part" "$folder"
rm -r "$apt"
