// Dropout in one pass over memory with what stands beside it in a transformer: the GELU before it, the residual sum and
// the layer norm after it.
//
// What is dropped is a function of a key, drawn once a call from libtorch's generator, and of the element's row and
// column: the backward pass makes the mask again instead of reading it, and the number of threads changes nothing.
#include "encode.hpp"
#include "shim.hpp"
#include "vector_math.hpp"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <mutex>

namespace tidemill {
namespace {

constexpr int64_t kDraws = 4 * kLanes;  // of one call of the generator below

// Philox 4x32 (Salmon et al. 2011) with seven rounds, the fewest that pass BigCrush: the draws of `kDraws` columns from
// `column` on, each `scale` or, where the draw is below `threshold`, 0.
TIDEMILL_VECTOR void draw(uint64_t key, uint64_t row, uint32_t column, uint32_t threshold, float scale, float* mask) {
  uint32_t a[kLanes], b[kLanes], c[kLanes], d[kLanes];
  uint32_t key_low = uint32_t(key), key_high = uint32_t(key >> 32);
  for (int64_t i = 0; i < kLanes; i++) a[i] = column + uint32_t(i), b[i] = uint32_t(row), c[i] = uint32_t(row >> 32), d[i] = 0;
  for (int round = 0; round < 7; round++) {
    for (int64_t i = 0; i < kLanes; i++) {
      const uint64_t left = uint64_t(a[i]) * 0xD2511F53u, right = uint64_t(c[i]) * 0xCD9E8D57u;
      a[i] = uint32_t(right >> 32) ^ b[i] ^ key_low;
      b[i] = uint32_t(right);
      c[i] = uint32_t(left >> 32) ^ d[i] ^ key_high;
      d[i] = uint32_t(left);
    }
    key_low += 0x9E3779B9u, key_high += 0xBB67AE85u;
  }
  for (int64_t i = 0; i < kLanes; i++) {
    mask[i] = a[i] < threshold ? 0 : scale;
    mask[kLanes + i] = b[i] < threshold ? 0 : scale;
    mask[2 * kLanes + i] = c[i] < threshold ? 0 : scale;
    mask[3 * kLanes + i] = d[i] < threshold ? 0 : scale;
  }
}

// What a call drops.
class Mask {
 public:
  explicit Mask(double probability) : probability_(probability) {
    TORCH_CHECK(probability >= 0 && probability <= 1, "dropout: the probability must lie between 0 and 1, but is ", probability);
    if (probability == 0 || probability == 1) return;
    at::Generator generator = at::detail::getDefaultCPUGenerator();
    std::lock_guard<std::mutex> lock(generator.mutex());
    key_ = at::check_generator<at::CPUGeneratorImpl>(generator)->random64();
  }
  Mask(double probability, int64_t key) : probability_(probability), key_(uint64_t(key)) {}

  bool drops() const { return probability_ > 0; }
  int64_t key() const { return int64_t(key_); }
  static int64_t space(int64_t width) { return (width + kDraws - 1) / kDraws * kDraws; }

  // 0 or 1 / (1 - probability) for each column of a row; `mask` has room for space(width).
  void fill(int64_t row, int64_t width, float* mask) const {
    if (probability_ == 0 || probability_ == 1) {
      std::fill_n(mask, width, probability_ == 0 ? 1.f : 0.f);
      return;
    }
    const uint32_t threshold = uint32_t(std::min(probability_ * 4294967296.0, 4294967295.0));
    for (int64_t column = 0; column < width; column += kDraws)
      draw(key_, row, uint32_t(column), threshold, float(1 / (1 - probability_)), mask + column);
  }

