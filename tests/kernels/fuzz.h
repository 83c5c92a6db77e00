// What the drivers of the fuzzing share: random numbers, arrays of the exact size, random packed weights.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "kernels.h"

namespace tailorbird {

inline std::mt19937_64 engine;

// A small decoder over random weights, or one whose parts don't fit together.
void one_decoder();

// Distributions and shuffles of the library differ from one to the next.
inline size_t pick(size_t low, size_t high) { return low + engine() % (high - low + 1); }

template <class T>
std::unique_ptr<T[]> array(size_t count) {
  return std::make_unique<T[]>(count);
}

struct Arrays {
  std::unique_ptr<uint8_t[]> planes, scales, row_scales, zeros, offsets, row_offsets;
  size_t planes_size = 0, scales_size = 0, zeros_size = 0, rows = 0;
};

inline std::unique_ptr<uint8_t[]> bytes(size_t count) {
  auto out = array<uint8_t>(count);
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<uint8_t>(engine());
  return out;
}

// Halves between 1/8 and 2 in magnitude, or anything.
inline std::unique_ptr<uint8_t[]> halves(size_t count, bool sane) {
  auto out = bytes(2 * count);
  for (size_t i = 0; sane && i < count; ++i) {
    const auto half = static_cast<uint16_t>((12 + engine() % 4) << 10 | engine() % 1024);
    std::memcpy(out.get() + 2 * i, &half, 2);
  }
  return out;
}

inline Source make(size_t rows, size_t group_size, size_t groups, bool sane, Arrays& a) {
  Source s;
  s.bits = static_cast<int>(pick(1, 8));
  s.scale = pick(0, 1) ? Scale::byte : Scale::half;
  s.offset = static_cast<Offset>(pick(0, 2));
  const size_t count = pick(1, groups), width = s.scale == Scale::byte ? 1 : 2;
  for (size_t i = 0; i < count; ++i) {
    s.groups.push_back(static_cast<int32_t>(pick(0, groups - 1)));
    s.scale_index.push_back(static_cast<int32_t>(i));
  }
  a.rows = rows;
  s.planes_stride = static_cast<size_t>(s.bits) * ((count * group_size + 7) / 8);
  s.scales_stride = s.offsets_stride = count * width;
  s.zero_width = static_cast<size_t>(s.bits);
  s.zeros_bit = pick(0, 9);
  s.zeros_stride = (s.zeros_bit + count * s.zero_width + 7) / 8;
  a.planes = bytes(a.planes_size = rows * s.planes_stride);
  a.scales_size = rows * s.scales_stride;
  a.scales = width == 1 ? bytes(a.scales_size) : halves(rows * count, sane);
  a.offsets = width == 1 ? bytes(a.scales_size) : halves(rows * count, sane);
  a.zeros = bytes(a.zeros_size = rows * s.zeros_stride);
  a.row_scales = halves(rows, sane);
  a.row_offsets = halves(rows, sane);
  s.planes = a.planes.get();
  s.scales = a.scales.get();
  s.row_scales = a.row_scales.get();
  s.zeros = a.zeros.get();
  s.offsets = a.offsets.get();
  s.row_offsets = a.row_offsets.get();
  return s;
}

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "wrong: %s\n", what);
  std::exit(1);
}

inline bool same(const float* a, const float* b, size_t count) { return std::memcmp(a, b, count * sizeof(float)) == 0; }

// What is no number has many forms; all else must agree to the bit.
inline bool alike(const float* a, const float* b, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (!(std::isnan(a[i]) && std::isnan(b[i])) && !same(a + i, b + i, 1)) return false;
  return true;
}

}  // namespace tailorbird
