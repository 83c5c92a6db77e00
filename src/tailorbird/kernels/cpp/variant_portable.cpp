#include "loops.h"
#include "simd_portable.h"

namespace tailorbird {

extern const Variant portable;
const Variant portable = Loops<Portable>::variant("portable");

}  // namespace tailorbird
