// How a packed weight stands in memory: plain data that every variant of the kernels reads.
//
// Rows stand in lanes, 16 rows a tile. All that a tile needs is one stretch of memory, in the order of reading:
//
//   tile  := for every run:    [16 half row scales, if scales are bytes] [16 half row offsets, if offsets are too]
//            then every group: [16 scales] [16 zero points or 16 offsets] [codes]
//   codes := for every step of 4 columns 8 * bits bytes: for each pair of rows (2q, 2q + 1) the bytes of the planes,
//            lowest plane first; bit j of a byte belongs to row 2q + j / 4, column j % 4.
//
// A run is one bit-width over a list of column groups. Runs add up, so residual and split binary weights are
// several runs over the same columns. Rows are padded to 16 and groups to 4 columns, with zeros.
//
// Functions here are static: the variants are compiled for different processors and must not share code.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tailorbird {

constexpr size_t kRows = 16;          // rows of a tile
constexpr size_t kColumns = 4;        // columns of a step
constexpr size_t kMaxGroup = 32768;   // columns of a group: sums of 255 * 127 a column stay within 32 bits
constexpr size_t kMaxColumns = size_t{1} << 24;
constexpr size_t kSlack = 64;         // bytes behind the last code that may be read

enum class Scale : uint8_t { half, byte };            // byte: times a half a row
enum class Offset : uint8_t { none, integer, real };  // none: minus scale times the middle of the codes, 1/2 for one bit

struct Run {
  int bits;
  Scale scale;
  Offset offset;
  bool adds;              // some of its columns stand in an earlier run as well
  size_t begin;           // bytes from the start of a tile
  size_t count;           // groups
  const int32_t* groups;  // column groups, in the order in which they are stored
};

struct Trellis;

struct Layout {
  size_t rows, cols, group_size, groups, steps, tiles, tile_bytes, run_count;
  const Run* runs;
  const int32_t* order;  // stored column k is column order[k] of the weight; null if they are the same
  const uint8_t* data;   // tiles, 64-byte aligned
  const Trellis* trellis;  // null: runs; else there are none, see trellis.h
};

static inline size_t scale_width(const Run& run) { return run.scale == Scale::half ? 2 : 1; }
static inline size_t scale_bytes(const Run& run) { return kRows * scale_width(run); }
static inline size_t unit_bytes(const Run& run) {
  return run.scale == Scale::half ? 0 : run.offset == Offset::real ? 4 * kRows : 2 * kRows;
}
static inline size_t offset_bytes(const Run& run) {
  return run.offset == Offset::none ? 0 : run.offset == Offset::integer ? kRows : kRows * scale_width(run);
}
static inline size_t group_bytes(const Run& run, size_t steps) {
  return scale_bytes(run) + offset_bytes(run) + steps * 8 * static_cast<size_t>(run.bits);
}

// Symmetric codes of one bit are signs. For a single row of activations there may be tables of what those of four
// steps add up to, column by column, whatever the signs.
struct SignSums {
  // Entry 16 c + n: the activations of column c, that of step t added where bit t of n is one and taken away where it
  // is zero, are low + 256 * high.
  alignas(64) int8_t low[64], high[64];
};
constexpr size_t kSignSteps = 4;
static inline bool signs(const Run& run, size_t steps) {
  return run.bits == 1 && run.scale == Scale::byte && run.offset == Offset::none && steps % kSignSteps == 0;
}

// Steps of a group.
struct Stretch {
  int32_t begin, end;
};

// Activations as the kernels read them: columns in stored order, every group padded to whole steps.
// With 8 bits a value is code * scale, and in wide groups, those whose rest has a scale, plus the rest's code * scale.
struct Activations8 {
  const int8_t* codes;    // (rows, stride)
  const float* scales;    // (rows, groups)
  const int32_t* sums;    // (rows, groups): sums of the codes
};
struct Activations32 {
  const float* values;    // (rows, stride)
  const float* sums;      // (rows, groups)
};
struct View {
  size_t rows, stride, groups;
  Activations8 int8, rest;
  const Stretch* stretches;  // (rows, groups): outside them the rest of a wide group is zero
  Activations32 fp32;
  const SignSums* signs;     // (groups, steps / kSignSteps) of one row; null: none
};

// Where one row of such activations goes.
struct Rounded {
  int8_t* codes;
  float* scales;
  int32_t* sums;
};
struct Rows8 {
  Rounded main, rest;
  Stretch* stretches;
};

// One compiled set of kernels.
struct Variant {
  const char* name;
  // One row of `groups` groups of values: padded codes, and a scale and a sum a group.
  void (*quantize)(const float* x, size_t group_size, size_t groups, Rows8 to);
  // The sums of a group from its codes; null where they would not be looked at.
  void (*tabulate)(const int8_t* codes, size_t steps, SignSums* to);
  // Tiles begin .. end times all rows of the activations. `few`: at most 8 rows.
  void (*few)(const Layout&, const View&, size_t begin, size_t end, float* out, size_t stride);
  void (*many)(const Layout&, const View&, size_t begin, size_t end, float* out, size_t stride, void* scratch);
  void (*exact)(const Layout&, const View&, size_t begin, size_t end, float* out, size_t stride);
  size_t (*many_scratch)(const Layout&, size_t rows);
};

constexpr size_t kFew = 8;

}  // namespace tailorbird
