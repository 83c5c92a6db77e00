// Arithmetic on packed weights, for C++ callers: what the Python module offers, and the pieces it is made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "layout.h"
#include "trellis.h"

namespace tailorbird {

// Where the canonical arrays of a run are; all rows first. Strides are bytes from row to row.
struct Source {
  int bits = 0;
  Scale scale = Scale::half;
  Offset offset = Offset::none;
  std::vector<int32_t> groups;
  const uint8_t* planes = nullptr;       // planes of ceil(columns of the run / 8) bytes each
  size_t planes_stride = 0;
  const uint8_t* scales = nullptr;       // half or byte; the entry of a group stands at scale_index
  size_t scales_stride = 0;
  const uint8_t* row_scales = nullptr;   // half (rows,)
  const uint8_t* zeros = nullptr;        // a string of zero_width bits a group, lowest bit first
  size_t zeros_stride = 0;
  size_t zeros_bit = 0;                  // where the run's string starts, in bits
  size_t zero_width = 0;
  const uint8_t* offsets = nullptr;      // half or int8
  size_t offsets_stride = 0;
  const uint8_t* row_offsets = nullptr;  // half (rows,)
  std::vector<int32_t> scale_index;      // entry of each group in the rows of scales and offsets
};

// Where to put them again.
struct Target {
  uint8_t *planes = nullptr, *scales = nullptr, *row_scales = nullptr, *zeros = nullptr, *offsets = nullptr,
          *row_offsets = nullptr;  // zeroed where bits are written (planes, zeros); row_scales and row_offsets may be null
  size_t planes_stride = 0, scales_stride = 0, zeros_stride = 0, zeros_bit = 0, zero_width = 0, offsets_stride = 0;
  std::vector<int32_t> scale_index;
};

// The canonical arrays of a weight that is paths through a trellis; all rows first.
struct TrellisSource {
  size_t rows = 0, group_size = 0;
  std::vector<uint8_t> halves;          // of every group
  std::vector<uint8_t> tables;          // kTable bytes for every number of halves up to kMaxHalves
  const uint8_t* stream = nullptr;      // a row has as many bytes as its bits fill
  const uint8_t* scales = nullptr;      // bytes, or halves where there are no row scales
  const uint8_t* row_scales = nullptr;  // half (rows,)
};

struct TrellisTarget {
  uint8_t *stream, *scales, *row_scales;  // row_scales may be null
};

// A packed weight, laid out for the kernels. It never changes once it is made, so threads may share it.
class Matrix {
 public:
  // `order`: stored column k is column order[k] of the weight; empty if they are the same.
  // Throws std::invalid_argument for what can't be held, std::bad_alloc.
  Matrix(size_t rows, size_t group_size, size_t groups, const std::vector<Source>& runs, std::vector<int32_t> order);
  explicit Matrix(const TrellisSource& source);
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  const Layout& layout() const { return layout_; }
  size_t rows() const { return layout_.rows; }
  size_t cols() const { return layout_.cols; }
  size_t tiles() const { return layout_.tiles; }
  size_t nbytes() const { return layout_.tiles * layout_.tile_bytes + kSlack; }

  // The arrays a run was made of, bit for bit. `target.zero_width` and `scale_index` as in its source.
  void unpack(size_t run, const Target& target) const;
  void unpack(const TrellisTarget& target) const;

 private:
  void shape(size_t rows, size_t group_size, size_t groups);
  void allocate();
  void add(const Source& source, std::vector<bool>& seen);
  void fill(const std::vector<Source>& sources);

  Layout layout_{};
  std::vector<Run> runs_;
  std::vector<std::vector<int32_t>> groups_;
  std::vector<int32_t> order_;
  std::vector<uint8_t> halves_, tables_;
  Trellis trellis_{};
  std::shared_ptr<uint8_t> data_;
};

// Activations brought into the form of the kernels; kept by who calls often.
struct Inputs {
  struct Terms {
    std::vector<int8_t> codes;
    std::vector<float> scales;
    std::vector<int32_t> sums;
  };
  size_t rows = 0, stride = 0, groups = 0;  // stride: columns of a padded row
  Terms int8, rest;
  std::vector<Stretch> stretches;
  std::vector<float> values, totals;
  std::vector<SignSums> signs;
  std::vector<uint8_t> tabulated;  // (groups,): whether its `signs` are there
};

enum class Activations : uint8_t { int8, fp32 };

// --- Whole operations. They take the pool for themselves: at most one runs at a time, others wait. -------------

// out[i, r] = sum over j of x[i, j] * w[r, j]; x (n, cols), out (n, rows), dense rows. Throws std::bad_alloc.
void matmul(const Matrix& matrix, const float* x, size_t n, float* out, Activations mode);

// Rows of the weight as float32, out (n, cols): exactly code * scale + offset in two roundings. Ids must be in range.
void gather(const Matrix& matrix, const int64_t* ids, size_t n, float* out);

// One of these rows, without the pool.
void gather_row(const Matrix& matrix, size_t id, float* out);
void gather_trellis(const Layout& m, size_t id, float* out);

// --- Pieces, for a caller that holds the pool (`Pool::acquire`) and runs its own parallel sections. ------------

// Make room for n rows; the only piece that allocates, and only when it grows.
void reserve(const Matrix& matrix, size_t n, Activations mode, Inputs& inputs);

// Bring rows begin..end of x (row i at x + i * x_stride) into `inputs`, which was reserved.
void prepare(const Matrix& matrix, const float* x, size_t x_stride, size_t begin, size_t end, Activations mode,
             Inputs& inputs);

// Make what else products with this matrix can use of these inputs, if there is anything: results are the same without.
// Of several matrices that take the same inputs each may want its own.
void tabulate(const Matrix& matrix, Activations mode, Inputs& inputs);

// Bytes of scratch each thread needs for `multiply` with n rows of inputs.
size_t scratch_bytes(const Matrix& matrix, size_t n, Activations mode);

// Output rows 16 * begin .. 16 * end (tiles) of all rows of inputs: out[i * out_stride + r]. Call it from any thread,
// with 64-byte aligned scratch of its own. Reads every weight once for up to 8 rows of inputs.
void multiply(const Matrix& matrix, const Inputs& inputs, size_t begin, size_t end, float* out, size_t out_stride,
              Activations mode, void* scratch);

// --- Variants ---------------------------------------------------------------------------------------------------

// Names of the variants this processor can run, best first: "avx512", "avx2", or "neon-dotprod",
// "neon"; then "portable".
std::vector<const char*> variants();
const char* variant();               // the one in use
bool use_variant(const char* name);  // false: unknown or not for this processor

// --- The machine ------------------------------------------------------------------------------------------------

// Bytes a second that the pool's threads read from `bytes` of memory in huge pages: the best pass of `seconds`.
double read_bandwidth(size_t bytes, double seconds);

}  // namespace tailorbird
