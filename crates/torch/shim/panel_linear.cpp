// The linear layer of frozen weights in panels: full speed from one row to thousands, with the activation applied to
// each tile while it is in the first cache. No primitive is made per shape, so a new number of rows costs nothing.
//
// A panel holds kWidth outputs, zeros past the last: float32 [inputs][kWidth], bfloat16 [inputs / 2][kWidth][2].
#include "encode.hpp"

namespace tidemill::encode {

bool tiles_available(at::ScalarType kind) {
#ifdef TIDEMILL_X86_TILES
  static const bool avx512 = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  }();
  static const bool pairs = avx512 && __builtin_cpu_supports("avx512bf16");
  return kind == at::kFloat ? avx512 : kind == at::kBFloat16 && pairs;
#else
  return false;
#endif
}

namespace {

#ifdef TIDEMILL_X86_TILES

constexpr int64_t kWidth = 48;    // outputs of a panel: three vectors
constexpr int64_t kTall = 8;      // rows of a tile: 24 sums in registers
constexpr int64_t kHeight = 128;  // rows that pass over a panel while it is in the cache

int64_t panels_of(int64_t outputs) { return (outputs + kWidth - 1) / kWidth; }

// source[width][inputs] to target[inputs][kWidth]; a unit is a float32, or a pair of bfloat16.
void pack(const uint32_t* source, int64_t width, int64_t units, uint32_t* target) {
  constexpr int64_t kBlock = 16;
  if (width < kWidth) std::memset(target, 0, units * kWidth * sizeof(uint32_t));
  for (int64_t u0 = 0; u0 < units; u0 += kBlock)
    for (int64_t j = 0; j < width; j++)
      for (int64_t u = u0; u < std::min(units, u0 + kBlock); u++) target[u * kWidth + j] = source[j * units + u];
}

TIDEMILL_AVX512 void store(const float* tile, int64_t rows, int64_t width, float* out, int64_t stride) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t j = 0; j < width; j += 16) {
      const __mmask16 mask = width - j >= 16 ? 0xFFFF : (1u << (width - j)) - 1;
      _mm512_mask_storeu_ps(out + r * stride + j, mask, _mm512_load_ps(tile + r * kWidth + j));
    }
}

TIDEMILL_AVX512_BF16 void store(const float* tile, int64_t rows, int64_t width, Bfloat* out, int64_t stride) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t j = 0; j < width; j += 16) {
      const __mmask16 mask = width - j >= 16 ? 0xFFFF : (1u << (width - j)) - 1;
      _mm256_mask_storeu_epi16(out + r * stride + j, mask, (__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(tile + r * kWidth + j)));
    }
}

struct Product {
  int64_t units, inputs_stride, outputs;
  const uint32_t* panels;
  const float* bias;  // whole panels of it
  Activation activation;
};

// Rows of the input times one panel.
template <class Unit, class Out>
void strip(const Product& product, const Unit* input, int64_t rows, int64_t panel, Out* out) {
  const int64_t width = std::min(kWidth, product.outputs - panel * kWidth);
  const Unit* weights = reinterpret_cast<const Unit*>(product.panels + panel * product.units * kWidth);
  const float* bias = product.bias + panel * kWidth;
  out += panel * kWidth;
  for (int64_t row = 0; row < rows; row += kTall) {
    const int64_t tall = std::min(kTall, rows - row);
    const Unit* from = input + row * product.inputs_stride;
    if constexpr (std::is_same_v<Out, float>) {
      if (product.activation == Activation::None && width == kWidth) {
        tile_of<3>(tall, product.units, from, product.inputs_stride, weights, kWidth, bias, 0, out + row * product.outputs, product.outputs);
        continue;
      }
    }
    alignas(64) float values[kTall * kWidth];
    tile_of<3>(tall, product.units, from, product.inputs_stride, weights, kWidth, bias, 0, values, kWidth);
    activate(values, tall * kWidth, product.activation);
    store(values, tall, width, out + row * product.outputs, product.outputs);
  }
}

template <class Unit, class Out>
void multiply(const Product& product, const Unit* input, int64_t rows, Out* out) {
  const int64_t threads = at::get_num_threads(), panels = panels_of(product.outputs);
  int64_t blocks = (rows + kHeight - 1) / kHeight;
  if (blocks > threads) blocks = (blocks + threads - 1) / threads * threads;
  const int64_t height = ((rows + blocks - 1) / blocks + kTall - 1) / kTall * kTall;
  blocks = (rows + height - 1) / height;
  // Few rows: the threads share out the panels, and each reads its part of the weights alone.
  const int64_t shares = blocks >= threads ? 1 : std::min(panels, (threads + blocks - 1) / blocks);
  at::parallel_for(0, blocks * shares, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; task++) {
      const int64_t row = task / shares * height, share = task % shares;
      for (int64_t panel = share * panels / shares; panel < (share + 1) * panels / shares; panel++)
        strip(product, input + row * product.inputs_stride, std::min(height, rows - row), panel, out + row * product.outputs);
    }
  });
}

