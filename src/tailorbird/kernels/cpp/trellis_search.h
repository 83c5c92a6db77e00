// The search for a path through a trellis (trellis.h) that loses least, with error feedback along the columns.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tailorbird {

constexpr size_t kMaxBeam = 256;

// Some rows of a weight and how they are to be coded; dense arrays, rows first.
struct Search {
  size_t rows, cols, group_size, beam;
  const uint8_t* halves;  // half bits a column of every group
  const float* values;    // what a state stands for, a table of 2**12 for every number of half bits up to 8
  const float* weight;    // (rows, cols)
  const float* scale;     // (rows, groups)
  const float* upper;     // (cols, cols): the factor of the sweep; an error e at column j moves later ones by e * its row j
  size_t stream_bytes;
  uint8_t* stream;        // (rows, stream_bytes), zeroed
};

// Takes the pool for itself. Throws std::bad_alloc.
void search_rows(const Search& search);

}  // namespace tailorbird
