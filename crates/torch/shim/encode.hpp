// What the parts of the encoder's shim share: number formats, activations, and the register tiles that both the linear
// layer (panel_linear.cpp) and attention (varlen_attention.cpp) are made of.
//
// Everything computes in float32 and stores float32 or bfloat16. Activations `x` are matrices of one row a token.
#pragma once
#include "shim.hpp"
#include "vector_math.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
#define TIDEMILL_X86_TILES 1
#include <immintrin.h>
#define TIDEMILL_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define TIDEMILL_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")))
#endif

namespace tidemill::encode {

// The numbers are those of the Rust enum `Activation`; 0 is none.
enum class Activation : int32_t { None = 0, Gelu = 1, GeluTanh = 2, Relu = 3, Silu = 4, Tanh = 5, QuickGelu = 6 };

// The bits of a bfloat16, so that loops over them become vector code.
using Bfloat = uint16_t;

TIDEMILL_INLINE float widened(float value) { return value; }
TIDEMILL_INLINE float widened(Bfloat value) { return std::bit_cast<float>(uint32_t(value) << 16); }
TIDEMILL_INLINE void narrow_to(float value, float& to) { to = value; }
TIDEMILL_INLINE void narrow_to(float value, Bfloat& to) {  // nearest, ties to even; NaN stays NaN
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  to = Bfloat(value == value ? rounded : 0x7FC0);
}

template <class T>
const T* numbers(const Tensor& tensor) {
  if constexpr (std::is_same_v<T, float>) return tensor.const_data_ptr<float>();
  else return reinterpret_cast<const T*>(tensor.const_data_ptr<at::BFloat16>());
}

template <class T>
T* mutable_numbers(const Tensor& tensor) {
  if constexpr (std::is_same_v<T, float>) return tensor.mutable_data_ptr<float>();
  else return reinterpret_cast<T*>(tensor.mutable_data_ptr<at::BFloat16>());
}

template <class T>
constexpr at::ScalarType kind_of = std::is_same_v<T, float> ? at::kFloat : at::kBFloat16;

inline bool is_bfloat(const Tensor& tensor) { return tensor.scalar_type() == at::kBFloat16; }

// Whether the code here takes the tensor; elsewhere libtorch's own operators do the same.
inline bool takes(const Tensor& tensor) {
  return tensor.device().is_cpu() && tensor.layout() == at::kStrided &&
         (tensor.scalar_type() == at::kFloat || is_bfloat(tensor));
}

// Rows of an [n, width] matrix so that each lies in one piece.
inline Tensor unit_rows(const Tensor& matrix) { return matrix.stride(-1) == 1 ? matrix : matrix.contiguous(); }

template <Activation A>
TIDEMILL_INLINE float activated(float x) {
  if constexpr (A == Activation::Gelu) return 0.5f * x * (1.0f + fast_erf(0.70710678118654752f * x));
  if constexpr (A == Activation::GeluTanh) return x * fast_sigmoid(1.59576912160573f * (x + 0.044715f * x * x * x));
  if constexpr (A == Activation::Relu) return x < 0 ? 0.0f : x;
  if constexpr (A == Activation::Silu) return x * fast_sigmoid(x);
  if constexpr (A == Activation::Tanh) return fast_tanh(x);
  if constexpr (A == Activation::QuickGelu) return x * fast_sigmoid(1.702f * x);
  return x;
}

// The same by libtorch, for whatever the code here does not take.
Tensor activated_by_libtorch(const Tensor& x, Activation activation);

// values[i] = activation(values[i])
void activate(float* values, int64_t count, Activation activation);

// Whether the tiles below run here: for float32, and for pairs of bfloat16.
bool tiles_available(at::ScalarType kind);

#ifdef TIDEMILL_X86_TILES

// c[R][16 V] = start + a b for a[R][k] and b[k][16 V], with the given strides; `start` is null for zeros, one row for all
// with a stride of 0, or `c` itself. One row's sums are added in the order of k whatever R is.
template <int R, int V>
TIDEMILL_AVX512 void tile(int64_t k, const float* a, int64_t a_stride, const float* b, int64_t b_stride, const float* start,
                          int64_t start_stride, float* c, int64_t c_stride) {
  __m512 sums[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++)
      sums[r][v] = start ? _mm512_loadu_ps(start + r * start_stride + 16 * v) : _mm512_setzero_ps();
  for (int64_t i = 0; i < k; i++) {
    __m512 right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) right[v] = _mm512_loadu_ps(b + i * b_stride + 16 * v);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const __m512 left = _mm512_set1_ps(a[r * a_stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) sums[r][v] = _mm512_fmadd_ps(left, right[v], sums[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) _mm512_storeu_ps(c + r * c_stride + 16 * v, sums[r][v]);
}

// The same where a and b hold pairs of bfloat16: k pairs, strides of a and b counted in pairs.
template <int R, int V>
TIDEMILL_AVX512_BF16 void tile(int64_t k, const uint32_t* a, int64_t a_stride, const uint32_t* b, int64_t b_stride,
                               const float* start, int64_t start_stride, float* c, int64_t c_stride) {
  __m512 sums[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++)
      sums[r][v] = start ? _mm512_loadu_ps(start + r * start_stride + 16 * v) : _mm512_setzero_ps();
  for (int64_t i = 0; i < k; i++) {
    __m512i right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) right[v] = _mm512_loadu_si512(b + i * b_stride + 16 * v);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const __m512i left = _mm512_set1_epi32(int(a[r * a_stride + i]));
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], (__m512bh)left, (__m512bh)right[v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) _mm512_storeu_ps(c + r * c_stride + 16 * v, sums[r][v]);
}

// The same for any number of rows up to 8.
template <int V, class Unit>
void tile_of(int64_t rows, int64_t k, const Unit* a, int64_t a_stride, const Unit* b, int64_t b_stride, const float* start,
             int64_t start_stride, float* c, int64_t c_stride) {
  switch (rows) {
    case 1: return tile<1, V>(k, a, a_stride, b, b_stride, start, start_stride, c, c_stride);
    case 2: return tile<2, V>(k, a, a_stride, b, b_stride, start, start_stride, c, c_stride);
    case 3: return tile<3, V>(k, a, a_stride, b, b_stride, start, start_stride, c, c_stride);
    case 4: return tile<4, V>(k, a, a_stride, b, b_stride, start, start_stride, c, c_stride);
    case 5: return tile<5, V>(k, a, a_stride, b, b_stride, start, start_stride, c, c_stride);
    case 6: return tile<6, V>(k, a, a_stride, b, b_stride, start, start_stride, c, c_stride);
    case 7: return tile<7, V>(k, a, a_stride, b, b_stride, start, start_stride, c, c_stride);
    default: return tile<8, V>(k, a, a_stride, b, b_stride, start, start_stride, c, c_stride);
  }
}

#endif

}  // namespace tidemill::encode
