// Embedding look-up whose gradient costs one pass, and Kim's convolution over time with maximum, whose gradient touches
// only the windows that won.
#include "product.hpp"
#include "vector_math.hpp"

#include <algorithm>
#include <limits>

namespace tidemill {
namespace {

TIDEMILL_VECTOR void add_scaled(float* __restrict target, const float* __restrict source, float scale, int64_t size) {
#pragma GCC ivdep
  for (int64_t k = 0; k < size; k++) target[k] += scale * source[k];
}

// ---- embedding ----

struct Embedding : torch::autograd::Function<Embedding> {
  static Tensor forward(AutogradContext* context, const Tensor& weight, const Tensor& ids, int64_t padding) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({ids});
    context->saved_data["rows"] = weight.size(0);
    context->saved_data["padding"] = padding;
    return at::embedding(weight, ids, padding, false, false);
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    tensor_list result(3);
    if (!gradients[0].defined()) return result;
    const Tensor ids = context->get_saved_variables()[0].contiguous();
    const int64_t rows = context->saved_data["rows"].toInt(), padding = context->saved_data["padding"].toInt();
    if (at::GradMode::is_enabled()) {
      result[0] = at::embedding_dense_backward(gradients[0], ids, rows, padding, false);
      return result;
    }
    at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor gradient = gradients[0].contiguous();
    const int64_t dim = gradient.size(-1), count = ids.numel();
    result[0] = at::zeros({rows, dim}, gradient.options());
    float* target = result[0].mutable_data_ptr<float>();
    const float* source = gradient.const_data_ptr<float>();
    const int64_t* id = ids.const_data_ptr<int64_t>();
    // Every thread has columns of its own: no two write the same place, and each sum has one order.
    constexpr int64_t kColumns = 16;
    at::parallel_for(0, (dim + kColumns - 1) / kColumns, 1, [&](int64_t first, int64_t last) {
      const int64_t from = first * kColumns, to = std::min(dim, last * kColumns);
      for (int64_t i = 0; i < count; i++)
        if (id[i] != padding) add_scaled(target + id[i] * dim + from, source + i * dim + from, 1.f, to - from);
    });
    return result;
  }
};

Tensor embedding(const Tensor& weight, const Tensor& ids, int64_t padding) {
  TORCH_CHECK(weight.dim() == 2, "embedding: the weight must be [vocabulary, dim], but has ", weight.dim(), " dimensions");
  TORCH_CHECK(ids.scalar_type() == at::kLong, "embedding: the ids must be int64, but are ", ids.scalar_type());
  if (is_cpu_float(weight) && wants_gradient({&weight})) return Embedding::apply(weight, ids, padding);
  return at::embedding(weight, ids, padding, false, false);
}

// ---- convolution and maximum over time ----

// The maximum of each column of values[rows, kPanel] and its row, beginning at row `offset`. A number that is not finite
// makes the maximum NaN.
TIDEMILL_VECTOR void column_maxima(const float* __restrict values, int64_t rows, int32_t offset, float* __restrict best, int32_t* __restrict place, float* __restrict check) {
  for (int64_t row = 0; row < rows; row++) {
    const float* now = values + row * kPanel;
    const int32_t here = offset + int32_t(row);
#pragma GCC ivdep
    for (int64_t k = 0; k < kPanel; k++) {
      const float value = now[k];
      const bool more = value > best[k];
      best[k] = more ? value : best[k];
      place[k] = more ? here : place[k];
      check[k] += value - value;
    }
  }
}

// Windows are taken in blocks of few sizes, so that few kernels are compiled. The last block may reach back over the one
// before it, which a maximum does not mind.
// The smallest that holds the windows `left`, or else the largest that there are `windows` for.
int64_t block_of(int64_t left, int64_t windows) {
  constexpr int64_t kSizes[] = {60, 30, 12, 6, 3, 1};
  int64_t block = 1;
  for (const int64_t size : kSizes)
    if (size <= windows && (block == 1 || size >= left)) block = size;
  return block;
}

int64_t windows_of(const int64_t* lengths, int64_t row, int64_t time, int64_t width) {
  return std::clamp(lengths[row], width, time) - width + 1;
}

struct TextConvMax : torch::autograd::Function<TextConvMax> {
  // embedded [batch, time, dim], weight [filters, width * dim], all contiguous.
  static Tensor compute(const Tensor& embedded, const Tensor& weight, const Tensor& bias, const Tensor& lengths, Tensor& places) {
    const int64_t batch = embedded.size(0), time = embedded.size(1), dim = embedded.size(2), filters = weight.size(0);
    const int64_t depth = weight.size(1), width = depth / dim;
    const Panels panels = pack_panels(weight.const_data_ptr<float>(), depth, filters, 1, depth);
    const Tensor output = at::empty({batch, filters}, embedded.options());
    places = at::empty({batch, filters}, at::kInt);
    const float *data = embedded.const_data_ptr<float>(), *biases = bias.const_data_ptr<float>();
    const int64_t* length = lengths.const_data_ptr<int64_t>();
    float* out = output.mutable_data_ptr<float>();
    int32_t* place_out = places.mutable_data_ptr<int32_t>();
    at::parallel_for(0, batch, 1, [&](int64_t first, int64_t last) {
      alignas(64) float values[60 * kPanel], best[kPanel], check[kPanel];
      alignas(64) int32_t place[kPanel];
      std::fill_n(values, 60 * kPanel, 0.f);
      for (int64_t row = first; row < last; row++) {
        const int64_t windows = windows_of(length, row, time, width);
        for (int64_t j = 0; j < panels.count(); j++) {
          std::fill_n(best, kPanel, -std::numeric_limits<float>::infinity());
          std::fill_n(check, kPanel, 0.f);
          std::fill_n(place, kPanel, 0);
          for (int64_t t = 0, block; t < windows; t += block) {
            block = block_of(windows - t, windows);
            const int64_t start = std::min(t, windows - block);
            // A window is `depth` numbers in a row, and the next begins `dim` further on.
            small_product(block, panels.width(j), depth, data + (row * time + start) * dim, dim, panels.panel(j), kPanel,
                          values, kPanel, false);
            column_maxima(values, block, int32_t(start), best, place, check);
          }
          for (int64_t k = 0; k < panels.width(j); k++) {
            const float value = best[k] + check[k] + biases[j * kPanel + k];
            out[row * filters + j * kPanel + k] = value < 0 ? 0 : value;
            place_out[row * filters + j * kPanel + k] = value > 0 ? place[k] : -1;  // -1: ReLU lets no gradient through
          }
        }
      }
      release_brgemm();
    });
    return output;
  }

