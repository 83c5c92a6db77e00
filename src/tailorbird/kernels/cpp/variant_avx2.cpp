#include "loops.h"
#include "simd_avx2.h"

namespace tailorbird {

extern const Variant avx2;
const Variant avx2 = Loops<Avx2>::variant("avx2");

}  // namespace tailorbird
