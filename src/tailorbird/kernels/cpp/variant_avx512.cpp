#include "loops.h"
#include "simd_avx512.h"

namespace tailorbird {

extern const Variant avx512;
const Variant avx512 = variant_of<Avx512>("avx512");

}  // namespace tailorbird
