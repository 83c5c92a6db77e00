// Activations rounded to 8 bits by group of columns, compiled once a variant.
#pragma once

#include <cmath>
#include <cstring>

#include "layout.h"

namespace tailorbird {

// A group whose largest magnitude is above this many times the row's root mean square is wide: what rounding leaves of
// it is rounded as well. So no column is off by more than kWide / 254 of the row's root mean square, and the few groups
// with outliers, which would cost most, cost nothing.
constexpr float kWide = 4.0f;

// Adding it leaves a number, rounded to nearest even, in the low bits.
constexpr float kRound = 12582912.0f;  // 1.5 * 2**23

static inline int32_t whole(float shifted) {
  int32_t bits;
  std::memcpy(&bits, &shifted, 4);
  return bits - 0x4B400000;
}

// Magnitudes are compared as integers: infinities and what is no number come out largest.
static inline float largest_of(const float* x, size_t n) {
  uint32_t top = 0;
  for (size_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    bits &= 0x7FFFFFFFu;
    top = bits > top ? bits : top;
  }
  float largest;
  std::memcpy(&largest, &top, 4);
  return largest;
}

// In sixteen sums, always added in the same order: every variant finds the same number.
static inline float root_mean_square(const float* x, size_t n) {
  float part[16] = {};
  size_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (size_t lane = 0; lane < 16; ++lane) part[lane] += x[i + lane] * x[i + lane];
  for (; i < n; ++i) part[0] += x[i] * x[i];
  for (size_t half = 8; half > 0; half /= 2)
    for (size_t lane = 0; lane < half; ++lane) part[lane] += part[lane + half];
  return std::sqrt(part[0] / static_cast<float>(n));
}

static inline int32_t round_all(const float* x, size_t n, float inverse, int8_t* codes) {
  int32_t sum = 0;
  for (size_t i = 0; i < n; ++i) {
    const int32_t code = whole(x[i] * inverse + kRound);
    codes[i] = static_cast<int8_t>(code);
    sum += code;
  }
  return sum;
}

// What `round_all` left, at most half a step, in steps 254 times as fine.
static inline int32_t round_rest(const float* x, size_t n, float inverse, int8_t* codes) {
  int32_t sum = 0;
  for (size_t i = 0; i < n; ++i) {
    const float exact = x[i] * inverse, rounded = (exact + kRound) - kRound;
    const int32_t code = whole((exact - rounded) * 254.0f + kRound);
    codes[i] = static_cast<int8_t>(code);
    sum += code;
  }
  return sum;
}

[[maybe_unused]] static void quantize_row(const float* x, size_t group_size, size_t groups, Rounded main, Rounded rest) {
  const size_t width = (group_size + kColumns - 1) / kColumns * kColumns;
  const float bound = kWide * root_mean_square(x, group_size * groups);
  std::memset(rest.codes, 0, groups * width);
  for (size_t g = 0; g < groups; ++g, x += group_size, main.codes += width, rest.codes += width) {
    const float largest = largest_of(x, group_size);
    const bool finite = largest < __builtin_inff(), tiny = largest < 1e-35f, wide = finite && !tiny && largest > bound;
    // Not finite: every result is made "not a number", as a float product would mostly be.
    main.scales[g] = !finite ? __builtin_nanf("") : tiny ? 0.0f : largest / 127.0f;
    rest.scales[g] = wide ? main.scales[g] / 254.0f : 0.0f;
    main.sums[g] = rest.sums[g] = 0;
    if (!finite || tiny)
      std::memset(main.codes, 0, group_size);
    else
      main.sums[g] = round_all(x, group_size, 127.0f / largest, main.codes);
    if (wide) rest.sums[g] = round_rest(x, group_size, 127.0f / largest, rest.codes);
    std::memset(main.codes + group_size, 0, width - group_size);
  }
}

}  // namespace tailorbird
