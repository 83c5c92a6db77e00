#include "simd_avx2.h"
#include "trellis_avx2.h"
#include "trellis_loops.h"

namespace tailorbird {

extern const TrellisVariant trellis_avx2;
const TrellisVariant trellis_avx2 = TrellisLoops<Avx2, LookedAvx2>::variant();

}  // namespace tailorbird
