#include "sampling.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "pool.h"
#include "simd.h"

namespace tailorbird {

namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr size_t kThreads = 256;  // at most, see pool.h
constexpr size_t kAlone = 64;     // stretches that are not worth waking other threads

// The first where the second is no number.
TAILORBIRD_INLINE Floats higher(Floats a, Floats b) { return b > a ? b : a; }

// Of whole stretches; several at once, so that none waits for the one before it.
TAILORBIRD_CLONES float highest_of(const float* x, size_t n) {
  Floats most[4];
  for (Floats& one : most) one = broadcast(kNone);
  for (size_t i = 0; i < n; i += 4 * kLanes)
    for (int k = 0; k < 4; ++k) most[k] = higher(most[k], load(x + i + k * kLanes));
  return highest(higher(higher(most[0], most[1]), higher(most[2], most[3])));
}

// 2**(factor * (a logit - top)), for factors that are not negative.
TAILORBIRD_INLINE Floats weights_at(const float* logits, float top, float factor) {
  const Floats x = (load(logits) - top) * factor, low = broadcast(-125.0f), near = x > low ? x : low;
  const Floats shifted = near + kWhole;
  return x > low ? power_of_two(shifted, near - (shifted - kWhole)) : Floats{};
}

TAILORBIRD_CLONES void sum_up(const float* logits, size_t count, float top, float factor, float* sums, float* tops) {
  for (size_t s = 0; s < count; ++s) {
    Floats total{}, most{};
    for (size_t i = s * kStretch; i < (s + 1) * kStretch; i += kLanes) {
      const Floats w = weights_at(logits + i, top, factor);
      total += w;
      most = higher(most, w);
    }
    sums[s] = sum(total);
    tops[s] = highest(most);
  }
}

TAILORBIRD_CLONES void weigh_stretch(const float* logits, float top, float factor, float* weights) {
  for (size_t i = 0; i < kStretch; i += kLanes) store(weights + i, weights_at(logits + i, top, factor));
}

// The tokens behind the last whole stretch, and none behind them.
struct Rest {
  float logits[kStretch];

  explicit Rest(const Choice& choice) {
    const size_t whole = choice.n / kStretch * kStretch;
    std::fill(std::copy_n(choice.logits + whole, choice.n - whole, logits), logits + kStretch, kNone);
  }
};

// The first place whose running sum is greater than `point`, from which what stands before that place is taken; where
// rounding left none, the last that has added anything.
size_t first_beyond(const float* weights, size_t n, double& point) {
  double reach = 0, before = 0;
  size_t last = 0;
  for (size_t i = 0; i < n; ++i) {
    const double next = reach + weights[i];
    if (next > reach) last = i, before = reach;
    if (next > point) break;
    reach = next;
  }
  point -= before;
  return last;
}

}  // namespace

float weigh(const Choice& choice, float* sums, float* tops) {
  const Rest rest(choice);
  auto pool = Pool::acquire();
  const size_t whole = choice.n / kStretch, threads = whole <= kAlone ? 1 : pool->size();
  float highs[kThreads + 1];
  highs[threads] = highest_of(rest.logits, kStretch);
  const auto top = [&] { return *std::max_element(highs, highs + threads + 1); };
  auto part = [&](size_t thread) {
    const size_t begin = whole * thread / threads, end = whole * (thread + 1) / threads;
    const float* mine = choice.logits + begin * kStretch;
    highs[thread] = highest_of(mine, (end - begin) * kStretch);
    if (threads > 1) pool->barrier();
    sum_up(mine, end - begin, top(), choice.factor(), sums + begin, tops + begin);
  };
  if (threads > 1)
    pool->each(part);
  else
    part(0);
  if (whole < choice.stretches()) sum_up(rest.logits, 1, top(), choice.factor(), sums + whole, tops + whole);
  return top();
}

void weights_of(const Choice& choice, float highest, const int64_t* stretches, size_t count, float* weights) {
  const Rest rest(choice);
  for (size_t i = 0; i < count; ++i) {
    const size_t s = static_cast<size_t>(stretches[i]);
    const float* logits = s < choice.n / kStretch ? choice.logits + s * kStretch : rest.logits;
    weigh_stretch(logits, highest, choice.factor(), weights + i * kStretch);
  }
}

size_t draw(const Choice& choice, double uniform) {
  std::vector<float> sums(choice.stretches()), tops(choice.stretches());
  const float highest = weigh(choice, sums.data(), tops.data());
  double total = 0;
  for (const float sum : sums) total += sum;
  double point = uniform * total;
  const auto stretch = static_cast<int64_t>(first_beyond(sums.data(), sums.size(), point));
  float weights[kStretch];
  weights_of(choice, highest, &stretch, 1, weights);
  return static_cast<size_t>(stretch) * kStretch + first_beyond(weights, kStretch, point);
}

}  // namespace tailorbird
