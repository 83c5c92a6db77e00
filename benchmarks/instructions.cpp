// Runs every kind of product once, for callgrind to count: see instructions.py.
//
//   instructions VARIANT: prints a line for every call of `measured`, in order: kind, bits, products of a weight.
#include <cstdio>
#include <random>

#include "kernels.h"
#include "pool.h"

using namespace tailorbird;

namespace {

constexpr size_t kOut = 64, kIn = 1024, kGroup = 64;

struct Kind {
  const char* name;
  size_t rows;
  Activations mode;
  bool wide;  // an outlier in every group
};
constexpr Kind kKinds[] = {{"int8, 1 row", 1, Activations::int8, false},
                           {"int8, 1 row, wide groups", 1, Activations::int8, true},
                           {"int8, 24 rows", 24, Activations::int8, false},
                           {"int8, 24 rows, wide groups", 24, Activations::int8, true},
                           {"fp32, 1 row", 1, Activations::fp32, false}};

}  // namespace

extern "C" __attribute__((noinline)) void measured(const Matrix& matrix, const Inputs& inputs, float* out,
                                                   Activations mode, void* scratch) {
  multiply(matrix, inputs, 0, matrix.tiles(), out, matrix.rows(), mode, scratch);
}

int main(int count, char** words) {
  Pool::set_threads(1);
  if (count != 2 || !use_variant(words[1])) return 2;
  std::mt19937 engine(1);
  std::vector<uint8_t> bytes(kOut * kIn), halves(2 * kOut * kIn / kGroup);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(engine());
  for (size_t i = 1; i < halves.size(); i += 2) halves[i] = 0x3c;  // about 1
  for (int bits = 1; bits <= 8; ++bits) {
    Source s;
    s.bits = bits;
    s.scale = Scale::byte;
    s.offset = Offset::integer;
    for (size_t g = 0; g < kIn / kGroup; ++g) s.groups.push_back(static_cast<int32_t>(g));
    s.scale_index = s.groups;
    s.planes = s.scales = s.zeros = bytes.data();
    s.planes_stride = static_cast<size_t>(bits) * kIn / 8;
    s.scales_stride = kIn / kGroup;
    s.zero_width = static_cast<size_t>(bits);
    s.zeros_stride = static_cast<size_t>(bits) * kIn / kGroup / 8;
    s.row_scales = halves.data();
    const Matrix matrix(kOut, kGroup, kIn / kGroup, {s}, {});
    for (const Kind& kind : kKinds) {
      std::vector<float> x(kind.rows * kIn, 1.0f), out(kind.rows * kOut);
      for (size_t i = 0; kind.wide && i < x.size(); i += kGroup) x[i] = 6.0f;
      Inputs inputs;
      reserve(matrix, kind.rows, kind.mode, inputs);
      prepare(matrix, x.data(), kIn, 0, kind.rows, kind.mode, inputs);
      auto pool = Pool::acquire();
      pool->reserve(scratch_bytes(matrix, kind.rows, kind.mode));
      measured(matrix, inputs, out.data(), kind.mode, pool->scratch(0));
      std::printf("%s;%d;%zu\n", kind.name, bits, kOut * kIn * kind.rows);
    }
  }
}
