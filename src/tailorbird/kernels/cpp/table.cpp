#include "table.h"

#include <stdexcept>

namespace tailorbird {

namespace {

void check(bool good) {
  if (!good) throw std::invalid_argument("the parts of a table don't fit together");
}

// A tile belongs to the slice of its first row.
std::vector<uint32_t> first_tiles(const std::vector<int32_t>& rows, size_t slices) {
  std::vector<uint32_t> first;
  for (size_t row = 0; row < rows.size(); row += kRows)
    while (first.size() <= rows[row] / Table::kSlice) first.push_back(static_cast<uint32_t>(row / kRows));
  first.resize(slices + 1, static_cast<uint32_t>((rows.size() + kRows - 1) / kRows));
  return first;
}

}  // namespace

bool fits(const Linear& linear, size_t rows, size_t cols) {
  return linear.matrix && linear.matrix->rows() == rows && linear.matrix->cols() == cols &&
         (linear.bias.empty() || linear.bias.size() == rows);
}

bool fits(const std::vector<Linear>& linears, const std::vector<size_t>& rows, size_t cols) {
  if (linears.size() == rows.size()) {
    for (size_t i = 0; i < rows.size(); ++i)
      if (!fits(linears[i], rows[i], cols)) return false;
    return true;
  }
  size_t all = 0;
  for (size_t r : rows) all += r;
  return linears.size() == 1 && fits(linears[0], all, cols);
}

Table::Table(std::vector<Linear> parts, std::vector<std::vector<int32_t>> rows)
    : parts_(std::move(parts)), rows_(std::move(rows)) {
  check(!parts_.empty() && parts_[0].matrix && rows_.size() == (parts_.size() > 1 ? parts_.size() : 0));
  for (const Linear& part : parts_) {
    check(part.matrix && fits(part, part.matrix->rows(), cols()));
    size_ += part.matrix->rows();
  }
  std::vector<bool> seen(size_);
  if (!rows_.empty()) found_.resize(size_);
  for (uint32_t k = 0; k < rows_.size(); ++k) {
    check(rows_[k].size() == parts_[k].matrix->rows());
    for (uint32_t i = 0; i < rows_[k].size(); ++i) {
      const int32_t row = rows_[k][i];
      check(row >= 0 && static_cast<size_t>(row) < size_ && !seen[row] && (i == 0 || row > rows_[k][i - 1]));
      seen[row] = true;
      found_[row] = {k, i};
    }
    tiles_.push_back(first_tiles(rows_[k], slices()));
  }
}

void Table::row(size_t id, float* out) const {
  const Place place = found_.empty() ? Place{0, static_cast<uint32_t>(id)} : found_[id];
  gather_row(*parts_[place.part].matrix, place.row, out);
}

}  // namespace tailorbird
