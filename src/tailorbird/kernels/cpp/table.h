// A weight over a vocabulary, an embedding or a head: its rows may lie in several matrices of different formats.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.h"

namespace tailorbird {

using Numbers = std::vector<float>;

struct Linear {
  std::shared_ptr<const Matrix> matrix;  // null: none
  Numbers bias;                          // empty: none
};

// The linear layer is there and of this shape.
bool fits(const Linear& linear, size_t rows, size_t cols);

// One for each of these rows, or one for all of them.
bool fits(const std::vector<Linear>& linears, const std::vector<size_t>& rows, size_t cols);

class Table {
 public:
  static constexpr size_t kSlice = 4096;  // rows of the weight in a slice

  // `rows` says for every row of every part which row of the weight it is, rising; without, one part is the weight.
  // Throws std::invalid_argument where the parts' rows are not those of a weight, each once.
  Table(std::vector<Linear> parts, std::vector<std::vector<int32_t>> rows);

  size_t rows() const { return size_; }
  size_t cols() const { return parts_[0].matrix->cols(); }
  const std::vector<Linear>& parts() const { return parts_; }
  const std::vector<std::vector<int32_t>>& places() const { return rows_; }

  // Slices of the weight's rows, and the first tile of a part that belongs to one; at `slices()` it is the part's end.
  size_t slices() const { return (size_ + kSlice - 1) / kSlice; }
  size_t first_tile(size_t part, size_t slice) const { return tiles_[part][slice]; }

  // One row of the weight, without the pool; it is in range.
  void row(size_t id, float* out) const;

 private:
  struct Place {
    uint32_t part, row;
  };
  std::vector<Linear> parts_;
  std::vector<std::vector<int32_t>> rows_;
  std::vector<std::vector<uint32_t>> tiles_;  // of every part, by slice; empty where there is one part
  std::vector<Place> found_;  // where each row lies; empty where there is one part
  size_t size_ = 0;
};

}  // namespace tailorbird
