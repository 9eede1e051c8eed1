// Float32 matrix products on one processor by oneDNN's small-matrix kernels (brgemm), blocked for the caches here.
//
// They reach oneDNN's speed without its per-call overhead, take any row stride and can be called within a parallel
// region, which the recurrent layers and the text convolution need. Where the processor has no such kernel
// (`brgemm_available`), callers take libtorch's own products.
#pragma once
#include "shim.hpp"

namespace tidemill {

constexpr int64_t kPanel = 64;  // columns of the right-hand matrix that are packed together

bool brgemm_available();

// To be called by each thread after its last product: gives the processor's matrix state back.
void release_brgemm();

// c[m, n] (+)= a[m, k] b[k, n], row-major with the given row strides; single-threaded.
void small_product(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                   int64_t ldc, bool accumulate);

// The right-hand matrix b[k, n] = source[k * row_stride + n * column_stride], as panels of `kPanel` columns.
struct Panels {
  Tensor buffer;
  int64_t k = 0, n = 0;
  const float* panel(int64_t j) const { return buffer.const_data_ptr<float>() + j * k * kPanel; }
  int64_t count() const { return (n + kPanel - 1) / kPanel; }
  int64_t width(int64_t j) const { return std::min(kPanel, n - j * kPanel); }
};
Panels pack_panels(const float* source, int64_t k, int64_t n, int64_t row_stride, int64_t column_stride);

// c[m, n] (+)= a[m, k] b; single-threaded.
void panel_product(int64_t m, const float* a, int64_t lda, const Panels& b, float* c, int64_t ldc, bool accumulate);

// a[m, k] b[k, n] on all threads: `b` may have any strides, `a` unit stride in its rows.
Tensor blocked_product(const Tensor& a, const Tensor& b);
// left[rows, m]^T right[rows, n] on all threads: the product of a weight's gradient.
Tensor blocked_inner_product(const Tensor& left, const Tensor& right);

}  // namespace tidemill
