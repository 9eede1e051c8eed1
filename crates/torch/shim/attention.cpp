// Attention on a paged key-value cache: checks, the sharing out of the work, threads. The kernel is in
// attention_level.inc.
#include "attention.hpp"
#include "crew.hpp"
#include "panels.hpp"
#include "scratch.hpp"
#include "shim.hpp"

#include <ATen/EmptyTensor.h>

#include <algorithm>
#include <atomic>

namespace tidemill {
namespace {

constexpr int64_t kWorthSplitting = int64_t(96) << 10;  // bytes of keys and values below which one thread is faster

struct Cache {
  int64_t blocks, block_size, kv_heads, head_dim;
};

Cache check_cache(const Tensor& keys, const Tensor& values) {
  TORCH_CHECK(keys.dim() == 4 && keys.sizes() == values.sizes() && keys.scalar_type() == values.scalar_type(), "paged cache: keys and values must both be [blocks, block_size, kv_heads, head_dim], but are ", keys.sizes(), " ", keys.scalar_type(), " and ", values.sizes(), " ", values.scalar_type());
  TORCH_CHECK(keys.size(1) > 0 && keys.size(2) > 0 && keys.size(3) > 0, "paged cache: ", keys.sizes(), " holds nothing");
  return {keys.size(0), keys.size(1), keys.size(2), keys.size(3)};
}

// Whether the kernels here can work on the cache.
bool is_ours(const Tensor& keys, const Tensor& values) {
  const auto type = keys.scalar_type();
  return keys.device().is_cpu() && values.device().is_cpu() && (type == at::kFloat || type == at::kBFloat16) && keys.is_contiguous() && values.is_contiguous();
}

bool is_list(const Tensor& tensor, int64_t dim) {
  return tensor.device().is_cpu() && tensor.scalar_type() == at::kLong && tensor.dim() == dim && tensor.is_contiguous();
}

void round_row(const float* from, int64_t count, uint16_t* to) {
  for (int64_t i = 0; i < count; i++) to[i] = float_to_bfloat(from[i]);
}

bool store(const Tensor& cache_keys, const Tensor& cache_values, const Tensor& keys, const Tensor& values, const Tensor& slots) {
  const Cache cache = check_cache(cache_keys, cache_values);
  for (const Tensor* given : {&keys, &values})
    TORCH_CHECK(given->dim() == 3 && given->size(1) == cache.kv_heads && given->size(2) == cache.head_dim, "paged cache: keys and values must be [tokens, ", cache.kv_heads, ", ", cache.head_dim, "], but are ", given->sizes());
  TORCH_CHECK(keys.size(0) == values.size(0) && slots.dim() == 1 && slots.size(0) == keys.size(0), "paged cache: ", keys.size(0), " keys, ", values.size(0), " values and ", slots.sizes(), " slots do not fit one another");
  if (!is_ours(cache_keys, cache_values) || !is_list(slots, 1) || !is_cpu_float(keys) || !is_cpu_float(values) || keys.stride(2) != 1 || values.stride(2) != 1) return false;
  const int64_t tokens = keys.size(0), head_dim = cache.head_dim, count = cache.blocks * cache.block_size;
  const int64_t* slot = slots.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < tokens; t++)
    TORCH_CHECK_INDEX(slot[t] < count, "paged cache: slot ", slot[t], " is outside the cache of ", count);
  const bool bfloat16 = cache_keys.scalar_type() == at::kBFloat16;
  const auto copy = [&](const Tensor& target, const Tensor& source, int64_t first, int64_t last) {
    const float* from = source.const_data_ptr<float>();
    char* to = static_cast<char*>(target.mutable_data_ptr());
    for (int64_t t = first; t < last; t++) {
      if (slot[t] < 0) continue;
      for (int64_t h = 0; h < cache.kv_heads; h++) {
        const float* row = from + t * source.stride(0) + h * source.stride(1);
        const int64_t at = (slot[t] * cache.kv_heads + h) * head_dim;
        if (bfloat16) round_row(row, head_dim, reinterpret_cast<uint16_t*>(to) + at);
        else std::memcpy(reinterpret_cast<float*>(to) + at, row, head_dim * sizeof(float));
      }
    }
  };
  const int64_t grain = std::max<int64_t>(1, 32768 / (cache.kv_heads * head_dim));
  share_range(tokens, grain, [&](int64_t first, int64_t last) {
    copy(cache_keys, keys, first, last);
    copy(cache_values, values, first, last);
  });
  return true;
}

struct Batch {
  const int64_t *tables, *starts, *contexts;
  int64_t sequences, width;  // of a table
};

void check_batch(const Batch& batch, const Cache& cache, int64_t tokens) {
  TORCH_CHECK(batch.starts[0] == 0 && batch.starts[batch.sequences] == tokens, "attention: query_starts runs from ", batch.starts[0], " to ", batch.starts[batch.sequences], ", but there are ", tokens, " queries");
  for (int64_t s = 0; s < batch.sequences; s++) {
    const int64_t queries = batch.starts[s + 1] - batch.starts[s], context = batch.contexts[s];
    TORCH_CHECK(queries >= 0, "attention: query_starts falls at sequence ", s);
    if (queries == 0) continue;
    TORCH_CHECK(context >= queries, "attention: sequence ", s, " has ", queries, " queries but a context of ", context);
    const int64_t used = (context + cache.block_size - 1) / cache.block_size;
    TORCH_CHECK(used <= batch.width, "attention: a context of ", context, " does not fit the block table of sequence ", s);
    for (int64_t i = 0; i < used; i++) {
      const int64_t block = batch.tables[s * batch.width + i];
      TORCH_CHECK_INDEX(block >= 0 && block < cache.blocks, "attention: block ", block, " of sequence ", s, " is outside the cache of ", cache.blocks);
    }
  }
}

// Tasks of one thread each; the longest queries first, so that no thread is left with a long one at the end.
void list_tasks(const AttentionShape& shape, const Batch& batch, float* out, std::vector<AttentionTask>& tasks) {
  const int64_t most = std::max<int64_t>(1, kQueryRows / shape.group);
  for (int64_t s = 0; s < batch.sequences; s++) {
    const int64_t count = batch.starts[s + 1] - batch.starts[s], tiles = (count + most - 1) / most;
    for (int64_t tile = tiles - 1; tile >= 0; tile--) {
      AttentionTask task;
      task.table = batch.tables + s * batch.width;
      task.queries = std::min(most, count - tile * most);
      task.token = batch.starts[s] + tile * most;
      task.position = batch.contexts[s] - count + tile * most;
      task.first_block = shape.window > 0 ? std::max<int64_t>(0, task.position - shape.window + 1) / kKeys : 0;
      task.last_block = (task.position + task.queries - 1) / kKeys + 1;
      task.out = out;
      for (task.kv_head = 0; task.kv_head < shape.kv_heads; task.kv_head++) tasks.push_back(task);
    }
  }
}

// A task whose blocks several threads share, and where their parts are.
struct Split {
  AttentionTask task;
  int64_t rows, offset;  // in the memory of all parts
};

// Cuts the tasks until there are `wanted`; gives the floats that their parts need.
int64_t split_tasks(const AttentionShape& shape, int64_t wanted, std::vector<AttentionTask>& tasks, std::vector<Split>& splits) {
  const auto count = int64_t(tasks.size());
  const int64_t pieces = (wanted + count - 1) / count;
  int64_t floats = 0;
  std::vector<AttentionTask> cut;
  for (const AttentionTask& task : tasks) {
    const int64_t blocks = task.last_block - task.first_block, rows = task.queries * shape.group;
    const int64_t parts = rows > kTile ? 1 : std::min(blocks, pieces);
    if (parts <= 1) {
      cut.push_back(task);
      continue;
    }
    splits.push_back({task, rows, floats});
    for (int64_t p = 0; p < parts; p++) {
      AttentionTask piece = task;
      piece.first_block = task.first_block + blocks * p / parts;
      piece.last_block = task.first_block + blocks * (p + 1) / parts;
      piece.offset = floats + (piece.first_block - task.first_block) * rows * shape.part_size();
      cut.push_back(piece);
    }
    floats += blocks * rows * shape.part_size();
  }
  tasks.swap(cut);
  return floats;
}

bool attention(const Tensor& queries, const Tensor& keys, const Tensor& values, const Tensor& tables, const Tensor& starts, const Tensor& contexts, double scale, int64_t window, double softcap, Tensor** result) {
  const Cache cache = check_cache(keys, values);
  TORCH_CHECK(queries.dim() == 3 && queries.size(2) == cache.head_dim, "attention: queries must be [tokens, heads, ", cache.head_dim, "], but are ", queries.sizes());
  const int64_t tokens = queries.size(0), heads = queries.size(1);
  TORCH_CHECK(heads % cache.kv_heads == 0 && heads > 0, "attention: ", heads, " heads cannot share ", cache.kv_heads, " key-value heads");
  TORCH_CHECK(tables.dim() == 2 && contexts.dim() == 1 && starts.dim() == 1 && contexts.size(0) == tables.size(0) && starts.size(0) == tables.size(0) + 1, "attention: block_tables ", tables.sizes(), ", query_starts ", starts.sizes(), " and contexts ", contexts.sizes(), " are not of the same sequences");
  if (!is_ours(keys, values) || !is_list(tables, 2) || !is_list(starts, 1) || !is_list(contexts, 1) || !is_cpu_float(queries) || queries.stride(2) != 1 || cache.head_dim > kMaxHead || heads / cache.kv_heads > kQueryRows) return false;
  const Batch batch{tables.const_data_ptr<int64_t>(), starts.const_data_ptr<int64_t>(), contexts.const_data_ptr<int64_t>(), tables.size(0), tables.size(1)};
  check_batch(batch, cache, tokens);

  AttentionShape shape;
  shape.queries = queries.const_data_ptr<float>();
  shape.token_stride = queries.stride(0);
  shape.head_stride = queries.stride(1);
  shape.keys = keys.const_data_ptr();
  shape.values = values.const_data_ptr();
  shape.bfloat16 = keys.scalar_type() == at::kBFloat16;
  shape.block_size = cache.block_size;
  shape.kv_heads = cache.kv_heads;
  shape.head_dim = cache.head_dim;
  shape.group = heads / cache.kv_heads;
  shape.scale = float(scale);
  shape.softcap = float(softcap);
  shape.window = window;
  Tensor out = at::detail::empty_cpu({tokens, heads * cache.head_dim}, at::kFloat);

  thread_local std::vector<AttentionTask> tasks;
  thread_local std::vector<Split> splits;
  thread_local Scratch memory;
  tasks.clear();
  splits.clear();
  list_tasks(shape, batch, out.mutable_data_ptr<float>(), tasks);
  int64_t blocks = 0;
  for (const AttentionTask& task : tasks) blocks += task.last_block - task.first_block;
  const int64_t threads = crew_size();
  const bool shared = threads > 1 && blocks * kKeys * cache.head_dim * 2 * keys.element_size() >= kWorthSplitting;
  float* parts = nullptr;
  if (shared && int64_t(tasks.size()) < 4 * threads) {
    parts = memory.take<float>(split_tasks(shape, 4 * threads, tasks, splits));
    for (AttentionTask& task : tasks)
      if (task.offset >= 0) task.parts = parts + task.offset;
  }
  const Level& kernels = level();
  std::atomic<size_t> next{0};
  const std::vector<AttentionTask>& list = tasks;
  const auto work = [&] {
    thread_local Scratch scratch;
    float* own = scratch.take<float>(attention_scratch(shape));
    for (size_t i = next++; i < list.size(); i = next++) kernels.attend(shape, list[i], own);
  };
  if (shared) share(std::min<int64_t>(threads, tasks.size()), [&](int64_t) { work(); });
  else work();
  if (!splits.empty()) {
    thread_local Scratch scratch;
    float* own = scratch.take<float>(shape.part_size());
    for (const Split& split : splits) {
      for (int64_t r = 0; r < split.rows; r++) {
        const int64_t token = split.task.token + r / shape.group, head = split.task.kv_head * shape.group + r % shape.group;
        kernels.merge(shape, parts + split.offset + r * shape.part_size(), split.task.last_block - split.task.first_block, split.rows * shape.part_size(), own, split.task.out + (token * heads + head) * cache.head_dim);
      }
    }
  }
  *result = new Tensor(std::move(out));
  return true;
}

}  // namespace
}  // namespace tidemill

using namespace tidemill;

extern "C" {

char* tm_store(bool* done, const Tensor* cache_keys, const Tensor* cache_values, const Tensor* keys, const Tensor* values, const Tensor* slots) {
  return guarded([&] { *done = store(*cache_keys, *cache_values, *keys, *values, *slots); });
}

// window and softcap: 0 for none. Leaves `result` null where the kernels here do not take the tensors.
char* tm_attention(Tensor** result, const Tensor* queries, const Tensor* keys, const Tensor* values, const Tensor* tables, const Tensor* starts, const Tensor* contexts, double scale, int64_t window, double softcap) {
  return guarded([&] { attention(*queries, *keys, *values, *tables, *starts, *contexts, scale, window, softcap, result); });
}
}
