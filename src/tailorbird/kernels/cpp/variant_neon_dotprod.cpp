#include "loops.h"
#include "simd_neon.h"

namespace tailorbird {

extern const Variant neon_dotprod;
const Variant neon_dotprod = variant_of<Neon>("neon-dotprod");

}  // namespace tailorbird
