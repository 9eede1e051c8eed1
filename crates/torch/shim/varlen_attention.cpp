// Self-attention over texts that lie one after another without padding: every text sees itself alone. The scores of one
// block of queries stay in the cache (Dao et al. 2022, "FlashAttention", for one processor core); a window limits how far a
// token sees to either side.
#include "encode.hpp"

#include <atomic>
#include <limits>
#include <utility>

namespace tidemill::encode {
namespace {

struct Texts {
  const int64_t* bounds;
  int64_t count;
  int64_t length(int64_t text) const { return bounds[text + 1] - bounds[text]; }
  int64_t longest() const {
    int64_t longest = 0;
    for (int64_t text = 0; text < count; text++) longest = std::max(longest, length(text));
    return longest;
  }
};

// By libtorch, on padded texts: for other devices and types, and where gradients are wanted.
Tensor attention_by_libtorch(const Tensor& qkv, const Texts& texts, int64_t heads, double scale, int64_t window) {
  const int64_t tokens = qkv.size(0), head_dim = qkv.size(1) / (3 * heads), longest = texts.longest();
  const auto longs = at::TensorOptions().dtype(at::kLong);
  const bool padded = tokens != longest * texts.count;
  Tensor rows = qkv, mask, back;
  if (padded) {
    std::vector<int64_t> index(texts.count * longest, 0), places;
    Tensor seen = at::zeros({texts.count, longest}, at::kBool);
    bool* sees = seen.mutable_data_ptr<bool>();
    places.reserve(tokens);
    for (int64_t text = 0; text < texts.count; text++)
      for (int64_t i = 0; i < texts.length(text); i++) {
        index[text * longest + i] = texts.bounds[text] + i;
        sees[text * longest + i] = true;
        places.push_back(text * longest + i);
      }
    rows = qkv.index_select(0, at::tensor(index, longs).to(qkv.device()));
    back = at::tensor(places, longs).to(qkv.device());
    mask = seen.to(qkv.device()).view({texts.count, 1, 1, longest});
  }
  if (window >= 0 && window < longest - 1) {
    const Tensor places = at::arange(longest, longs.device(qkv.device()));
    const Tensor near = (places.unsqueeze(0) - places.unsqueeze(1)).abs().le(window).view({1, 1, longest, longest});
    // A row of padding sees its own place, so that no row sees nothing.
    mask = mask.defined() ? mask.logical_or(at::eye(longest, near.options()).view({1, 1, longest, longest})).logical_and(near) : near;
  }
  const Tensor parts = rows.view({texts.count, longest, 3, heads, head_dim}).permute({2, 0, 3, 1, 4});
  const Tensor attended = at::scaled_dot_product_attention(parts[0], parts[1], parts[2], given(mask), 0.0, false, scale);
  const Tensor flat = attended.transpose(1, 2).reshape({-1, heads * head_dim});
  return padded ? flat.index_select(0, back) : flat;
}

#ifdef TIDEMILL_X86_TILES

constexpr int64_t kQueries = 64;  // queries whose scores are held at once
constexpr int64_t kKeys = 512;    // keys that they are held for
constexpr int64_t kRows = 8;      // rows of a tile

// Sixteen rows of sixteen numbers of 32 bits, turned.
TIDEMILL_AVX512 inline void transpose(__m512i r[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xDD);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xDD);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
  }
}

// keys[count][units] to turned[units][stride], zeros past the last key up to a multiple of 16.
TIDEMILL_AVX512 void turn_keys(const uint32_t* keys, int64_t step, int64_t count, int64_t units, uint32_t* turned, int64_t stride) {
  for (int64_t key = 0; key < count; key += 16)
    for (int64_t unit = 0; unit < units; unit += 16) {
      const int64_t wide = std::min<int64_t>(16, units - unit), tall = std::min<int64_t>(16, count - key);
      const __mmask16 mask = wide == 16 ? 0xFFFF : (1u << wide) - 1;
      __m512i rows[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) rows[i] = i < tall ? _mm512_maskz_loadu_epi32(mask, keys + (key + i) * step + unit) : _mm512_setzero_si512();
      transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++)
        if (i < wide) _mm512_storeu_si512(turned + (unit + i) * stride + key, rows[i]);
    }
}