  static Tensor forward(AutogradContext* context, const Tensor& embedded, const Tensor& weight, const Tensor& bias, const Tensor& lengths) {
    at::AutoDispatchBelowADInplaceOrView guard;
    Tensor places;
    const Tensor output = compute(embedded, weight, bias, lengths, places);
    context->save_for_backward({embedded, weight, places});
    return output;
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    tensor_list result(4);
    if (!gradients[0].defined()) return result;
    check_first_derivative("text_conv_max");
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto saved = context->get_saved_variables();
    const Tensor &embedded = saved[0], &weight = saved[1], gradient = gradients[0].contiguous();
    const int64_t batch = embedded.size(0), time = embedded.size(1), dim = embedded.size(2), filters = weight.size(0), depth = weight.size(1);
    const float *data = embedded.const_data_ptr<float>(), *weights = weight.const_data_ptr<float>(), *grad = gradient.const_data_ptr<float>();
    const int32_t* place = saved[2].const_data_ptr<int32_t>();
    if (context->needs_input_grad(0)) {
      result[0] = at::empty_like(embedded);
      float* target = result[0].mutable_data_ptr<float>();
      at::parallel_for(0, batch, 1, [&](int64_t first, int64_t last) {
        std::fill_n(target + first * time * dim, (last - first) * time * dim, 0.f);
        for (int64_t row = first; row < last; row++)
          for (int64_t f = 0; f < filters; f++)
            if (const int32_t t = place[row * filters + f]; t >= 0)
              add_scaled(target + (row * time + t) * dim, weights + f * depth, grad[row * filters + f], depth);
      });
    }
    result[1] = at::empty_like(weight);
    result[2] = at::empty({filters}, weight.options());
    float *target = result[1].mutable_data_ptr<float>(), *bias = result[2].mutable_data_ptr<float>();
    at::parallel_for(0, filters, 1, [&](int64_t first, int64_t last) {
      std::fill_n(target + first * depth, (last - first) * depth, 0.f);
      std::fill_n(bias + first, last - first, 0.f);
      for (int64_t row = 0; row < batch; row++)
        for (int64_t f = first; f < last; f++)
          if (const int32_t t = place[row * filters + f]; t >= 0) {
            add_scaled(target + f * depth, data + (row * time + t) * dim, grad[row * filters + f], depth);
            bias[f] += grad[row * filters + f];
          }
    });
    return result;
  }
};

// The same by libtorch's operations, for other types and devices.
Tensor reference(const Tensor& embedded, const Tensor& weight, const Tensor& bias, const Tensor& lengths) {
  const int64_t time = embedded.size(1), dim = embedded.size(2), width = weight.size(1) / dim;
  const Tensor filters = weight.view({weight.size(0), width, dim}).transpose(1, 2);
  Tensor values = at::conv1d(embedded.transpose(1, 2), filters, bias);  // [batch, filters, windows]
  const Tensor windows = lengths.clamp(width, time) - (width - 1);
  const Tensor beyond = at::arange(values.size(2), lengths.options()).unsqueeze(0).ge(windows.unsqueeze(1)).unsqueeze(1);
  values = values.masked_fill(beyond.to(values.device()), -std::numeric_limits<double>::infinity());
  return std::get<0>(values.max(2)).relu();
}

Tensor text_conv_max(Tensor embedded, Tensor weight, const Tensor& bias, const Tensor& lengths) {
  TORCH_CHECK(embedded.dim() == 3, "text convolution: the input must be [batch, time, dim], but has ", embedded.dim(), " dimensions");
  const int64_t batch = embedded.size(0), dim = embedded.size(2), filters = weight.dim() ? weight.size(0) : 0;
  TORCH_CHECK(dim > 0 && filters > 0 && ((weight.dim() == 3 && weight.size(1) == dim && weight.size(2) > 0) || (weight.dim() == 2 && weight.size(1) >= dim && weight.size(1) % dim == 0)),
              "text convolution: the weight must be [filters, ", dim, ", width] or [filters, width * ", dim, "], but is ", weight.sizes());
  TORCH_CHECK(bias.dim() == 1 && bias.size(0) == filters, "text convolution: the bias must be [", filters, "]");
  TORCH_CHECK(embedded.scalar_type() == weight.scalar_type() && bias.scalar_type() == weight.scalar_type(),
              "text convolution: input, weight and bias must have one type");
  TORCH_CHECK(!lengths.defined() || (lengths.dim() == 1 && lengths.size(0) == batch && lengths.scalar_type() == at::kLong),
              "text convolution: the lengths must be int64 [", batch, "]");
  if (weight.dim() == 3) weight = weight.transpose(1, 2).reshape({filters, -1});
  const int64_t width = weight.size(1) / dim;
  if (embedded.size(1) < width) embedded = at::constant_pad_nd(embedded, {0, 0, 0, width - embedded.size(1)}, 0);
  const Tensor counts = lengths.defined() ? lengths.contiguous() : at::full({batch}, embedded.size(1), at::kLong);
  embedded = embedded.contiguous();
  weight = weight.contiguous();
  if (!is_cpu_float(embedded) || !is_cpu_float(weight) || !counts.device().is_cpu() || !brgemm_available() || batch == 0)
    return reference(embedded, weight, bias, counts);
  if (wants_gradient({&embedded, &weight, &bias})) return TextConvMax::apply(embedded, weight, bias.contiguous(), counts);
  at::NoGradGuard no_grad;
  Tensor places;
  return TextConvMax::compute(embedded, weight, bias.contiguous(), counts, places);
}

}  // namespace
}  // namespace tidemill

using namespace tidemill;

extern "C" {

char* tm_embedding(Tensor** result, const Tensor* weight, const Tensor* ids, int64_t padding) {
  return guarded([&] { *result = new Tensor(tidemill::embedding(*weight, *ids, padding)); });
}

char* tm_text_conv_max(Tensor** result, const Tensor* embedded, const Tensor* weight, const Tensor* bias, const Tensor* lengths) {
  return guarded([&] { *result = new Tensor(text_conv_max(*embedded, *weight, *bias, optional_tensor(lengths))); });
}

}  // extern "C"
