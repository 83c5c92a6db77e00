#include "loops.h"
#include "simd_avx512.h"

namespace tailorbird {

extern const Variant avx512;
const Variant avx512 = Loops<Avx512>::variant("avx512");

}  // namespace tailorbird
