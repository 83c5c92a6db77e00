// Small pieces of bits and halves, in plain C++.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tailorbird {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "stored arrays are little-endian");

// Bits at .. at + n (n <= 8) of a string, lowest first. Reads no byte that holds none of them.
static inline uint8_t read_bits(const uint8_t* string, size_t at, size_t n) {
  const size_t byte = at / 8, shift = at % 8;
  unsigned value = string[byte] >> shift;
  if (shift + n > 8) value |= static_cast<unsigned>(string[byte + 1]) << (8 - shift);
  return static_cast<uint8_t>(value & ((1u << n) - 1));
}

static inline void or_bits(uint8_t* string, size_t at, size_t n, unsigned value) {
  const size_t byte = at / 8, shift = at % 8;
  value &= (1u << n) - 1;
  string[byte] |= static_cast<uint8_t>(value << shift);
  if (shift + n > 8) string[byte + 1] |= static_cast<uint8_t>(value >> (8 - shift));
}

// Transposes 8 x 8 bits: bit j of byte i goes to bit i of byte j (Warren, Hacker's Delight, section 7-3).
static inline uint64_t transpose_bits(uint64_t x) {
  uint64_t t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAull;
  x ^= t ^ (t << 7);
  t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCull;
  x ^= t ^ (t << 14);
  t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ull;
  return x ^ t ^ (t << 28);
}

static inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, exponent = (half >> 10) & 31, rest = half & 1023;
  uint32_t bits;
  float value;
  if (exponent == 0) {  // zero and subnormal: an exact product
    value = static_cast<float>(rest) * 0x1p-24f;
    std::memcpy(&bits, &value, 4);
    bits |= sign;
  } else if (exponent == 31) {
    bits = sign | 0x7F800000u | (rest << 13) | (rest ? 0x00400000u : 0u);  // as the hardware does: quiet
  } else {
    bits = sign | ((exponent + 112) << 23) | (rest << 13);
  }
  std::memcpy(&value, &bits, 4);
  return value;
}

static inline float load_half(const uint8_t* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  return half_to_float(half);
}

}  // namespace tailorbird
