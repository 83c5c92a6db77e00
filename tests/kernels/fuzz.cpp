// Random weights through every entry point of the kernels, under sanitizers or on another processor: fuzz CASES SEED.
//
// Prints the variants that ran, then a digest of every case's products and rows: the same on every processor.
// Every array has its own allocation of the exact size, so a read or write beside it is seen. Half of the cases hold
// sane numbers and are compared with a naive product; the others hold random bytes: infinities, what is no number.
#include <algorithm>
#include <string>
#include <utility>

#include "bits.h"
#include "fuzz.h"
#include "pool.h"
#include "sampling.h"
#include "trellis_search.h"

using namespace tailorbird;

namespace {

uint64_t digest = 0;  // of the case, by FNV-1a; what is no number counts as one

void count_in(const float* a, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits = 0x7FC00000;
    if (!std::isnan(a[i])) std::memcpy(&bits, a + i, 4);
    digest = (digest ^ bits) * 0x100000001B3;
  }
}

void check_unpack(const Matrix& matrix, size_t run, const Source& s, const Arrays& a) {
  Arrays b;
  b.planes = array<uint8_t>(a.planes_size);
  b.scales = array<uint8_t>(a.scales_size);
  b.offsets = array<uint8_t>(a.scales_size);
  b.zeros = array<uint8_t>(a.zeros_size);
  b.row_scales = array<uint8_t>(2 * a.rows);
  b.row_offsets = array<uint8_t>(2 * a.rows);
  Target t{b.planes.get(), b.scales.get(), b.row_scales.get(), b.zeros.get(), b.offsets.get(), b.row_offsets.get(),
           s.planes_stride, s.scales_stride, s.zeros_stride, s.zeros_bit, s.zero_width, s.offsets_stride, s.scale_index};
  matrix.unpack(run, t);
  if (std::memcmp(a.scales.get(), b.scales.get(), a.scales_size)) fail("scales come back");
  const size_t count = s.groups.size() * matrix.layout().group_size, plane = (count + 7) / 8;
  for (size_t r = 0; r < a.rows; ++r)
    for (size_t p = 0; p < static_cast<size_t>(s.bits); ++p)
      for (size_t j = 0; j < count; ++j) {
        const size_t at = r * s.planes_stride + p * plane;
        if (read_bits(a.planes.get() + at, j, 1) != read_bits(b.planes.get() + at, j, 1)) fail("planes come back");
      }
}

void check_products(const Matrix& matrix, bool sane) {
  const size_t n = pick(0, 2) ? pick(0, 30) : 1, rows = matrix.rows(), cols = matrix.cols();
  const float outlier = pick(0, 1) ? 0x1p-31f : 0x1p-26f;
  auto x = array<float>(n * cols);
  for (size_t i = 0; i < n * cols; ++i) {
    const auto bits = static_cast<uint32_t>(engine());
    if (sane)
      x[i] = static_cast<float>(static_cast<int32_t>(bits)) * (i % 29 ? 0x1p-31f : outlier);
    else
      std::memcpy(&x[i], &bits, 4);
  }
  auto ids = array<int64_t>(rows);
  auto dense = array<float>(rows * cols);
  for (size_t r = 0; r < rows; ++r) ids[r] = static_cast<int64_t>(r);
  gather(matrix, ids.get(), rows, dense.get());
  count_in(dense.get(), rows * cols);
  double largest = 0;
  for (size_t i = 0; i < rows * cols; ++i) largest = std::max(largest, std::abs(double{dense[i]}));
  for (Activations mode : {Activations::int8, Activations::fp32}) {
    std::unique_ptr<float[]> first;
    for (const char* name : variants()) {
      use_variant(name);
      auto out = array<float>(n * rows);
      matmul(matrix, x.get(), n, out.get(), mode);
      if (!first)
        first = std::move(out);
      else if (!alike(first.get(), out.get(), n * rows))
        fail(name);
    }
    count_in(first.get(), n * rows);
    for (size_t i = 0; sane && i < n; ++i)
      for (size_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (size_t c = 0; c < cols; ++c) sum += double{x[i * cols + c]} * double{dense[r * cols + c]};
        const double error = std::abs(sum - double{first[i * rows + r]});
        if (error > (mode == Activations::fp32 ? 1e-5 : 2e-2) * largest * (outlier / 0x1p-31f) * static_cast<double>(cols)) fail("product");
      }
  }
}

void one() {
  const bool sane = pick(0, 1);
  const size_t rows = pick(1, pick(0, 9) ? 40 : 600), groups = pick(1, 5);
  size_t group_size = pick(1, pick(0, 9) ? 33 : 2100);
  if (pick(0, 2) == 0) group_size = (group_size + 15) / 16 * 16;  // as weights mostly have them
  std::vector<Arrays> arrays(pick(1, 3));
  std::vector<Source> sources;
  for (Arrays& a : arrays) sources.push_back(make(rows, group_size, groups, sane, a));
  std::vector<int32_t> order;
  if (pick(0, 1)) {
    for (size_t c = 0; c < group_size * groups; ++c) order.push_back(static_cast<int32_t>(c));
    for (size_t c = order.size() - 1; c > 0; --c) std::swap(order[c], order[pick(0, c)]);
  }
  Matrix matrix(rows, group_size, groups, sources, order);
  for (size_t i = 0; i < sources.size(); ++i) check_unpack(matrix, i, sources[i], arrays[i]);
  check_products(matrix, sane);
  if (pick(0, 9) == 0) Pool::set_threads(pick(1, 4));
}

