#include "loops.h"
#include "simd_neon.h"

namespace tailorbird {

extern const Variant neon;
const Variant neon = variant_of<Neon>("neon");

}  // namespace tailorbird
