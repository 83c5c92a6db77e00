// The kernels, written once over a set of lanes `V` (simd_*.h) and compiled once a variant.
//
// Within a group all is integer: t = sum of codes * activations - zero * sum of activations. Beyond it every lane
// adds float(t) * (scale * activation scale), a multiplication and an addition rounded each, groups in stored order.
// The rest of a wide group follows its group, as if it were one more.
// So all variants give the same bits, and a row of activations gives the same whatever rows it is multiplied with.
#pragma once

#include "exact.h"
#include "few.h"
#include "many.h"
#include "quantize.h"

namespace tailorbird {

template <class V>
constexpr Variant variant_of(const char* name) {
  return {name, quantize_row, V::kSignSums ? tabulate_group : nullptr, Few<V>::few, Many<V>::many, Exact<V>::exact,
          Many<V>::many_scratch};
}

}  // namespace tailorbird
