#include "loops.h"
#include "simd_neon.h"

namespace tailorbird {

extern const Variant neon_dotprod;
const Variant neon_dotprod = Loops<Neon>::variant("neon-dotprod");

}  // namespace tailorbird