// values[count][width] of bfloat16 to pairs[(count + 1) / 2][width]: two tokens beside each other, zero past the last.
TIDEMILL_AVX512 void pair_values(const Bfloat* values, int64_t step, int64_t count, int64_t width, uint32_t* pairs) {
  for (int64_t token = 0; token < count; token += 2)
    for (int64_t i = 0; i < width; i += 16) {
      const __mmask16 mask = width - i >= 16 ? 0xFFFF : (1u << (width - i)) - 1;
      const __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, values + token * step + i));
      const __m512i odd = token + 1 < count ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, values + (token + 1) * step + i)) : _mm512_setzero_si512();
      _mm512_mask_storeu_epi32(pairs + token / 2 * width + i, mask, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
    }
}

// 2^x for x <= 0, with a relative error of about 10^-7.
TIDEMILL_AVX512 inline __m512 power_of_two(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-126.0f), x);  // in this order NaN stays NaN
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), r = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(1.54035304e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.33335581e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.61812911e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.55041087e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.40226507e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.93147181e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, whole);
}

// What is known of one query's softmax so far.
struct Running {
  float largest = -std::numeric_limits<float>::infinity(), sum = 0;
};

// Scores [from, to) of a row become exp(factor * (score - largest)), all others up to `padded` zero. Gives what earlier
// results must be multiplied with, because the largest score may have grown. `factor` is in powers of two.
TIDEMILL_AVX512 float soften(float* scores, int64_t from, int64_t to, int64_t padded, float factor, Running& running) {
  const int64_t first = from / 16 * 16;
  const auto mask_at = [&](int64_t i) {
    const int64_t low = std::clamp<int64_t>(from - i, 0, 16), high = std::clamp<int64_t>(to - i, 0, 16);
    return __mmask16(((1u << high) - 1) & ~((1u << low) - 1));
  };
  __m512 largest = _mm512_set1_ps(running.largest);
  for (int64_t i = first; i < to; i += 16) {
    const __mmask16 mask = mask_at(i);
    largest = _mm512_mask_max_ps(largest, mask, largest, _mm512_loadu_ps(scores + i));
  }
  const float top = _mm512_reduce_max_ps(largest);
  for (int64_t i = 0; i < first; i += 16) _mm512_storeu_ps(scores + i, _mm512_setzero_ps());
  if (top == -std::numeric_limits<float>::infinity()) {  // nothing seen yet
    for (int64_t i = first; i < padded; i += 16) _mm512_storeu_ps(scores + i, _mm512_setzero_ps());
    return 1;
  }
  const __m512 tops = _mm512_set1_ps(top), factors = _mm512_set1_ps(factor);
  __m512 sum = _mm512_setzero_ps();
  int64_t i = first;
  for (; i < to; i += 16) {
    const __mmask16 mask = mask_at(i);
    const __m512 power = power_of_two(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(scores + i), tops), factors));
    const __m512 kept = _mm512_maskz_mov_ps(mask, power);
    sum = _mm512_add_ps(sum, kept);
    _mm512_storeu_ps(scores + i, kept);
  }
  for (; i < padded; i += 16) _mm512_storeu_ps(scores + i, _mm512_setzero_ps());
  const float shrink = std::exp2((running.largest - top) * factor);  // 0 where nothing was seen before
  running.largest = top;
  running.sum = running.sum * shrink + _mm512_reduce_add_ps(sum);
  return shrink;
}

TIDEMILL_AVX512_BF16 void narrow_scores(const float* scores, Bfloat* narrow, int64_t count) {
  for (int64_t i = 0; i < count; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(narrow + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(scores + i)));
}

TIDEMILL_AVX512 void scale_row(float* row, int64_t width, float factor) {
  for (int64_t i = 0; i < width; i += 16) {
    const __mmask16 mask = width - i >= 16 ? 0xFFFF : (1u << (width - i)) - 1;
    _mm512_mask_storeu_ps(row + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, row + i), _mm512_set1_ps(factor)));
  }
}

TIDEMILL_AVX512 void finish(const float* row, float* out, int64_t width, float factor) {
  for (int64_t i = 0; i < width; i += 16) _mm512_storeu_ps(out + i, _mm512_mul_ps(_mm512_loadu_ps(row + i), _mm512_set1_ps(factor)));
}

TIDEMILL_AVX512_BF16 void finish(const float* row, Bfloat* out, int64_t width, float factor) {
  for (int64_t i = 0; i < width; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(row + i), _mm512_set1_ps(factor))));
}

