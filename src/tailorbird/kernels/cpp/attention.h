// Attention over a cache of keys and values.
#pragma once

#include <cstdint>

namespace tailorbird {

// Keys or values of one head: as `to_bf16` makes them, or as `to_int8` does, with a scale a position.
struct Stored {
  const uint16_t* bf16 = nullptr;
  const int8_t* int8 = nullptr;
  const float* scales = nullptr;
};

struct Head {
  Stored keys, values;
  int64_t dim;     // numbers in a key
  float scale;     // of the products
  float soft_cap;  // 0: none
  int64_t window;  // keys looked back at, the own one included; 0: all
};

// One head of one token.
struct Query {
  const float* q;
  float* out;
  int64_t position;
};

// Queries by rising position, each over the keys at positions up to its own.
void attend(const Head& head, const Query* queries, int64_t count);

// The same of one token, bit for bit, in three steps that threads divide among them. A step needs all of the last one.
int64_t blocks_of(const Head& head, int64_t position);  // that hold the keys a query looks at
int64_t slices_of(const Head& head);
struct Together {
  static constexpr int64_t kBlock = 16;  // keys of a block
  static constexpr int64_t kSlice = 32;  // numbers of a slice; the last one goes on to the end of the values

  Head head;
  const Query* queries;  // of one position
  int64_t count;
  float *scores, *keep, *totals;  // of every query: kBlock numbers for every block, one for every block, one
};
void score(const Together& all, int64_t begin, int64_t end);  // blocks
void weigh(const Together& all, int64_t begin, int64_t end);  // queries
void mix(const Together& all, int64_t begin, int64_t end);    // slices

}  // namespace tailorbird
