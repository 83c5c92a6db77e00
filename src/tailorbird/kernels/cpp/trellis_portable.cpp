#include "simd_portable.h"
#include "trellis_loops.h"

namespace tailorbird {

extern const TrellisVariant trellis_portable;
const TrellisVariant trellis_portable = TrellisLoops<Portable>::variant();

}  // namespace tailorbird
