# AArch64 Linux with Debian's cross compiler; programs run under qemu. See `make test-arm`.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static)

# The core that tests an instruction set: the oldest of qemu 7.2 that has it, so that an instruction of a later one ends
# the test.
set(QUAVER_TEST_CPU_neon cortex-a53)
set(QUAVER_TEST_CPU_neon_dotprod cortex-a76)
set(QUAVER_TEST_CPU_neon_i8mm max)
