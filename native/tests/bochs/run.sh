#!/usr/bin/env bash
# Run the real instructions of the AMX and bfloat16 kernels in Bochs: `make test-amx`. Needs gcc 12 or later, binutils, and Bochs 3.0 or later.
# Usage: native/tests/bochs/run.sh BUILD_FOLDER
#
# A bochs on PATH is used if it is new enough (Debian 13's package; 2.7 of Debian 12 has no AMX). Elsewhere on Debian, apt downloads
# that package with all it depends on into BUILD_FOLDER, about 60 MB, where it runs without being installed. BOCHS_SUITE names the
# suite to take it from. The program also counts instructions, for benchmarks/amx_model.py: BUILD_FOLDER/result has the counts.
set -euo pipefail
mkdir -p "$1"
build=$(realpath "$1") here=$(realpath "$(dirname "$0")") native=$(realpath "$(dirname "$0")/../..")

# --- Bochs ------------------------------------------------------------------------------------------------------------
share=/usr/share/bochs run=(bochs)
if ! { command -v bochs && bochs --help 2>&1 | grep -Eq 'Bochs x86 Emulator ([3-9]|[0-9]{2,})\.'; } > /dev/null; then
  command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null ||
    { echo "make test-amx needs Bochs 3.0 or later with AMX on PATH (Debian 13: bochs, bochs-term)" >&2; exit 1; }
  root=$build/root
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian ${BOCHS_SUITE:-trixie} main" > "$build/sources"
  "$native/../tools/unpack_debian.sh" "$root" bochs bochsbios vgabios bochs-term <<END
Dir::Etc::sourcelist "$build/sources";
Dir::Etc::sourceparts "-";
END
  share=$root/usr/share/bochs library=$root/usr/lib/x86_64-linux-gnu
  export LTDL_LIBRARY_PATH=$library/bochs/plugins
  # With its own loader and libraries: those of this system may be older.
  run=("$library/ld-linux-x86-64.so.2" --library-path "$library:$library/bochs/plugins" "$root/usr/bin/bochs-bin")
fi

# --- The disk ---------------------------------------------------------------------------------------------------------
# The flags of the real build: those of CMakeLists.txt's kernels, and the features of the list.
features() {
  sed -nE "s/.*[XB]\($1, ([^)]*)\).*/\1/p" "$native/kernels/x86/instruction_sets.h" | tr '_' '-' | sed -E 's/ *\| */ -m/g; s/^/-m/'
}
flags="-std=c++20 -O3 -ffp-contract=off -fno-exceptions -fno-rtti -fno-pic -fno-stack-protector -fcf-protection=none
  -fno-asynchronous-unwind-tables -w -I$native"
cxx=${CXX:-g++}
objects=()
for kernels in amx amxbf16 avx512bf16; do
  source="$(features $kernels) $native/kernels/x86/$kernels.cpp"
  $cxx $flags -c $source -o "$build/$kernels.o"
  $cxx $flags -Damx_kernels=amx_portable_kernels -Damxbf16_kernels=amxbf16_portable_kernels -Davx512bf16_kernels=avx512bf16_portable_kernels \
    -DQUAVER_EMULATE_TILES -DQUAVER_UNSIGNED_TILES -DQUAVER_EMULATE_PAIRS -Dthread_local= -c $source -o "$build/$kernels.portable.o"
  objects+=("$build/$kernels.o" "$build/$kernels.portable.o")
done
$cxx $flags $(features amx) -fno-tree-loop-distribute-patterns -c "$here/program.cpp" -o "$build/program.o"
ld -nostdlib -static -T "$here/program.ld" "$build/program.o" "${objects[@]}" -o "$build/program.elf"
objcopy -O binary --remove-section .bss "$build/program.elf" "$build/program.bin"
sectors=$(( ($(stat -c %s "$build/program.bin") + 511) / 512 ))
$cxx -DSECTORS=$sectors -c "$here/boot.S" -o "$build/boot.o"
ld -Ttext 0x7c00 --oformat binary "$build/boot.o" -o "$build/boot.bin"
cylinders=20
truncate -s $(( cylinders * 16 * 63 * 512 )) "$build/disk.img"
dd if="$build/boot.bin" of="$build/disk.img" conv=notrunc status=none
dd if="$build/program.bin" of="$build/disk.img" bs=512 seek=1 conv=notrunc status=none

# --- The run ----------------------------------------------------------------------------------------------------------
cat > "$build/bochsrc" <<END
cpu: model=sapphire_rapids, count=1, ips=500000000, reset_on_triple_fault=0
memory: guest=64, host=64
romimage: file=$share/BIOS-bochs-latest
vgaromimage: file=$share/VGABIOS-lgpl-latest
ata0-master: type=disk, path=$build/disk.img, mode=flat, cylinders=$cylinders, heads=16, spt=63
boot: disk
display_library: term
port_e9_hack: enabled=1
log: $build/log
panic: action=fatal
END
# The display is a terminal, which `script` makes of a file.
printf -v command '%q ' "${run[@]}" -q -f "$build/bochsrc"
TERM=xterm timeout 600 script -qec "$command" "$build/screen" > /dev/null < /dev/null || true
tr -d '\r' < "$build/screen" | grep -aoE '[a-z0-9_]+ [0-9 ]+ differs|count [a-z0-9_]+ [a-z0-9_]+ [0-9]+|amx in Bochs: [0-9]+ checks, [0-9]+ failed' > "$build/result" || true
grep -v ^count "$build/result" || true
grep -q ' checks, 0 failed' "$build/result" || { echo "the program failed or did not end in Bochs; its log: $build/log" >&2; exit 1; }