 private:
  double probability_;
  uint64_t key_ = 0;
};

int64_t width_of(const Tensor& tensor) { return tensor.dim() ? tensor.size(-1) : 1; }
int64_t rows_of(const Tensor& tensor) { return tensor.numel() / std::max<int64_t>(1, width_of(tensor)); }

// ---- GELU, dropout ----

TIDEMILL_VECTOR void multiply(const float* from, const float* mask, float* to, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) to[i] = from[i] * mask[i];
}

constexpr float kRootHalf = 0.70710678118654752f, kRootOfTwoPi = 0.39894228040143268f;

TIDEMILL_VECTOR void gelu_times(const float* from, const float* mask, float* to, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) to[i] = encode::activated<encode::Activation::Gelu>(from[i]) * mask[i];
}

TIDEMILL_VECTOR void gelu_slope_times(const float* from, const float* gradient, const float* mask, float* to, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    const float x = from[i];
    const float slope = 0.5f * (1.0f + fast_erf(kRootHalf * x)) + x * kRootOfTwoPi * fast_exp(-0.5f * x * x);
    to[i] = gradient[i] * mask[i] * slope;
  }
}

// Rows in parallel, enough of them to a thread; body(row, its mask).
template <class Body>
void each_row(int64_t rows, int64_t width, const Mask& mask, const Body& body) {
  at::parallel_for(0, rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, width)), [&](int64_t first, int64_t last) {
    std::vector<float> space(Mask::space(width));
    if (!mask.drops()) mask.fill(0, width, space.data());
    for (int64_t row = first; row < last; row++) {
      if (mask.drops()) mask.fill(row, width, space.data());
      body(row, space.data());
    }
  });
}

struct GeluDropout : torch::autograd::Function<GeluDropout> {
  static Tensor compute(const Tensor& given, const Mask& mask) {
    const Tensor input = given.contiguous();
    Tensor output = at::empty(input.sizes(), input.options());
    const float* from = input.const_data_ptr<float>();
    float* to = output.mutable_data_ptr<float>();
    const int64_t width = width_of(input);
    each_row(rows_of(input), width, mask, [&](int64_t row, const float* kept) { gelu_times(from + row * width, kept, to + row * width, width); });
    return output;
  }

  static Tensor forward(AutogradContext* context, const Tensor& input, double probability) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const Mask mask(probability);
    context->save_for_backward({input});
    context->saved_data["probability"] = probability;
    context->saved_data["key"] = mask.key();
    return compute(input, mask);
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    tensor_list result(2);
    if (!gradients[0].defined()) return result;
    check_first_derivative("gelu_dropout");
    at::AutoDispatchBelowADInplaceOrView guard;
    const Mask mask(context->saved_data["probability"].toDouble(), context->saved_data["key"].toInt());
    const Tensor input = context->get_saved_variables()[0].contiguous(), gradient = gradients[0].contiguous();
    result[0] = at::empty(input.sizes(), input.options());
    const float *from = input.const_data_ptr<float>(), *outer = gradient.const_data_ptr<float>();
    float* to = result[0].mutable_data_ptr<float>();
    const int64_t width = width_of(input);
    each_row(rows_of(input), width, mask, [&](int64_t row, const float* kept) {
      gelu_slope_times(from + row * width, outer + row * width, kept, to + row * width, width);
    });
    return result;
  }
};

Tensor gelu_dropout(const Tensor& input, double probability) {
  if (!is_cpu_float(input)) return at::dropout(at::gelu(input), probability, true);
  if (wants_gradient({&input})) return GeluDropout::apply(input, probability);
  return GeluDropout::compute(input, Mask(probability));
}

// ---- dropout, residual sum, layer norm ----

// sum = residual + x * mask; normed = (sum - mean) / deviation * weight + bias. Gives mean and 1 / deviation.
TIDEMILL_VECTOR void add_and_normalise(const float* x, const float* mask, const float* residual, const float* weight, const float* bias,
                                       float epsilon, float* sum, float* normed, float* mean_out, float* inverse_out, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) sum[i] = residual[i] + x[i] * mask[i];
  const float mean = float(sum_of(sum, n) / n), squares = float(squares_of(sum, mean, n));
  const float inverse = 1 / std::sqrt(squares / float(n) + epsilon);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) normed[i] = (sum[i] - mean) * inverse * weight[i] + bias[i];
  *mean_out = mean, *inverse_out = inverse;
}

