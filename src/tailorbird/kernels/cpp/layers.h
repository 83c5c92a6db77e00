// What a decoder computes between its packed weights, attention aside: norms, rotary positions, gates, rounding.
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

// Rounds a head's vector to 8 bits and returns the scale.
float to_int8(const float* x, int64_t dim, int8_t* out);

}  // namespace tailorbird