// The matrices of one task; a thread keeps them from task to task.
struct Space {
  std::vector<float> memory;
  float *scores = nullptr, *output = nullptr;
  uint32_t *keys = nullptr, *values = nullptr;
  Bfloat* narrow = nullptr;
  int64_t row = 0;  // from one row of scores or keys to the next; odd in lines, so that they spread over the cache

  void make(int64_t longest, int64_t head_dim) {
    const int64_t most = (std::min(longest, kKeys) + 15) / 16 * 16;
    row = most + 16;
    const int64_t sizes[] = {kQueries * row, kQueries * head_dim, head_dim * row, (most / 2 + 1) * head_dim, kQueries * row / 2};
    int64_t total = 32;
    for (const int64_t size : sizes) total += (size + 15) / 16 * 16;
    if (int64_t(memory.size()) < total) memory.resize(total);
    auto at = reinterpret_cast<uintptr_t>(memory.data()) + 63 & ~uintptr_t(63);
    const auto next = [&](int64_t size) { return reinterpret_cast<void*>(std::exchange(at, at + (size + 15) / 16 * 64)); };
    scores = static_cast<float*>(next(sizes[0]));
    output = static_cast<float*>(next(sizes[1]));
    keys = static_cast<uint32_t*>(next(sizes[2]));
    values = static_cast<uint32_t*>(next(sizes[3]));
    narrow = static_cast<Bfloat*>(next(sizes[4]));
  }
};

// c[rows][columns] (+)= a[rows][k] b[k][columns], columns in whole vectors.
template <class Unit>
void block_product(int64_t rows, int64_t columns, int64_t k, const Unit* a, int64_t a_stride, const Unit* b, int64_t b_stride,
                   float* c, int64_t c_stride, bool accumulate) {
  for (int64_t row = 0; row < rows; row += kRows) {
    const int64_t tall = std::min(kRows, rows - row);
    int64_t column = 0;
    for (; column + 32 <= columns; column += 32) {
      float* to = c + row * c_stride + column;
      tile_of<2>(tall, k, a + row * a_stride, a_stride, b + column, b_stride, accumulate ? to : nullptr, c_stride, to, c_stride);
    }
    if (column < columns) {
      float* to = c + row * c_stride + column;
      tile_of<1>(tall, k, a + row * a_stride, a_stride, b + column, b_stride, accumulate ? to : nullptr, c_stride, to, c_stride);
    }
  }
}

struct Attention {
  const Texts texts;
  int64_t heads, head_dim, step;  // `step`: numbers from one token to the next
  float factor;                   // of the scores, in powers of two
  int64_t window;

  // Queries [first, last) of a text by one head.
  template <class T>
  void run(const T* qkv, T* out, int64_t text, int64_t head, int64_t first, int64_t last, Space& space) const {
    constexpr bool kPairs = !std::is_same_v<T, float>;
    using Unit = std::conditional_t<kPairs, uint32_t, float>;
    constexpr int64_t kPerUnit = sizeof(Unit) / sizeof(T);
    const int64_t length = texts.length(text), width = heads * head_dim, rows = last - first;
    const T* query = qkv + texts.bounds[text] * step + head * head_dim;
    const T *key = query + width, *value = key + width;
    Running running[kQueries];
    const int64_t seen_from = window < 0 ? 0 : std::max<int64_t>(0, first - window);
    const int64_t seen_to = window < 0 ? length : std::min(length, last + window);
    for (int64_t start = seen_from; start < seen_to; start += kKeys) {
      const int64_t keys = std::min(kKeys, seen_to - start), padded = (keys + 15) / 16 * 16;
      const bool earlier = start > seen_from;
      turn_keys(reinterpret_cast<const uint32_t*>(key + start * step), step / kPerUnit, keys, head_dim / kPerUnit, space.keys, space.row);
      block_product(rows, padded, head_dim / kPerUnit, reinterpret_cast<const Unit*>(query + first * step), step / kPerUnit,
                    reinterpret_cast<const Unit*>(space.keys), space.row, space.scores, space.row, false);
      for (int64_t row = 0; row < rows; row++) {
        const int64_t from = window < 0 ? 0 : std::clamp<int64_t>(first + row - window - start, 0, keys);
        const int64_t to = window < 0 ? keys : std::clamp<int64_t>(first + row + window + 1 - start, 0, keys);
        float* scores = space.scores + row * space.row;
        const float shrink = soften(scores, from, to, padded, factor, running[row]);
        if (earlier && shrink != 1) scale_row(space.output + row * head_dim, head_dim, shrink);
        if constexpr (kPairs) narrow_scores(scores, space.narrow + row * space.row, padded);
      }
      if constexpr (kPairs) {
        pair_values(value + start * step, step, keys, head_dim, space.values);
        block_product(rows, head_dim, (keys + 1) / 2, reinterpret_cast<const uint32_t*>(space.narrow), space.row / 2, space.values, head_dim,
                      space.output, head_dim, earlier);
      } else {
        block_product(rows, head_dim, keys, space.scores, space.row, value + start * step, step, space.output, head_dim, earlier);
      }
    }
    for (int64_t row = 0; row < rows; row++)
      finish(space.output + row * head_dim, out + (texts.bounds[text] + first + row) * width + head * head_dim, head_dim, 1 / running[row].sum);
  }

