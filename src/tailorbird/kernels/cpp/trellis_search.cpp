#include "trellis_search.h"

#include <algorithm>
#include <vector>

#include "pool.h"
#include "simd.h"
#include "trellis.h"

namespace tailorbird {
namespace {

// A row is coded from the first column to the last. A survivor is a path so far: its state, its loss, and what its
// errors make of the weights that come next, `window` of them. At every column the best of all their children
// survive. When the window has been passed, its first block is decided as the best survivor has it.
constexpr size_t kBlocks = 3;                    // blocks of a window
constexpr size_t kWindow = kBlocks * kLanes;
constexpr size_t kChildren = size_t{1} << kTrellisMaxBits;
constexpr uint32_t kMask = (1u << kTrellisState) - 1;

struct Survivors {
  std::vector<float> ahead, loss;  // (beam, window), (beam,)
  std::vector<uint32_t> state;
  size_t count = 0;
};

struct Scratch {
  Survivors now, next;
  std::vector<float> target, losses, errors;  // errors, parents and symbols: (window, beam)
  std::vector<uint16_t> parents, chosen;
  std::vector<uint8_t> symbols, path;

  Scratch(size_t cols, size_t beam)
      : target(cols + 2 * kWindow), losses(beam * kChildren + kLanes), errors(kWindow * beam),
        parents(kWindow * beam), chosen(beam * kChildren + kLanes), symbols(kWindow * beam), path(cols) {
    for (Survivors* s : {&now, &next}) {
      s->ahead.resize(beam * kWindow);
      s->loss.resize(beam);
      s->state.resize(beam);
    }
  }
};

TAILORBIRD_INLINE size_t place(size_t column) { return column % kWindow; }

TAILORBIRD_INLINE float least(Floats v) {
  float a[kLanes];
  std::memcpy(a, &v, sizeof a);
  for (int n = kLanes / 2; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) a[i] = a[i] < a[i + n] ? a[i] : a[i + n];
  return a[0];
}

TAILORBIRD_INLINE size_t total(Ints v) {
  int32_t a[kLanes];
  std::memcpy(a, &v, sizeof a);
  for (int n = kLanes / 2; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) a[i] += a[i + n];
  return static_cast<size_t>(a[0]);
}

// A bound that at most `most` of n losses are below, and hardly fewer; losses behind the last are infinite.
TAILORBIRD_INLINE float bound(const float* losses, size_t n, size_t most) {
  const Floats infinite = broadcast(__builtin_inff());
  Floats small = infinite, large = infinite;
  for (size_t i = 0; i < n; i += kLanes) {
    const Floats v = load(losses + i), back = v < infinite ? -v : infinite;
    small = v < small ? v : small;
    large = back < large ? back : large;
  }
  float low = least(small), high = -least(large);
  for (int i = 0; i < 40; ++i) {
    const float middle = i < 8 ? low + (high - low) / 4 : (low + high) / 2;
    if (!(middle > low && middle < high)) break;
    Ints below{};
    for (size_t k = 0; k < n; k += kLanes) below -= load(losses + k) <= broadcast(middle);
    const size_t count = total(below);
    (count <= most ? low : high) = middle;
    if (count <= most && count + most / 8 >= most) break;
  }
  return low;
}

// All children of the survivors at a column: losses[m << Bits | u] of the child that symbol u makes of survivor m.
template <int Bits>
TAILORBIRD_INLINE void children(const Survivors& s, const float* values, float scale, float inverse, size_t at,
                                float* losses) {
  constexpr size_t kCount = size_t{1} << Bits;
  typedef float Child __attribute__((vector_size(4 * kCount)));
  for (size_t m = 0; m < s.count; ++m) {
    Child v;
    std::memcpy(&v, values + ((s.state[m] << Bits) & kMask), sizeof v);
    const Child lost = s.ahead[m * kWindow + at] * inverse - v * scale, loss = lost * lost + s.loss[m];
    std::memcpy(losses + m * kCount, &loss, sizeof loss);
  }
}

// One column: the best children survive, and their errors move the weights ahead, up to column `end`.
TAILORBIRD_INLINE void step(const Search& s, Scratch& w, size_t column, int bits, float scale, const float* values,
                            size_t end) {
  const float* row = s.upper + column * s.cols;
  const size_t at = place(column), n = w.now.count << bits;
  const float inverse = 1 / row[column], unit = scale * inverse;
  float* losses = w.losses.data();
  if (bits == 1) children<1>(w.now, values, unit, inverse, at, losses);
  if (bits == 2) children<2>(w.now, values, unit, inverse, at, losses);
  if (bits == 3) children<3>(w.now, values, unit, inverse, at, losses);
  if (bits == 4) children<4>(w.now, values, unit, inverse, at, losses);
  uint16_t* chosen = w.chosen.data();
  size_t count = 0;
  if (n <= s.beam) {
    for (; count < n; ++count) chosen[count] = static_cast<uint16_t>(count);
  } else {
    store(losses + n, broadcast(__builtin_inff()));
    const Floats top = broadcast(bound(losses, n, s.beam));
    store(losses + n, broadcast(__builtin_nanf("")));  // below no bound, an infinite one neither
    for (size_t i = 0; i < n; i += kLanes) {
      const Bytes low = __builtin_convertvector(load(losses + i) <= top, Bytes);
      for (size_t k = 0; k < kLanes; ++k) {
        chosen[count] = static_cast<uint16_t>(i + k);
        count -= static_cast<size_t>(static_cast<ptrdiff_t>(low[k]));
      }
    }
    if (count == 0) chosen[count++] = 0;  // weights that are no numbers
    count = std::min(count, s.beam);
  }
  float factor[kWindow + kLanes];
  const size_t first = column / kLanes * kLanes;
  for (size_t b = first; b < end; b += kLanes)
    for (size_t i = 0; i < kLanes; ++i) factor[b - first + i] = b + i < s.cols ? row[b + i] : 0;
  for (size_t a = 0; a < count; ++a) {
    const size_t m = chosen[a] >> bits, u = chosen[a] & ((1u << bits) - 1);
    const uint32_t state = (w.now.state[m] << bits | static_cast<uint32_t>(u)) & kMask;
    const float error = w.now.ahead[m * kWindow + at] * inverse - values[state] * unit;
    w.next.state[a] = state;
    w.next.loss[a] = losses[chosen[a]];
    w.errors[at * s.beam + a] = error;
    w.parents[at * s.beam + a] = static_cast<uint16_t>(m);
    w.symbols[at * s.beam + a] = static_cast<uint8_t>(u);
    const Floats e = broadcast(error);
    for (size_t b = first; b < end; b += kLanes) {
      const size_t to = place(b);
      store(w.next.ahead.data() + a * kWindow + to,
            load(w.now.ahead.data() + m * kWindow + to) - e * load(factor + (b - first)));
    }
  }
  w.next.count = count;
  std::swap(w.now, w.next);
}

TAILORBIRD_INLINE size_t best(const Survivors& s) {
  return static_cast<size_t>(std::min_element(s.loss.begin(), s.loss.begin() + s.count) - s.loss.begin());
}

// Decides the columns from `begin` on, one block, as the best survivor has them; survivors that have them otherwise go.
// All have come to the end of the window, and look one block further afterwards.
TAILORBIRD_INLINE void decide(const Search& s, Scratch& w, size_t begin) {
  const size_t kept = begin + kLanes, end = begin + kWindow, last = place(end - 1) * s.beam;
  const size_t wide = end < s.cols ? std::min<size_t>(kLanes, s.cols - end) : 0;
  constexpr size_t kOpen = kWindow - kLanes;  // columns of the window that stay undecided
  float factors[kOpen][kLanes] = {};          // of what their errors make of the next block
  size_t slots[kOpen];
  for (size_t c = 0; c < kOpen; ++c) {
    std::copy_n(s.upper + (kept + c) * s.cols + end, wide, factors[c]);
    slots[c] = place(kept + c) * s.beam;
  }
  uint16_t origin[kMaxBeam] = {};
  alignas(64) float moved[kMaxBeam][kLanes];
  for (size_t m = 0; m < w.now.count; ++m) {
    size_t a = m;
    Floats sum{};
    for (size_t c = kOpen; c-- > 0; a = w.parents[slots[c] + a]) {
      const Floats error = broadcast(w.errors[slots[c] + a]);
      sum -= error * load(factors[c]);
    }
    origin[m] = static_cast<uint16_t>(a);
    store(moved[m], sum);
  }
  size_t a = origin[best(w.now)];
  const size_t chosen = a;
  for (size_t column = kept; column-- > begin;) {
    const size_t k = place(column) * s.beam + a;
    w.path[column] = w.symbols[k];
    const float* row = s.upper + column * s.cols;
    for (size_t i = end; i < s.cols; ++i) w.target[i] -= w.errors[k] * row[i];
    a = w.parents[k];
  }
  size_t count = 0;
  for (size_t m = 0; m < w.now.count; ++m) {
    if (origin[m] != chosen) continue;
    Survivors& now = w.now;
    if (count != m) std::memcpy(&now.ahead[count * kWindow], &now.ahead[m * kWindow], kWindow * sizeof(float));
    store(&now.ahead[count * kWindow + place(begin)], load(w.target.data() + end) + load(moved[m]));
    now.state[count] = now.state[m];
    now.loss[count] = now.loss[m];
    w.errors[last + count] = w.errors[last + m];
    w.parents[last + count] = w.parents[last + m];
    w.symbols[last + count] = w.symbols[last + m];
    ++count;
  }
  w.now.count = count;
}

TAILORBIRD_INLINE void write_path(const Search& s, const Scratch& w, uint8_t* stream) {
  size_t bit = 0;
  for (size_t column = 0; column < s.cols; ++column)
    for (int k = column_bits(s.halves[column / s.group_size], column); k-- > 0; ++bit)
      stream[bit / 8] |= static_cast<uint8_t>((w.path[column] >> k & 1) << bit % 8);
}

TAILORBIRD_CLONES void search_row(const Search& s, Scratch& w, size_t r) {
  std::fill(w.target.begin(), w.target.end(), 0.0f);
  std::memcpy(w.target.data(), s.weight + r * s.cols, s.cols * sizeof(float));
  std::memcpy(w.now.ahead.data(), w.target.data(), kWindow * sizeof(float));
  w.now.count = 1;
  w.now.state[0] = 0;
  w.now.loss[0] = 0;
  size_t begin = 0;
  for (size_t column = 0; column < s.cols; ++column) {
    if (column == begin + kWindow) {
      decide(s, w, begin);
      begin += kLanes;
    }
    const size_t group = column / s.group_size;
    const float scale = s.scale[r * (s.cols / s.group_size) + group];
    step(s, w, column, column_bits(s.halves[group], column), scale,
         s.values + (static_cast<size_t>(s.halves[group]) << kTrellisState), begin + kWindow);
  }
  size_t a = best(w.now);
  for (size_t column = s.cols; column-- > begin;) {
    const size_t k = place(column) * s.beam + a;
    w.path[column] = w.symbols[k];
    a = w.parents[k];
  }
  write_path(s, w, s.stream + r * s.stream_bytes);
}

}  // namespace

void search_rows(const Search& search) {
  auto pool = Pool::acquire();
  std::vector<Scratch> scratch(pool->size(), Scratch(search.cols, search.beam));
  pool->split(search.rows, 4, [&](size_t begin, size_t end, size_t thread) {
    for (size_t r = begin; r < end; ++r) search_row(search, scratch[thread], r);
  });
}

}  // namespace tailorbird