#endif

// Undefined where the weight cannot be packed.
Tensor pack_panels_of(const Tensor& weight) {
#ifdef TIDEMILL_X86_TILES
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const bool pairs = is_bfloat(weight);
  if (!takes(weight) || !tiles_available(weight.scalar_type()) || (pairs && inputs % 2 != 0)) return {};
  const Tensor plain = weight.contiguous();
  const int64_t units = pairs ? inputs / 2 : inputs, panels = panels_of(outputs);
  Tensor packed = at::empty({panels, units, pairs ? 2 * kWidth : kWidth}, plain.options());
  const auto* source = static_cast<const uint32_t*>(plain.const_data_ptr());
  auto* target = static_cast<uint32_t*>(packed.mutable_data_ptr());
  at::parallel_for(0, panels, 1, [&](int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; panel++)
      pack(source + panel * kWidth * units, std::min(kWidth, outputs - panel * kWidth), units, target + panel * units * kWidth);
  });
  return packed;
#else
  return {};
#endif
}

Tensor panel_linear(const Tensor& input, const Tensor& packed, int64_t outputs, const Tensor& bias, Activation activation,
                    bool float_output) {
#ifdef TIDEMILL_X86_TILES
  const bool pairs = is_bfloat(packed);
  TORCH_CHECK(packed.dim() == 3 && packed.size(0) == panels_of(outputs), "panel linear: these are not the panels of ", outputs, " outputs");
  const int64_t units = packed.size(1), inputs = pairs ? 2 * units : units;
  TORCH_CHECK(input.dim() >= 1 && input.size(-1) == inputs, "panel linear: the input ends in ", input.dim() ? input.size(-1) : 0,
              " features, but the weight takes ", inputs);
  TORCH_CHECK(input.scalar_type() == packed.scalar_type() && input.device().is_cpu(), "panel linear: the input is ",
              input.scalar_type(), " on ", input.device(), ", but the weight is ", packed.scalar_type(), " on cpu");
  TORCH_CHECK(!bias.defined() || (bias.dim() == 1 && bias.size(0) == outputs && takes(bias)), "panel linear: the bias must be [", outputs, "]");
  Tensor rows = input.dim() == 2 ? input : input.reshape({-1, inputs});
  if (rows.stride(1) != 1 || (pairs && rows.stride(0) % 2 != 0)) rows = rows.contiguous();
  auto shape = input.sizes().vec();
  shape.back() = outputs;
  const bool narrow = pairs && !float_output;
  Tensor result = at::empty(shape, packed.options().dtype(narrow ? at::kBFloat16 : at::kFloat));
  if (result.numel() == 0) return result;
  std::vector<float> start(panels_of(outputs) * kWidth);
  if (bias.defined()) {
    const Tensor flat = bias.contiguous();
    if (is_bfloat(flat)) {
      const Bfloat* from = numbers<Bfloat>(flat);
      for (int64_t i = 0; i < outputs; i++) start[i] = widened(from[i]);
    } else {
      std::copy_n(numbers<float>(flat), outputs, start.data());
    }
  }
  const Product product{units, pairs ? rows.stride(0) / 2 : rows.stride(0), outputs,
                        static_cast<const uint32_t*>(packed.const_data_ptr()), start.data(), activation};
  const int64_t count = rows.size(0);
  const void* from = rows.const_data_ptr();
  if (!pairs) multiply(product, static_cast<const float*>(from), count, mutable_numbers<float>(result));
  else if (narrow) multiply(product, static_cast<const uint32_t*>(from), count, mutable_numbers<Bfloat>(result));
  else multiply(product, static_cast<const uint32_t*>(from), count, mutable_numbers<float>(result));
  return result;
#else
  TORCH_CHECK(false, "panel linear: this processor has no such kernel");
#endif
}

}  // namespace
}  // namespace tidemill::encode

using namespace tidemill;

extern "C" {

// `*result` stays null where the weight cannot be packed.
char* tm_panel_pack(Tensor** result, const Tensor* weight) {
  return guarded([&] {
    TORCH_CHECK(weight->dim() == 2, "panel linear: the weight must be [out, in]");
    at::NoGradGuard no_grad;
    const Tensor packed = weight->numel() == 0 ? Tensor() : encode::pack_panels_of(weight->detach());
    if (packed.defined()) *result = new Tensor(packed);
  });
}

char* tm_panel_linear(Tensor** result, const Tensor* input, const Tensor* packed, int64_t outputs, const Tensor* bias,
                      int32_t activation, bool float_output) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    *result = new Tensor(encode::panel_linear(*input, *packed, outputs, optional_tensor(bias), encode::Activation(activation), float_output));
  });
}

}  // extern "C"