// The gradient of the norm, and of the sum's own use where `own` is given; adds to the weight's and the bias's.
TIDEMILL_VECTOR void normalise_backward(const float* sum, float mean, float inverse, const float* gradient, const float* own, const float* weight,
                                        float* to, float* weight_gradient, float* bias_gradient, int64_t n) {
  const auto scaled = [&](int64_t i) { return load_lanes(gradient + i) * load_lanes(weight + i); };
  const auto scaled_one = [&](int64_t i) { return gradient[i] * weight[i]; };
  const float level = float(total(n, scaled, scaled_one) / n);
  const float tilt = float(total(
      n, [&](int64_t i) { return scaled(i) * ((load_lanes(sum + i) - mean) * inverse); },
      [&](int64_t i) { return scaled_one(i) * ((sum[i] - mean) * inverse); }) / n);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    const float standard = (sum[i] - mean) * inverse;
    to[i] = inverse * (gradient[i] * weight[i] - level - standard * tilt);
    weight_gradient[i] += gradient[i] * standard;
    bias_gradient[i] += gradient[i];
  }
  if (own)
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) to[i] += own[i];
}

struct DropoutAddLayerNorm : torch::autograd::Function<DropoutAddLayerNorm> {
  struct Result {
    Tensor sum, normed, means, inverses;
  };

  static Result compute(const Tensor& x, const Tensor& residual, const Mask& mask, const Tensor& weight, const Tensor& bias, double epsilon) {
    const Tensor branch = x.contiguous(), stream = residual.contiguous();
    const int64_t rows = rows_of(x), width = width_of(x);
    Result result{at::empty(x.sizes(), x.options()), at::empty(x.sizes(), x.options()), at::empty({rows}, x.options()), at::empty({rows}, x.options())};
    const float *xs = branch.const_data_ptr<float>(), *residuals = stream.const_data_ptr<float>();
    const float *weights = weight.const_data_ptr<float>(), *biases = bias.const_data_ptr<float>();
    float *sum = result.sum.mutable_data_ptr<float>(), *normed = result.normed.mutable_data_ptr<float>();
    float *means = result.means.mutable_data_ptr<float>(), *inverses = result.inverses.mutable_data_ptr<float>();
    each_row(rows, width, mask, [&](int64_t row, const float* kept) {
      const int64_t at = row * width;
      add_and_normalise(xs + at, kept, residuals + at, weights, biases, float(epsilon), sum + at, normed + at, means + row, inverses + row, width);
    });
    return result;
  }

