#include "loops.h"
#include "simd_portable.h"

namespace tailorbird {

extern const Variant portable;
const Variant portable = variant_of<Portable>("portable");

}  // namespace tailorbird
