// Keys and values of the decoder.
#include <stdexcept>

#include "decoder.h"

namespace tailorbird {

Cache::Cache(const std::vector<Layer>& layers, int64_t capacity, bool int8) : capacity_(capacity) {
  if (capacity <= 0) throw std::invalid_argument("a cache needs room for a position");
  for (const Layer& layer : layers) {
    Entry entry{layer.kv_heads, layer.head_dim, {}, {}};
    const size_t places = layer.kv_heads * capacity;
    for (Side* side : {&entry.keys, &entry.values}) {
      if (int8) {
        side->int8.resize(places * layer.head_dim);
        side->scales.resize(places);
      } else {
        side->bf16.resize(places * layer.head_dim);
      }
    }
    entries_.push_back(std::move(entry));
  }
}

int64_t Cache::nbytes() const {
  size_t total = 0;
  for (const Entry& entry : entries_)
    for (const Side* side : {&entry.keys, &entry.values})
      total += side->bf16.size() * 2 + side->int8.size() + side->scales.size() * 4;
  return static_cast<int64_t>(total);
}

bool Cache::fits(const std::vector<Layer>& layers) const {
  bool same = layers.size() == entries_.size();
  for (size_t i = 0; same && i < layers.size(); ++i)
    same = layers[i].kv_heads == entries_[i].heads && layers[i].head_dim == entries_[i].dim;
  return same;
}

void Cache::Side::put(int64_t at, const float* x, int64_t dim) {
  if (!int8.empty())
    scales[at] = to_int8(x, dim, int8.data() + at * dim);
  else
    to_bf16(x, dim, bf16.data() + at * dim);
}

Stored Cache::Side::stored(int64_t at, int64_t dim) const {
  if (int8.empty()) return {bf16.data() + at * dim, nullptr, nullptr};
  return {nullptr, int8.data() + at * dim, scales.data() + at};
}

void Cache::put(size_t layer, int64_t head, int64_t position, const float* key, const float* value) {
  Entry& entry = entries_[layer];
  entry.keys.put(head * capacity_ + position, key, entry.dim);
  entry.values.put(head * capacity_ + position, value, entry.dim);
}

void Cache::read(size_t layer, int64_t head, Head& out) const {
  const Entry& entry = entries_[layer];
  out.keys = entry.keys.stored(head * capacity_, entry.dim);
  out.values = entry.values.stored(head * capacity_, entry.dim);
}

}  // namespace tailorbird
