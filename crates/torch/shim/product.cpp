#include "product.hpp"

#include <ATen/native/CPUBlas.h>

#include <algorithm>

namespace tidemill {
namespace {

constexpr int64_t kDepth = 512;   // steps of the inner dimension that stay in the cache together
constexpr int64_t kHeight = 128;  // rows of the left-hand matrix that stay in the cache together

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// target[k, panel] = source[k * row_stride + column * column_stride] for `width` columns.
void pack_panel(const float* source, int64_t k, int64_t width, int64_t row_stride, int64_t column_stride, float* target) {
  if (column_stride == 1) {
    for (int64_t i = 0; i < k; i++) std::copy_n(source + i * row_stride, width, target + i * kPanel);
    return;
  }
  constexpr int64_t kTile = 16;
  for (int64_t i0 = 0; i0 < k; i0 += kTile) {
    const int64_t rows = std::min(kTile, k - i0);
    for (int64_t j = 0; j < width; j++) {
      const float* from = source + i0 * row_stride + j * column_stride;
      for (int64_t i = 0; i < rows; i++) target[(i0 + i) * kPanel + j] = from[i * row_stride];
    }
  }
}

}  // namespace

bool brgemm_available() {
  static const bool available = [] {
    try {
      const float a[2] = {2, 3}, b[2] = {5, 7};
      float c[1] = {1};
      at::native::cpublas::brgemm(1, 1, 2, 2, 1, 1, true, a, b, c, false);
      at::native::cpublas::brgemm_release(false);
      return c[0] == 32;
    } catch (...) {
      return false;
    }
  }();
  return available && at::globalContext().userEnabledMkldnn();
}

void release_brgemm() { at::native::cpublas::brgemm_release(false); }

void small_product(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                   int64_t ldc, bool accumulate) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, accumulate, a, b, c, false);
}

Panels pack_panels(const float* source, int64_t k, int64_t n, int64_t row_stride, int64_t column_stride) {
  Panels panels{{}, k, n};
  panels.buffer = at::empty({panels.count(), k, kPanel}, at::kFloat);
  float* target = panels.buffer.mutable_data_ptr<float>();
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, k * kPanel));
  at::parallel_for(0, panels.count(), grain, [&](int64_t first, int64_t last) {
    for (int64_t j = first; j < last; j++)
      pack_panel(source + j * kPanel * column_stride, k, panels.width(j), row_stride, column_stride,
                 target + j * k * kPanel);
  });
  return panels;
}

void panel_product(int64_t m, const float* a, int64_t lda, const Panels& b, float* c, int64_t ldc, bool accumulate) {
  for (int64_t k0 = 0; k0 < b.k; k0 += kDepth) {
    const int64_t depth = std::min(kDepth, b.k - k0);
    for (int64_t j = 0; j < b.count(); j++)
      small_product(m, b.width(j), depth, a + k0, lda, b.panel(j) + k0 * kPanel, kPanel, c + j * kPanel, ldc,
                    accumulate || k0 > 0);
  }
}

Tensor blocked_product(const Tensor& a, const Tensor& b) {
  const int64_t m = a.size(0), k = a.size(1), n = b.size(1), lda = a.stride(0);
  Tensor c = at::empty({m, n}, a.options());
  const Panels panels = pack_panels(b.const_data_ptr<float>(), k, n, b.stride(0), b.stride(1));
  const float* left = a.const_data_ptr<float>();
  float* out = c.mutable_data_ptr<float>();
  const int64_t threads = at::get_num_threads();
  const int64_t height = std::clamp<int64_t>(ceil_div(m, threads), 1, kHeight), blocks = ceil_div(m, height);
  // Few rows: the threads share out the columns as well.
  const int64_t shares = blocks >= threads ? 1 : std::min(panels.count(), ceil_div(threads, blocks));
  at::parallel_for(0, blocks * shares, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; task++) {
      const int64_t row = task / shares * height, rows = std::min(height, m - row), share = task % shares;
      const int64_t from = share * panels.count() / shares, to = (share + 1) * panels.count() / shares;
      for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
        const int64_t depth = std::min(kDepth, k - k0);
        for (int64_t j = from; j < to; j++)
          small_product(rows, panels.width(j), depth, left + row * lda + k0, lda, panels.panel(j) + k0 * kPanel, kPanel,
                        out + row * n + j * kPanel, n, k0 > 0);
      }
    }
    release_brgemm();
  });
  return c;
}

Tensor blocked_inner_product(const Tensor& left, const Tensor& right) {
  // The narrower side is the one to transpose; the result is turned as it is stored.
  const bool swap = left.size(1) > right.size(1);
  const Tensor &narrow = swap ? right : left, &wide = swap ? left : right;
  const int64_t rows = narrow.size(0), m = narrow.size(1), n = wide.size(1);
  const int64_t slabs = ceil_div(rows, kDepth), lda = kDepth + 16, panels = ceil_div(n, kPanel);
  Tensor turned = at::empty({slabs, m, lda}, at::kFloat), result = at::empty({left.size(1), right.size(1)}, at::kFloat);
  float* turned_data = turned.mutable_data_ptr<float>();
  const float* narrow_data = narrow.const_data_ptr<float>();
  const float* wide_data = wide.const_data_ptr<float>();
  float* out = result.mutable_data_ptr<float>();
  constexpr int64_t kTile = 16;
  at::parallel_for(0, ceil_div(rows, kTile), std::max<int64_t>(1, 2048 / std::max<int64_t>(1, m)), [&](int64_t first, int64_t last) {
    for (int64_t tile = first; tile < last; tile++) {
      const int64_t r0 = tile * kTile, height = std::min(kTile, rows - r0);
      float* target = turned_data + r0 / kDepth * m * lda + r0 % kDepth;
      for (int64_t i = 0; i < m; i++)
        for (int64_t r = 0; r < height; r++)
          target[i * lda + r] = narrow_data[(r0 + r) * narrow.stride(0) + i * narrow.stride(1)];
    }
  });
  at::parallel_for(0, panels, 1, [&](int64_t first, int64_t last) {
    std::vector<float> packed(kDepth * kPanel), strip(m * kPanel);
    for (int64_t j = first; j < last; j++) {
      const int64_t width = std::min(kPanel, n - j * kPanel);
      for (int64_t slab = 0; slab < slabs; slab++) {
        const int64_t r0 = slab * kDepth, depth = std::min(kDepth, rows - r0);
        pack_panel(wide_data + r0 * wide.stride(0) + j * kPanel * wide.stride(1), depth, width, wide.stride(0),
                   wide.stride(1), packed.data());
        for (int64_t i = 0; i < m; i += kHeight)
          small_product(std::min(kHeight, m - i), width, depth, turned_data + (slab * m + i) * lda, lda, packed.data(),
                        kPanel, strip.data() + i * kPanel, kPanel, slab > 0);
      }
      for (int64_t i = 0; i < m; i++)
        for (int64_t c = 0; c < width; c++)
          out[swap ? (j * kPanel + c) * m + i : i * n + j * kPanel + c] = strip[i * kPanel + c];
    }
    release_brgemm();
  });
  return result;
}

}  // namespace tidemill
