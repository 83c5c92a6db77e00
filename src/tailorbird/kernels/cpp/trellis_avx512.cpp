#include "simd_avx512.h"
#include "trellis_avx512.h"
#include "trellis_loops.h"

namespace tailorbird {

extern const TrellisVariant trellis_avx512;
const TrellisVariant trellis_avx512 = TrellisLoops<Avx512, LookedAvx512>::variant();

}  // namespace tailorbird
