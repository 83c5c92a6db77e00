// What a decoder computes between its packed weights: norms, rotary positions, gates, and attention over a cache.
#pragma once

#include <cstdint>

namespace tailorbird {

enum class Gate { silu, gelu_tanh };

// out[i] = x[i] / sqrt(mean(x**2) + eps) * weight[i]; x and out may be the same.
void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out);

// cosine[i] = cos(position * frequency[i]) * scaling, and the same of the sine.
void angles(const float* frequency, int64_t half, int64_t position, float scaling, float* cosine, float* sine);

// Turns the first 2 * half numbers of a head; number i goes with number i + half, as in the Hugging Face layout.
void rotate(float* head, const float* cosine, const float* sine, int64_t half);

// gate[i] = act(gate[i]) * up[i].
void gated(float* gate, const float* up, int64_t n, Gate kind);

// x[i] += y[i].
void add(float* x, const float* y, int64_t n);

// x[i] = cap * tanh(x[i] / cap).
void soft_cap(float* x, float cap, int64_t n);

// x[i] *= factor.
void multiply(float* x, float factor, int64_t n);

// Rounds a head's vector to bfloat16; of every 32 numbers, number i goes beside number 16 + i.
void to_bf16(const float* x, int64_t dim, uint16_t* out);

// Keys or values of one head: as `to_bf16` makes them, or as `to_int8` does, with a scale a position.
struct Stored {
  const uint16_t* bf16 = nullptr;
  const int8_t* int8 = nullptr;
  const float* scales = nullptr;
};

struct Head {
  Stored keys, values;
  int64_t dim;     // numbers in a key
  float scale;     // of the products
  float soft_cap;  // 0: none
  int64_t window;  // keys looked back at, the own one included; 0: all
};

// One head of one token.
struct Query {
  const float* q;
  float* out;
  int64_t position;
};

// Queries by rising position, each over the keys at positions up to its own.
void attend(const Head& head, const Query* queries, int64_t count);

// Rounds a head's vector to 8 bits and returns the scale.
float to_int8(const float* x, int64_t dim, int8_t* out);

}  // namespace tailorbird
