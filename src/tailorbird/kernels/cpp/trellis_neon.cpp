#include "trellis_loops.h"
#include "trellis_neon.h"

namespace tailorbird {

extern const TrellisVariant trellis_neon;
const TrellisVariant trellis_neon = TrellisLoops<Neon, LookedNeon>::variant();

}  // namespace tailorbird
