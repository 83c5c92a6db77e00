// Memory in huge pages, for what is read from one end to the other: of small pages every one is a look-up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace tailorbird {

// Whole huge pages. Throws std::bad_alloc.
std::shared_ptr<uint8_t> huge_pages(size_t bytes);

// Room for a weight, at a multiple of 64 bytes. Small weights that a thread makes one after the other, as those of a
// model's layers, stand one after the other in the same pages, which go with the last of them. Throws std::bad_alloc.
std::shared_ptr<uint8_t> weight_room(size_t bytes);

}  // namespace tailorbird