  static tensor_list forward(AutogradContext* context, const Tensor& x, const Tensor& residual, double probability, const Tensor& weight,
                             const Tensor& bias, double epsilon) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const Mask mask(probability);
    const Result result = compute(x, residual, mask, weight.contiguous(), bias.contiguous(), epsilon);
    context->save_for_backward({result.sum, result.means, result.inverses, weight});
    context->saved_data["probability"] = probability;
    context->saved_data["key"] = mask.key();
    context->set_materialize_grads(false);
    return {result.sum, result.normed};
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    tensor_list result(6);
    check_first_derivative("dropout_add_layer_norm");
    at::AutoDispatchBelowADInplaceOrView guard;
    const Mask mask(context->saved_data["probability"].toDouble(), context->saved_data["key"].toInt());
    const auto saved = context->get_saved_variables();
    const Tensor &sum = saved[0], &means = saved[1], &inverses = saved[2], weight = saved[3].contiguous();
    const bool of_sum = gradients[0].defined(), of_norm = gradients[1].defined();
    if (!of_sum && !of_norm) return result;
    const Tensor sum_gradient = of_sum ? gradients[0].contiguous() : Tensor(), gradient = of_norm ? gradients[1].contiguous() : Tensor();
    const int64_t rows = rows_of(sum), width = width_of(sum);
    const Tensor of_stream = of_norm ? at::empty(sum.sizes(), sum.options()) : sum_gradient;
    const Tensor of_branch = mask.drops() ? at::empty(sum.sizes(), sum.options()) : of_stream;
    // The weight's and the bias's gradients are summed in blocks of rows, each in one order whatever the threads.
    const int64_t block = (rows + 63) / 64, blocks = (rows + block - 1) / block;
    const Tensor partial = at::zeros({2, blocks, width}, sum.options());
    float *weight_sums = partial.mutable_data_ptr<float>(), *bias_sums = weight_sums + partial.stride(0);
    const float *sums = sum.const_data_ptr<float>(), *mean = means.const_data_ptr<float>(), *inverse = inverses.const_data_ptr<float>();
    const float* weights = weight.const_data_ptr<float>();
    const float* outer = of_norm ? gradient.const_data_ptr<float>() : nullptr;
    const float* own = of_sum ? sum_gradient.const_data_ptr<float>() : nullptr;
    float* stream = of_norm ? of_stream.mutable_data_ptr<float>() : nullptr;
    float* branch = mask.drops() ? of_branch.mutable_data_ptr<float>() : nullptr;
    at::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
      std::vector<float> kept(Mask::space(width));
      for (int64_t row = first * block; row < std::min(rows, last * block); row++) {
        const int64_t at = row * width, part = row / block * width;
        if (stream)
          normalise_backward(sums + at, mean[row], inverse[row], outer + at, own ? own + at : nullptr, weights, stream + at,
                             weight_sums + part, bias_sums + part, width);
        if (!branch) continue;
        mask.fill(row, width, kept.data());
        multiply((stream ? stream : own) + at, kept.data(), branch + at, width);
      }
    });
    result[0] = of_branch;
    result[1] = of_stream;
    if (of_norm) {
      result[3] = partial[0].sum(0);
      result[4] = partial[1].sum(0);
    }
    return result;
  }
};

std::pair<Tensor, Tensor> dropout_add_layer_norm(const Tensor& x, const Tensor& residual, double probability, const Tensor& weight,
                                                 const Tensor& bias, double epsilon) {
  TORCH_CHECK(x.sizes() == residual.sizes(), "dropout_add_layer_norm: the branch is ", x.sizes(), ", but the residual ", residual.sizes());
  TORCH_CHECK(x.dim() >= 1 && weight.dim() == 1 && weight.size(0) == x.size(-1) && bias.sizes() == weight.sizes(),
              "dropout_add_layer_norm: weight and bias must be [", width_of(x), "]");
  if (!is_cpu_float(x) || !is_cpu_float(residual) || !is_cpu_float(weight) || !is_cpu_float(bias) || x.numel() == 0) {
    const Tensor sum = residual + at::dropout(x, probability, true);
    return {sum, at::layer_norm(sum, weight.sizes(), weight, bias, epsilon)};
  }
  if (wants_gradient({&x, &residual, &weight, &bias})) {
    const auto both = DropoutAddLayerNorm::apply(x, residual, probability, weight, bias, epsilon);
    return {both[0], both[1]};
  }
  const auto result = DropoutAddLayerNorm::compute(x, residual, Mask(probability), weight.contiguous(), bias.contiguous(), epsilon);
  return {result.sum, result.normed};
}

}  // namespace
}  // namespace tidemill

using namespace tidemill;

extern "C" {

char* tm_gelu_dropout(Tensor** result, const Tensor* input, double probability) {
  return guarded([&] { *result = new Tensor(gelu_dropout(*input, probability)); });
}

char* tm_dropout_add_layer_norm(Tensor** sum, Tensor** normed, const Tensor* x, const Tensor* residual, double probability,
                                const Tensor* weight, const Tensor* bias, double epsilon) {
  return guarded([&] {
    auto [added, norm] = dropout_add_layer_norm(*x, *residual, probability, *weight, *bias, epsilon);
    auto first = std::make_unique<Tensor>(std::move(added));
    *normed = new Tensor(std::move(norm));
    *sum = first.release();
  });
}

}  // extern "C"
