// What drawing a token from its logits needs, in one pass over a vocabulary.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tailorbird {

constexpr size_t kStretch = 128;  // tokens whose sum and highest weight are told together

// A token weighs exp((its logit - the highest logit) / temperature). What is 2**125 times less likely than the most
// likely one, and what is no number, weighs nothing.
struct Choice {
  const float* logits;
  size_t n;
  float temperature;

  float factor() const { return 1.44269504f / temperature; }  // what logits are multiplied with for powers of two
  size_t stretches() const { return (n + kStretch - 1) / kStretch; }
};

// The sum and the highest weight of every stretch; returns the highest logit. Takes the pool for itself.
float weigh(const Choice& choice, float* sums, float* tops);

// Weights of `count` stretches, kStretch numbers each, zeros behind the last token; `highest` is what `weigh` returned.
void weights_of(const Choice& choice, float highest, const int64_t* stretches, size_t count, float* weights);

// A token, drawn by weight; `uniform` is the number of chance, from 0 up to 1.
size_t draw(const Choice& choice, double uniform);

}  // namespace tailorbird
