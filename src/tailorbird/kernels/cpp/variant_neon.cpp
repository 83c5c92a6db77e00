#include "loops.h"
#include "simd_neon.h"

namespace tailorbird {

extern const Variant neon;
const Variant neon = Loops<Neon>::variant("neon");

}  // namespace tailorbird
