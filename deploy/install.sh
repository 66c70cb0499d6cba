#!/bin/sh
# Install Quaver's server from a wheel, without what it does not need at run time:
#   sh deploy/install.sh WHEEL FOLDER
# FOLDER becomes an environment without pip; its size is printed. deploy/Dockerfile and `make server-size` run this.
# It needs strip, of binutils. PYTHON is the Python to install for.
set -eu
wheel=$1 target=$2
command -v strip > /dev/null || { echo "install.sh needs strip: install binutils" >&2; exit 1; }
"${PYTHON:-python3}" -m venv --without-pip "$target"
"${PYTHON:-python3}" -m pip --python "$target/bin/python" install --quiet --no-cache-dir --no-compile \
  --only-binary :all: "$wheel[serve]"
packages=$("$target/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# Faster downloads from the hub; without it they are plain HTTP, with it 11 MB more.
rm -rf "$packages"/hf_xet "$packages"/hf_xet-*.dist-info
# Tests, and what only compilers and type checkers read.
find "$packages" -depth -type d -name tests -exec rm -rf {} +
find "$packages" -type f \( -name '*.a' -o -name '*.c' -o -name '*.h' -o -name '*.pxd' -o -name '*.pyx' -o -name '*.pyi' \) -delete
# The libraries next to a package, in *.libs, were changed by patchelf: strip would break them.
find "$packages" -name '*.so' -not -path '*.libs/*' -exec strip --strip-unneeded {} +
# Modules are compiled here, not at each start.
"$target/bin/python" -m compileall -q "$packages"
du -sm "$target" | awk '{ print "the server takes " $1 " MB, without Python and without a model" }'
