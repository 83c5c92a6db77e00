// How fast this machine reads memory: the wall that a kernel which reads every weight once runs against.
#pragma once

#include <cstddef>

namespace tailorbird {

// Bytes a second at which the threads of the pool together read a buffer of `bytes` (much larger than the caches),
// the best of `passes`. Throws std::bad_alloc.
double read_bandwidth(size_t bytes, size_t passes);

}  // namespace tailorbird
