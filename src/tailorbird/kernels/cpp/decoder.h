// A decoder over packed weights: one call takes tokens in and gives logits out, with keys and values kept.
// Families differ in what a layer has, not in code: norms, biases, rotary tables and windows may be there or not.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "attention.h"
#include "kernels.h"
#include "layers.h"
#include "pool.h"
#include "table.h"

namespace tailorbird {

struct Layer {
  int64_t heads, kv_heads, head_dim;
  int64_t window;    // keys looked back at, the own one included; 0: all
  float scale;       // of the products of queries and keys
  float soft_cap;    // of the scores; 0: none
  int64_t rope;      // which rotary table
  Gate gate;
  Numbers before_attention, after_attention, before_mlp, after_mlp;  // norms; `after` ones may be empty
  Numbers query_norm, key_norm;                                      // over a head; may be empty
  std::vector<Linear> qkv;      // one fused, or three
  Linear output;
  std::vector<Linear> gate_up;  // one fused, or two
  Linear down;
};

struct Rope {
  Numbers frequency;  // radians a position, one for every two numbers of a head that turn
  float scaling;      // of cosine and sine
};

struct Shape {
  int64_t width, vocabulary;
  float epsilon, embedding_scale, logit_cap;
};

// Keys and values of one sequence, in bfloat16 or as 8 bits with a scale a position and head.
class Cache {
 public:
  Cache(const std::vector<Layer>& layers, int64_t capacity, bool int8);
  int64_t capacity() const { return capacity_; }
  int64_t nbytes() const;
  bool fits(const std::vector<Layer>& layers) const;
  void put(size_t layer, int64_t head, int64_t position, const float* key, const float* value);
  void read(size_t layer, int64_t head, Head& out) const;

 private:
  struct Side {
    std::vector<uint16_t> bf16;
    std::vector<int8_t> int8;
    Numbers scales;
    void put(int64_t at, const float* x, int64_t dim);
    Stored stored(int64_t at, int64_t dim) const;
  };
  struct Entry {
    int64_t heads, dim;
    Side keys, values;
  };
  int64_t capacity_;
  std::vector<Entry> entries_;
};

class Decoder {
 public:
  // Throws std::invalid_argument where shapes don't fit together.
  Decoder(Shape shape, std::vector<Layer> layers, std::vector<Rope> ropes, Table embedding, Numbers norm,
          Table head);

  const std::vector<Layer>& layers() const { return layers_; }
  const Shape& shape() const { return shape_; }
  double product_seconds() const { return product_seconds_; }  // spent on packed weights so far, in all calls

  // Logits (keep, vocabulary) of the last `keep` of n tokens that stand at position start and after.
  // Tokens are in range and fit into the cache. Scratch is grown, never shrunk; calls from several threads wait for
  // each other.
  void forward(const int64_t* tokens, size_t n, int64_t start, Cache& cache, size_t keep, float* logits,
               Activations mode);

 private:
  struct Step;
  struct Rows {
    const float* data;
    size_t stride;
  };
  void attend_layer(Step& step, size_t layer);
  void mlp_layer(Step& step, size_t layer);
  void turn(Step& step);
  void place(Step& step, size_t layer, size_t row);
  Head read(const Step& step, size_t layer, size_t kv) const;
  void attend_heads(Step& step, size_t layer);
  void attend_together(Step& step, size_t layer);
  void norm(Step& step, const Numbers& weight, const float* x, float* out, size_t n);
  void residual(Step& step, const Numbers& weight, float* y);
  void linear(Step& step, std::span<const Linear> linears, Rows x, size_t n, float* const* out);
  void expect(Step& step, std::span<const Linear> next);
  void prepare_all(Step& step, const Matrix& matrix, Rows x, size_t n, Inputs& inputs);
  void predict(Step& step, const float* x, size_t n, float* logits);
  void predict_slice(Step& step, size_t slice, size_t n, size_t thread, float* logits);
  size_t scratch(size_t n, Activations mode) const;

  Shape shape_;
  std::vector<Layer> layers_;
  std::vector<Rope> ropes_;
  Table embedding_;
  Numbers norm_;
  Table head_;
  std::vector<size_t> inputs_of_;  // which inputs a part of the head takes: those of the first part that they serve
  std::mutex mutex_;  // of all below
  std::vector<Inputs> inputs_;  // of the parts of the head; layers need the first
  double product_seconds_ = 0;
  Numbers hidden_, normed_, mixed_, attended_, wide_[3];
  Numbers scores_, keep_, totals_;  // of one token's attention
  std::vector<Query> queries_;
  std::vector<Numbers> predicted_;  // of every thread: (n, rows of a slice), logits of one part of the head
  std::vector<Numbers> angles_;     // of every rotary table: (n, cosine and sine of half a head)
};

}  // namespace tailorbird
