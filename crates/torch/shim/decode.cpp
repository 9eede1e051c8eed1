// What a decoder does between its matrix products, on float32 in main memory, each in one pass. Where a function gives
// `false` the tensors are of another kind, and the caller takes libtorch's operators.
#include "panels.hpp"
#include "shim.hpp"
#include "vector_math.hpp"

#include <ATen/EmptyTensor.h>

#include <cmath>

namespace tidemill {
namespace {

constexpr int64_t kParts = 16;          // sums that run beside one another
constexpr int64_t kWorthSharing = 65536;  // numbers below which one thread is faster than two

// ---- norms ----

// out = x / sqrt(mean(x^2) + eps) * (offset + weight); first x += added, where there is any.
TIDEMILL_VECTOR void norm_row(float* __restrict sum, const float* __restrict x, const float* __restrict weight, int64_t n, float eps, float offset, float* __restrict out) {
  alignas(64) float squares[kParts] = {};
  const float* from = x;
  if (sum != nullptr) {
#pragma GCC ivdep
    for (int64_t k = 0; k < n; k++) sum[k] += x[k];
    from = sum;
  }
  const int64_t whole = n / kParts * kParts;
  for (int64_t k = 0; k < whole; k += kParts)
    for (int64_t i = 0; i < kParts; i++) squares[i] += from[k + i] * from[k + i];
  for (int64_t k = whole; k < n; k++) squares[k - whole] += from[k] * from[k];
  for (int64_t half = kParts / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; i++) squares[i] += squares[i + half];
  const float factor = 1 / std::sqrt(squares[0] / float(n) + eps);
#pragma GCC ivdep
  for (int64_t k = 0; k < n; k++) out[k] = from[k] * factor * (offset + weight[k]);
}

// Rows of unit stride: the tensor itself where its rows lie evenly, else a copy.
struct Rows {
  Tensor tensor;
  int64_t count = 0, width = 0, stride = 0;

  explicit Rows(const Tensor& x) : tensor(x), width(x.dim() > 0 ? x.size(-1) : 1) {
    const bool even = x.dim() == 2 && x.stride(1) == 1;
    if (!even) tensor = x.contiguous();
    count = width > 0 ? tensor.numel() / width : 0;
    stride = even ? x.stride(0) : width;
  }
  const float* row(int64_t i) const { return tensor.const_data_ptr<float>() + i * stride; }
};

template <typename Body>
void for_rows(int64_t rows, int64_t width, const Body& body) {
  if (rows * width < kWorthSharing) body(0, rows);
  else at::parallel_for(0, rows, std::max<int64_t>(1, kWorthSharing / 4 / width), body);
}

bool norm(Tensor* residual, const Tensor& x, const Tensor& weight, double eps, double offset, Tensor** result) {
  if (!is_cpu_float(x) || !is_cpu_float(weight) || (residual != nullptr && !is_cpu_float(*residual))) return false;
  TORCH_CHECK(x.dim() > 0 && weight.dim() == 1 && weight.size(0) == x.size(-1), "rms_norm: the weight is ", weight.sizes(), " for an input of ", x.sizes());
  if (residual != nullptr) {
    TORCH_CHECK(residual->sizes() == x.sizes(), "add_rms_norm: the residual is ", residual->sizes(), ", but what is added is ", x.sizes());
    if (!residual->is_contiguous()) return false;
  }
  const Rows rows(x);
  const Tensor scale = weight.contiguous();
  Tensor out = at::detail::empty_cpu(x.sizes(), at::kFloat);
  float *to = out.mutable_data_ptr<float>(), *sum = residual != nullptr ? residual->mutable_data_ptr<float>() : nullptr;
  const float* factors = scale.const_data_ptr<float>();
  for_rows(rows.count, rows.width, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++)
      norm_row(sum == nullptr ? nullptr : sum + i * rows.width, rows.row(i), factors, rows.width, float(eps), float(offset), to + i * rows.width);
  });
  *result = new Tensor(std::move(out));
  return true;
}

// ---- rotary positions ----

TIDEMILL_VECTOR void rotate_halves(float* __restrict x, const float* __restrict cos, const float* __restrict sin, int64_t half) {
#pragma GCC ivdep
  for (int64_t i = 0; i < half; i++) {
    const float first = x[i], second = x[i + half];
    x[i] = first * cos[i] - second * sin[i];
    x[i + half] = second * cos[i] + first * sin[i];
  }
}

TIDEMILL_VECTOR void rotate_neighbours(float* __restrict x, const float* __restrict cos, const float* __restrict sin, int64_t half) {
#pragma GCC ivdep
  for (int64_t i = 0; i < half; i++) {
    const float first = x[2 * i], second = x[2 * i + 1];
    x[2 * i] = first * cos[i] - second * sin[i];
    x[2 * i + 1] = second * cos[i] + first * sin[i];
  }
}

bool is_index(const Tensor& tensor, int64_t dim) {
  return tensor.device().is_cpu() && tensor.scalar_type() == at::kLong && tensor.dim() == dim && tensor.is_contiguous();
}

bool rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions, bool interleaved) {
  TORCH_CHECK(x.dim() == 3 && cos.dim() == 2 && sin.sizes() == cos.sizes() && positions.dim() == 1, "rotate: x must be [tokens, heads, head_dim] and cos and sin [positions, half], but they are ", x.sizes(), ", ", cos.sizes(), " and ", sin.sizes());
  const int64_t tokens = x.size(0), heads = x.size(1), half = cos.size(1);
  TORCH_CHECK(2 * half <= x.size(2), "rotate: tables of ", half, " angles are too wide for heads of ", x.size(2));
  TORCH_CHECK(positions.size(0) == tokens, "rotate: there are ", positions.size(0), " positions for ", tokens, " tokens");
  if (!is_cpu_float(x) || !is_cpu_float(cos) || !is_cpu_float(sin) || !is_index(positions, 1) || x.stride(2) != 1 || !cos.is_contiguous() || !sin.is_contiguous()) return false;
  const int64_t* position = positions.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < tokens; t++)
    TORCH_CHECK_INDEX(position[t] >= 0 && position[t] < cos.size(0), "rotate: position ", position[t], " is outside the table of ", cos.size(0));
  float* data = x.mutable_data_ptr<float>();
  const float *cosines = cos.const_data_ptr<float>(), *sines = sin.const_data_ptr<float>();
  const int64_t token_stride = x.stride(0), head_stride = x.stride(1);
  for_rows(tokens, heads * x.size(2), [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
      for (int64_t h = 0; h < heads; h++) {
        float* at = data + t * token_stride + h * head_stride;
        const int64_t row = position[t] * half;
        if (interleaved) rotate_neighbours(at, cosines + row, sines + row, half);
        else rotate_halves(at, cosines + row, sines + row, half);
      }
    }
  });
  return true;
}

}  // namespace
}  // namespace tidemill

using namespace tidemill;

extern "C" {

// Each leaves `result` null where the tensors are not float32 in main memory.

char* tm_rms_norm(Tensor** result, Tensor* residual, const Tensor* x, const Tensor* weight, double eps, double offset) {
  return guarded([&] { norm(residual, *x, *weight, eps, offset, result); });
}

char* tm_rotate(bool* done, const Tensor* x, const Tensor* cos, const Tensor* sin, const Tensor* positions, bool interleaved) {
  return guarded([&] { *done = rotate(*x, *cos, *sin, *positions, interleaved); });
}
}
