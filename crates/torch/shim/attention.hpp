// Attention on a paged cache: what its kernel reads and writes. Knows nothing of libtorch.
//
// Keys are walked in blocks of kKeys positions, counted from a sequence's first. For each block and query row the kernel
// gives a part (largest score, sum of exponentials, weighted values), and the parts are merged in order: a row's numbers
// are the same whether it is one of many queries or alone, and however the blocks are shared among threads.
#pragma once
#include "panels.hpp"

namespace tidemill {

constexpr int64_t kKeys = 64;       // positions in a block
constexpr int64_t kMaxHead = 512;   // numbers in a head
constexpr int64_t kQueryRows = 96;  // rows (a query's head each) that share a block of keys

struct AttentionShape {
  const float* queries = nullptr;  // [tokens, heads, head_dim]
  int64_t token_stride = 0, head_stride = 0;
  const void *keys = nullptr, *values = nullptr;  // [blocks, block_size, kv_heads, head_dim]
  bool bfloat16 = false;
  int64_t block_size = 0, kv_heads = 0, head_dim = 0;
  int64_t group = 0;  // heads that share a key-value head
  float scale = 1, softcap = 0;  // 0: none
  int64_t window = 0;            // 0: none

  int64_t padded() const { return (head_dim + 31) / 32 * 32; }
  // A row's part or state: the largest score, the sum, the values.
  int64_t part_size() const { return 16 + padded(); }
};

// Some queries of a sequence for one key-value head, and some blocks of keys.
struct AttentionTask {
  const int64_t* table = nullptr;  // the sequence's blocks in the cache
  int64_t kv_head = 0;
  int64_t token = 0, position = 0, queries = 0;  // the first query's token and position, and how many follow
  int64_t first_block = 0, last_block = 0;       // of keys; the last is excluded
  int64_t offset = -1;     // of its parts in the memory of all, where there are any
  float* parts = nullptr;  // [blocks, rows, part_size], or null: the rows are finished and written to
  float* out = nullptr;    // [tokens, heads * head_dim]
};

// Floats of scratch memory that a task needs.
inline int64_t attention_scratch(const AttentionShape& shape) {
  const int64_t padded = shape.padded();
  return kQueryRows * padded + 2 * kKeys * padded + 2 * kTile * kKeys + kTile * padded + kQueryRows * shape.part_size();
}

}  // namespace tidemill
