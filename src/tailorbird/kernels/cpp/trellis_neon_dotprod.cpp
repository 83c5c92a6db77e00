#include "trellis_loops.h"
#include "trellis_neon.h"

namespace tailorbird {

extern const TrellisVariant trellis_neon_dotprod;
const TrellisVariant trellis_neon_dotprod = TrellisLoops<Neon, LookedNeon>::variant();

}  // namespace tailorbird
