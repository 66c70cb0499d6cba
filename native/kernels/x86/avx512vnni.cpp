// AVX-512 with vpdpbusd on zmm registers: Cascade Lake and later Xeons, Zen 4 and later.
// Needs the feature bits avx512f, bw, dq, vl and vnni.
#include "kernels/shared/vector_kernels.h"
#include "kernels/x86/lanes_avx512.h"
#include "kernels/x86/tile_avx512.h"

namespace quaver {

constinit const KernelTable avx512vnni_kernels =
    VectorKernels<Lanes, VnniTile>::table("avx512vnni", 350, 100, &avx512bf16_kernels);

} // namespace quaver