  template <class T>
  void run_all(const T* qkv, T* out) const {
    // A task is one block of queries of one head; long texts first, so that the threads end together.
    struct Task {
      int64_t text, first, last;
    };
    std::vector<Task> tasks;
    for (int64_t text = 0; text < texts.count; text++)
      for (int64_t first = 0; first < texts.length(text); first += kQueries) tasks.push_back({text, first, std::min(first + kQueries, texts.length(text))});
    std::stable_sort(tasks.begin(), tasks.end(), [&](const Task& a, const Task& b) { return texts.length(a.text) > texts.length(b.text); });
    const int64_t count = int64_t(tasks.size()) * heads, longest = texts.longest();
    std::atomic<int64_t> next{0};
    const int64_t threads = std::min<int64_t>(at::get_num_threads(), count);
    at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
      static thread_local Space space;
      space.make(longest, head_dim);
      for (int64_t i = next++; i < count; i = next++) {
        const Task& task = tasks[i / heads];
        run(qkv, out, task.text, i % heads, task.first, task.last, space);
      }
    });
  }
};

#endif

Tensor attention(const Tensor& qkv, const Texts& texts, int64_t heads, double scale, int64_t window) {
  TORCH_CHECK(qkv.dim() == 2 && heads > 0 && qkv.size(1) % (3 * heads) == 0, "attention: the rows must hold queries, keys and values of ", heads, " heads");
  TORCH_CHECK(texts.bounds[0] == 0 && texts.bounds[texts.count] == qkv.size(0), "attention: the bounds must run from 0 to the ", qkv.size(0), " tokens");
  for (int64_t text = 0; text < texts.count; text++) TORCH_CHECK(texts.length(text) > 0, "attention: text ", text, " has no token");
  const int64_t tokens = qkv.size(0), width = qkv.size(1) / 3, head_dim = width / heads;
#ifdef TIDEMILL_X86_TILES
  const bool fits = head_dim % 16 == 0 && head_dim <= 256 && takes(qkv) && tiles_available(at::kFloat) && !wants_gradient({&qkv});
  if (fits && tokens > 0) {
    if (is_bfloat(qkv) && !tiles_available(at::kBFloat16)) return attention(qkv.to(at::kFloat), texts, heads, scale, window).to(at::kBFloat16);
    const Tensor from = qkv.contiguous();
    Tensor result = at::empty({tokens, width}, from.options());
    const Attention attention{texts, heads, head_dim, from.stride(0), float(scale * 1.4426950408889634), window};
    if (is_bfloat(from)) attention.run_all(numbers<Bfloat>(from), mutable_numbers<Bfloat>(result));
    else attention.run_all(numbers<float>(from), mutable_numbers<float>(result));
    return result;
  }
#endif
  return attention_by_libtorch(qkv, texts, heads, scale, window);
}

}  // namespace
}  // namespace tidemill::encode

using namespace tidemill;

extern "C" {

// `bounds` holds one number more than there are texts; `window` is negative where all tokens see each other.
char* tm_varlen_attention(Tensor** result, const Tensor* qkv, const int64_t* bounds, int64_t texts, int64_t heads, double scale,
                          int64_t window) {
  return guarded([&] { *result = new Tensor(encode::attention(*qkv, {bounds, texts}, heads, scale, window)); });
}

}  // extern "C"