void one_trellis() {
  const bool sane = pick(0, 1), byte = pick(0, 1);
  const size_t rows = pick(1, 40), groups = pick(1, 5);
  TrellisSource s;
  s.rows = rows;
  s.group_size = kUnit * pick(1, 9);
  size_t width = 0;
  for (size_t g = 0; g < groups; ++g) {
    s.halves.push_back(static_cast<uint8_t>(pick(2, kMaxHalves)));
    width += s.group_size / kUnit * s.halves.back();
  }
  const auto tables = bytes((kMaxHalves + 1) * kTable), stream = bytes(rows * width), row_scales = halves(rows, sane);
  const size_t size = rows * groups;
  const auto scales = byte ? bytes(size) : halves(size, sane);
  s.tables.assign(tables.get(), tables.get() + (kMaxHalves + 1) * kTable);
  s.stream = stream.get();
  s.scales = scales.get();
  s.row_scales = byte ? row_scales.get() : nullptr;
  const Matrix matrix(s);
  const auto again = array<uint8_t>(rows * width), scales_again = array<uint8_t>(byte ? size : 2 * size);
  const auto units_again = array<uint8_t>(2 * rows);
  matrix.unpack({again.get(), scales_again.get(), byte ? units_again.get() : nullptr});
  if (std::memcmp(again.get(), stream.get(), rows * width)) fail("streams come back");
  if (std::memcmp(scales_again.get(), scales.get(), byte ? size : 2 * size)) fail("scales of a trellis come back");
  check_products(matrix, sane);
}

// Any weights and factors: nothing but memory is looked at.
void one_search() {
  const size_t rows = pick(1, 5), groups = pick(1, 4), size = kUnit * pick(1, 5), cols = groups * size;
  std::vector<uint8_t> count;
  size_t width = 0;
  for (size_t g = 0; g < groups; ++g) {
    count.push_back(static_cast<uint8_t>(pick(2, kMaxHalves)));
    width += size / kUnit * count.back();
  }
  const auto numbers = [](size_t n) {
    auto out = array<float>(n);
    for (size_t i = 0; i < n; ++i) out[i] = static_cast<float>(static_cast<int32_t>(engine())) * 0x1p-31f;
    return out;
  };
  const auto values = numbers((kMaxHalves + 1) << kTrellisState), weight = numbers(rows * cols);
  const auto scale = numbers(rows * groups), upper = numbers(cols * cols);
  if (pick(0, 3) == 0) weight[pick(0, rows * cols - 1)] = __builtin_nanf("");
  const auto stream = array<uint8_t>(rows * width);
  search_rows({rows, cols, size, pick(1, pick(0, 3) ? 20 : kMaxBeam), count.data(), values.get(), weight.get(),
               scale.get(), upper.get(), width, stream.get()});
}

// Any numbers as logits, infinities and what is no number among them.
void one_choice() {
  const size_t n = pick(1, 700);
  const auto words = bytes(4 * n);
  const auto logits = array<float>(n);
  std::memcpy(logits.get(), words.get(), 4 * n);
  const Choice choice{logits.get(), n, pick(0, 1) ? 0.7f : 1e-6f};
  const auto sums = array<float>(choice.stretches()), tops = array<float>(choice.stretches());
  const auto weights = array<float>(kStretch);
  const float highest = weigh(choice, sums.get(), tops.get());
  const auto stretch = static_cast<int64_t>(pick(0, choice.stretches() - 1));
  weights_of(choice, highest, &stretch, 1, weights.get());
  if (tops[stretch] != *std::max_element(weights.get(), weights.get() + kStretch)) fail("a stretch's highest weight");
  for (size_t i = 0; i < kStretch; ++i)
    if (!(weights[i] >= 0 && weights[i] <= 1) || (stretch * kStretch + i >= n && weights[i])) fail("a token's weight");
  const size_t token = draw(choice, static_cast<double>(pick(0, 999)) / 1000);
  const auto place = static_cast<int64_t>(token / kStretch);
  if (place >= static_cast<int64_t>(choice.stretches())) fail("a token that is none");
  weights_of(choice, highest, &place, 1, weights.get());
  if (std::any_of(tops.get(), tops.get() + choice.stretches(), [](float top) { return top > 0; }) &&
      !(weights[token % kStretch] > 0))
    fail("a token without a chance");
}

}  // namespace

int main(int count, char** words) {
  if (count != 3) return 2;
  const int cases = std::atoi(words[1]);
  engine.seed(std::strtoull(words[2], nullptr, 10));
  for (const char* name : variants()) std::printf("%s ", name);
  for (int i = 0; i < cases; ++i) {
    digest = 0xCBF29CE484222325;
    i % 4 ? one() : one_trellis();
    if (i % 4 == 0) one_search();
    if (i % 8 == 1) one_decoder();
    if (i % 8 == 2) one_choice();
    std::printf("\n%016llx", static_cast<unsigned long long>(digest));
  }
  std::printf("\n%d cases\n", cases);
}
