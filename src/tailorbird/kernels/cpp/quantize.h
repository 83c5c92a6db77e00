// Activations rounded to 8 bits by group of columns, compiled once a variant.
#pragma once

#include <cmath>
#include <cstring>

#include "layout.h"

namespace tailorbird {

// A group whose largest magnitude is above this many times the row's root mean square is wide: its step is that of a
// group which just reaches so far, and what lies beyond has a second digit. So no column is off by more than
// kWide / 254 of the row's root mean square, and the second digits are few.
constexpr float kWide = 3.5f;

// What a second digit is worth: -127 to 127 and no more are left for the first.
constexpr int32_t kDigit = 255;

// Wide groups reach so many times as far as their bound, at most, before their step grows: both digits are bytes.
constexpr float kFarthest = 256.0f;

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

// Both digits of a wide group; the sums of each.
struct Sums {
  int32_t first, second;
};
static inline Sums round_wide(const float* x, size_t n, float inverse, int8_t* first, int8_t* second,
                              Stretch& stretch) {
  Sums sums{0, 0};
  size_t low = n, high = 0;
  for (size_t i = 0; i < n; ++i) {
    const int32_t code = whole(x[i] * inverse + kRound);
    const int32_t digit = whole(static_cast<float>(code) * (1.0f / kDigit) + kRound);
    first[i] = static_cast<int8_t>(code - kDigit * digit);
    second[i] = static_cast<int8_t>(digit);
    sums.first += code - kDigit * digit;
    sums.second += digit;
    if (digit) low = i < low ? i : low, high = i + 1;
  }
  stretch = {static_cast<int32_t>(low / kColumns), static_cast<int32_t>((high + kColumns - 1) / kColumns)};
  return sums;
}

[[maybe_unused]] static void quantize_row(const float* x, size_t group_size, size_t groups, Rows8 to) {
  const size_t width = (group_size + kColumns - 1) / kColumns * kColumns;
  const float bound = kWide * root_mean_square(x, group_size * groups);
  std::memset(to.rest.codes, 0, groups * width);
  for (size_t g = 0; g < groups; ++g, x += group_size, to.main.codes += width, to.rest.codes += width) {
    const float largest = largest_of(x, group_size);
    const bool finite = largest < __builtin_inff(), tiny = largest < 1e-35f;
    const bool wide = finite && bound > 0 && largest > bound;  // squares of very small numbers are zero
    const float least = largest / kFarthest, reach = !wide ? largest : bound > least ? bound : least;
    // Not finite: every result is made "not a number", as a float product would mostly be.
    to.main.scales[g] = !finite ? __builtin_nanf("") : tiny ? 0.0f : reach / 127.0f;
    to.rest.scales[g] = 0.0f;
    to.main.sums[g] = to.rest.sums[g] = 0;
    to.stretches[g] = {0, 0};
    if (wide) {
      const Sums sums = round_wide(x, group_size, 127.0f / reach, to.main.codes, to.rest.codes, to.stretches[g]);
      to.main.sums[g] = sums.first, to.rest.sums[g] = sums.second;
      if (to.stretches[g].begin < to.stretches[g].end) to.rest.scales[g] = to.main.scales[g] * kDigit;
    } else if (!finite || tiny) {
      std::memset(to.main.codes, 0, group_size);
    } else {
      to.main.sums[g] = round_all(x, group_size, 127.0f / largest, to.main.codes);
    }
    std::memset(to.main.codes + group_size, 0, width - group_size);
  }
}

[[maybe_unused]] static void tabulate_group(const int8_t* codes, size_t steps, SignSums* to) {
  constexpr size_t kEntries = size_t{1} << kSignSteps;
  for (; steps >= kSignSteps; steps -= kSignSteps, codes += kSignSteps * kColumns, ++to)
    for (size_t c = 0; c < kColumns; ++c) {
      int16_t sums[kEntries] = {};
      for (size_t t = 0; t < kSignSteps; ++t)
        for (size_t n = 0; n < kEntries; ++n)
          sums[n] = static_cast<int16_t>(sums[n] + (n >> t & 1 ? 1 : -1) * codes[kColumns * t + c]);
      for (size_t n = 0; n < kEntries; ++n) {
        const auto low = static_cast<int8_t>(sums[n]);
        to->low[kEntries * c + n] = low;
        to->high[kEntries * c + n] = static_cast<int8_t>((sums[n] - low) >> 8);
      }
    }
}

}  // namespace tailorbird
