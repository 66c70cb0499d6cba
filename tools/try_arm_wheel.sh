#!/usr/bin/env bash
# Build a wheel for aarch64 with Debian's cross compiler, and run the engine's Python tests with it under qemu: `make test-arm-python`.
# Usage: tools/try_arm_wheel.sh MODEL_FOLDER BUILD_FOLDER
#
# Python for arm64 is Debian's, from the mirrors that apt knows here: downloaded and unpacked into BUILD_FOLDER, not installed. The `python`
# on PATH builds the wheel, so its version must be the same. cmake (4.1 or later) and ninja are on PATH, too. Each instruction set is tested
# on the oldest core that has it, as in `make test-arm`; logs are in BUILD_FOLDER.
set -euo pipefail
model=$(realpath "$1")
mkdir -p "$2"
build=$(realpath "$2") root=$(realpath "$2")/root
cd "$(dirname "$0")/.."
pip="python -m pip --disable-pip-version-check --quiet"

# --- Python for arm64 ---------------------------------------------------------------------------------------------------
tools/unpack_debian.sh "$root" python3 libpython3-dev libstdc++6 <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
END
[ -e "$root/lib/ld-linux-aarch64.so.1" ] || ln -s usr/lib "$root/lib" # from Debian 13 on
# Debian's pyconfig.h includes the one of the architecture from /usr/include, where the compiler has none.
for headers in "$root"/usr/include/python3.*; do ln -sfn ../aarch64-linux-gnu "$headers/aarch64-linux-gnu"; done
export QEMU_LD_PREFIX=$root PYTHONPYCACHEPREFIX=$build/pycache OPENBLAS_NUM_THREADS=1
unset OPENBLAS_CORETYPE # of this machine
arm=(qemu-aarch64-static "$root/usr/bin/python3")
version=$("${arm[@]}" -c 'import platform; print(".".join(platform.python_version_tuple()[:2]))')
own=$(python -c 'import platform; print(".".join(platform.python_version_tuple()[:2]))')
[ "$version" = "$own" ] || { echo "Debian's Python for arm64 is $version; make test-arm-python needs the same here: got $own" >&2; exit 1; }

# --- The wheel ----------------------------------------------------------------------------------------------------------
suffix=.cpython-${version/./}-aarch64-linux-gnu.so
define="-DCMAKE_TOOLCHAIN_FILE=$PWD/tools/aarch64.cmake -DPython_EXECUTABLE=$root/usr/bin/python3"
rm -rf "$build/wheel"
# The platform is a setting of the build, not a variable of pip, which would install tools of that platform.
SETUPTOOLS_EXT_SUFFIX=$suffix CMAKE_ARGS="$define -DNB_SUFFIX=$suffix" $pip wheel --no-deps --wheel-dir "$build/wheel" \
  --config-settings "build-dir=$build/cmake" --config-settings cmake.python-hints=false \
  --config-settings env._PYTHON_HOST_PLATFORM=linux-aarch64 .
wheel=$(echo "$build"/wheel/quaver-*-linux_aarch64.whl)
echo "$(basename "$wheel"): $(( $(stat -c %s "$wheel") / 1000 )) kB"

# --- What it needs, and pytest ------------------------------------------------------------------------------------------
platforms=(linux_aarch64 manylinux2014_aarch64)
for minor in {17..36}; do platforms+=("manylinux_2_${minor}_aarch64"); done
install() {
  $pip install --target "$build/site" --upgrade --only-binary :all: --implementation cp --python-version "$version" \
    "${platforms[@]/#/--platform=}" "$@"
}
if [ ! -e "$build/site/made" ]; then
  install "$wheel" "pytest>=9" "pytest-timeout>=2.4" "hypothesis>=6.130"
  touch "$build/site/made"
else
  rm -rf "$build"/site/quaver*
  install --no-deps "$wheel"
fi
export PYTHONPATH=$build/site QUAVER_TEST_MODEL=$model

# --- The tests ----------------------------------------------------------------------------------------------------------
# CORE SET ARGUMENT ...: the core has the set and none that is better, so it is chosen.
try() {
  local core=$1 isa=$2 log=$build/$2.log
  shift 2
  QEMU_CPU=$core "${arm[@]}" -c "import quaver; got = quaver.info()['isa']; assert got == '$isa', got" || return 1
  if QEMU_CPU=$core QUAVER_ISA=$isa "${arm[@]}" -m pytest -q -p no:cacheprovider --timeout 1800 "$@" > "$log" 2>&1; then
    echo "$isa on $core: $(tail -1 "$log")"
  else
    tail -50 "$log" >&2
    echo "$isa on $core: failed; the log is $log" >&2
    return 1
  fi
}
families=tests/engine/test_families.py golden=tests/engine/test_golden.py sets=tests/engine/test_instruction_sets.py
# Two at a time. The golden vectors in float32 are left out: they take longer than everything else, and the families test its kernels.
try max neon_i8mm $sets $families $golden -k "neon_i8mm or int8_agrees or test_instruction_sets" &
others=$! status=0
try cortex-a53 neon $families $golden -k "not scalar and (test_families or int8_agrees)" || status=1
try cortex-a76 neon_dotprod $families $golden -k "neon_dotprod or int8_agrees" || status=1
wait $others || status=1
exit $status
