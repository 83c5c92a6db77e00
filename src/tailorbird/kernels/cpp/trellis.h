// Weights that are paths through a trellis, and how they stand in memory.
//
// A row is a string of bits, lowest first. A group of columns has h half bits a column: even columns h / 2 rounded
// down, odd ones rounded up. A column reads the bits that end with its own (before the first stand zeros). Up to two
// bits a column it reads 7, which look the code up in one table; with more it reads 12: the older six look up one
// table, the newer six another, and the code is the sum of both, a byte. To all else a weight is a symmetric code of
// 8 bits: w = scale * (code - 128).
//
//   tile := [16 half row scales, if scales are bytes] for every group: [16 scales] [32 zeros] [strings]
//   strings := byte 0 of 16 rows, then byte 1 of 16 rows, and so on through all groups
//
// Sixteen columns of a group are h bytes a row. A step of 4 columns needs at most 31 bits of a row, which lie within
// four of its bytes: one load of 64 bytes has them for 16 rows.
#pragma once

#include "layout.h"

namespace tailorbird {

constexpr int kTrellisState = 12;     // bits that a value depends on, at most
constexpr int kTrellisMaxBits = 4;    // a column
constexpr int kMaxHalves = 8;         // 2 at least
constexpr size_t kUnit = 16;          // columns; groups are whole units
constexpr size_t kTable = 128;        // one table, or 64 bytes that the older bits look up and 64 that the newer ones do
constexpr size_t kBefore = 2;         // bytes of a row that the first column may look at before its own

struct Trellis {
  Run run;                 // 8 bits, symmetric; its groups are all, in order
  const uint8_t* halves;   // of every group
  const uint8_t* tables;   // one for every number of halves up to kMaxHalves
  size_t scales, strings;  // where they are in a tile
};

// One compiled set of kernels, as `Variant`: tiles begin .. end times all rows of the activations. `few`: at most 8.
struct TrellisVariant {
  void (*few)(const Layout&, const View&, size_t begin, size_t end, float* out, size_t stride);
  void (*many)(const Layout&, const View&, size_t begin, size_t end, float* out, size_t stride, void* scratch);
  void (*exact)(const Layout&, const View&, size_t begin, size_t end, float* out, size_t stride, void* scratch);
  size_t (*scratch)(const Layout&, size_t rows);  // of `many` and `exact`
};

// Bits that a value depends on: 7 of one table, or all.
static constexpr bool one_table(int halves) { return halves <= 4; }
static constexpr int window(int halves) { return one_table(halves) ? 7 : kTrellisState; }

static constexpr int column_bits(int halves, size_t column) { return (halves + static_cast<int>(column % 2)) / 2; }

// Bits of the columns of a unit before `column`.
static constexpr int bits_before(int halves, size_t column) {
  int bits = 0;
  for (size_t c = 0; c < column; ++c) bits += column_bits(halves, c);
  return bits;
}

// The code of a column's bits, the oldest lowest; bits above them may be set.
static inline uint8_t looked_up(int halves, const uint8_t* table, uint32_t bits) {
  if (one_table(halves)) return table[bits & 127];
  return static_cast<uint8_t>(table[bits & 63] + table[64 + (bits >> 6 & 63)]);
}

// The first byte of a row that step `step` of a unit is read from. Steps that can share four bytes do.
static constexpr int first_byte(int halves, int step) {
  for (int many = 4; many > 1; many /= 2) {
    const int low = step / many * many, high = low + many;
    const int first = (bits_before(halves, kColumns * low + 1) - window(halves) + 64) / 8 - 8;
    if (bits_before(halves, kColumns * high) <= 8 * first + 32) return first;
  }
  return (bits_before(halves, kColumns * step + 1) - window(halves) + 64) / 8 - 8;
}

// Where the bits of column c of a step begin, from there.
static constexpr int first_bit(int halves, int step, int c) {
  return bits_before(halves, kColumns * step + c + 1) - window(halves) - 8 * first_byte(halves, step);
}

}  // namespace tailorbird
