#include "loops.h"
#include "simd_avx2.h"

namespace tailorbird {

extern const Variant avx2;
const Variant avx2 = variant_of<Avx2>("avx2");

}  // namespace tailorbird
