#include "linear.hpp"

#include <ATen/core/dispatch/Dispatcher.h>

#include "product.hpp"

namespace at::native {
// Exported by libtorch, in no installed header. Weak: a build of libtorch without it still links.
__attribute__((weak)) void mkldnn_matmul(const Tensor& left, const Tensor& right, const Tensor& result, float beta,
                                         float alpha);
}  // namespace at::native

namespace tidemill {
namespace {

using LinearSignature = Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, c10::string_view,
                               c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);
using ReorderSignature = Tensor(const Tensor&, std::optional<c10::SymInt>);

template <typename Signature>
std::optional<c10::TypedOperatorHandle<Signature>> find(const char* name) {
  auto schema = c10::Dispatcher::singleton().findSchema({name, ""});
  if (!schema || !schema->hasKernelForDispatchKey(c10::DispatchKey::CPU)) return std::nullopt;
  return schema->typed<Signature>();
}

const auto& linear_operator() {
  static const auto op = find<LinearSignature>("mkldnn::_linear_pointwise");
  return op;
}

Tensor onednn(const Tensor& input, const Tensor& weight, const Tensor& bias) {
  return linear_operator()->call(input, weight, given(bias), "none",
                                 c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

bool takes_onednn(const Tensor& left, const Tensor& right) {
  const auto type = left.scalar_type();
  return left.device().is_cpu() && right.device().is_cpu() && type == right.scalar_type() &&
         (type == at::kFloat || type == at::kBFloat16) && left.numel() > 0 && right.numel() > 0 && onednn_available();
}

bool takes_blocked(const Tensor& left, const Tensor& right) {
  return is_cpu_float(left) && is_cpu_float(right) && left.numel() > 0 && right.numel() > 0 && brgemm_available();
}

Tensor unit_rows(const Tensor& matrix) { return matrix.stride(1) == 1 ? matrix : matrix.contiguous(); }

}  // namespace

bool onednn_available() {
  return at::hasMKLDNN() && at::globalContext().userEnabledMkldnn() && linear_operator().has_value();
}

Tensor product_forward(Kernel kernel, const Tensor& input, const Tensor& weight, const Tensor& bias) {
  if (kernel == Kernel::Onednn && takes_onednn(input, weight)) return onednn(input, weight, bias);
  if (kernel == Kernel::Blocked && takes_blocked(input, weight)) {
    Tensor output = blocked_product(unit_rows(input), weight.t());
    return bias.defined() ? output.add_(bias) : output;
  }
  return at::linear(input, weight, given(bias));
}

Tensor product_grad_input(Kernel kernel, const Tensor& gradient, const Tensor& weight) {
  if (kernel == Kernel::Onednn && takes_onednn(gradient, weight)) return onednn(gradient, weight.t(), {});
  if (kernel == Kernel::Blocked && takes_blocked(gradient, weight)) return blocked_product(unit_rows(gradient), weight);
  return at::mm(gradient, weight);
}

Tensor product_grad_weight(Kernel kernel, const Tensor& gradient, const Tensor& input) {
  if (kernel == Kernel::Onednn && takes_onednn(gradient, input)) {
    if (!at::native::mkldnn_matmul) return onednn(gradient.t(), input.t(), {});
    Tensor result = at::empty({gradient.size(1), input.size(1)}, gradient.options());
    at::native::mkldnn_matmul(gradient.t(), input, result, 0.f, 1.f);
    return result;
  }
  if (kernel == Kernel::Blocked && takes_blocked(gradient, input)) return blocked_inner_product(gradient, input);
  return at::mm(gradient.t(), input);
}

namespace {

struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, int64_t forward_kernel, int64_t grad_input, int64_t grad_weight) {
    context->save_for_backward({input, weight});
    context->saved_data["bias"] = bias.has_value();
    context->saved_data["grad_input"] = grad_input;
    context->saved_data["grad_weight"] = grad_weight;
    at::AutoDispatchBelowADInplaceOrView guard;
    return product_forward(Kernel(forward_kernel), input, weight, bias.value_or(Tensor()));
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &input = saved[0], &weight = saved[1];
    tensor_list result(6);
    if (!gradients[0].defined()) return result;
    const bool bias = context->saved_data["bias"].toBool();
    if (at::GradMode::is_enabled()) {  // create_graph: libtorch's own differentiable products
      const Tensor& gradient = gradients[0];
      if (context->needs_input_grad(0)) result[0] = at::mm(gradient, weight);
      if (context->needs_input_grad(1)) result[1] = at::mm(gradient.t(), input);
      if (bias && context->needs_input_grad(2)) result[2] = gradient.sum(0);
      return result;
    }
    at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor gradient = gradients[0].contiguous();
    if (context->needs_input_grad(0))
      result[0] = product_grad_input(Kernel(context->saved_data["grad_input"].toInt()), gradient, weight);
    if (context->needs_input_grad(1))
      result[1] = product_grad_weight(Kernel(context->saved_data["grad_weight"].toInt()), gradient, input);
    if (bias && context->needs_input_grad(2)) result[2] = gradient.sum(0);
    return result;
  }
};

Tensor linear(const Tensor& input, const Tensor& weight, const Tensor& bias, Kernel forward, Kernel grad_input,
              Kernel grad_weight) {
  TORCH_CHECK(weight.dim() == 2, "linear: the weight must be [out, in], but has ", weight.dim(), " dimensions");
  TORCH_CHECK(input.dim() >= 1 && input.size(-1) == weight.size(1), "linear: the input ends in ",
              input.dim() ? input.size(-1) : 0, " features, but the weight takes ", weight.size(1));
  TORCH_CHECK(input.scalar_type() == weight.scalar_type(), "linear: the input is ", input.scalar_type(),
              ", but the weight is ", weight.scalar_type());
  TORCH_CHECK(!bias.defined() || (bias.dim() == 1 && bias.size(0) == weight.size(0)), "linear: the bias must be [",
              weight.size(0), "]");
  TORCH_CHECK(!bias.defined() || bias.scalar_type() == weight.scalar_type(), "linear: the bias is ",
              bias.scalar_type(), ", but the weight is ", weight.scalar_type());
  const bool plain = forward == Kernel::Libtorch && grad_input == Kernel::Libtorch && grad_weight == Kernel::Libtorch;
  if (plain || input.numel() == 0 || weight.numel() == 0)
    return at::linear(input, weight, given(bias));
  const Tensor rows = input.dim() == 2 ? input : input.reshape({-1, weight.size(1)});
  const Tensor output = wants_gradient({&input, &weight, &bias})
                            ? Linear::apply(rows, weight, given(bias), int64_t(forward), int64_t(grad_input), int64_t(grad_weight))
                            : product_forward(forward, rows, weight, bias);
  if (input.dim() == 2) return output;
  auto shape = input.sizes().vec();
  shape.back() = weight.size(0);
  return output.view(shape);
}

}  // namespace
}  // namespace tidemill

using namespace tidemill;

extern "C" {

void tm_free(char* text) { std::free(text); }

bool tm_onednn_available() {
  try {
    return onednn_available();
  } catch (...) {
    return false;
  }
}

bool tm_blocked_available() {
  try {
    return brgemm_available();
  } catch (...) {
    return false;
  }
}

char* tm_linear(Tensor** result, const Tensor* input, const Tensor* weight, const Tensor* bias, int32_t forward,
                int32_t grad_input, int32_t grad_weight) {
  return guarded([&] {
    *result = new Tensor(linear(*input, *weight, optional_tensor(bias), Kernel(forward), Kernel(grad_input), Kernel(grad_weight)));
  });
}

// One bare product, for measuring: pass 0 is forward, 1 the input's gradient, 2 the weight's.
char* tm_product(Tensor** result, int32_t pass, int32_t kernel, const Tensor* left, const Tensor* right) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    *result = new Tensor(pass == 0   ? product_forward(Kernel(kernel), *left, *right, {})
                         : pass == 1 ? product_grad_input(Kernel(kernel), *left, *right)
                                     : product_grad_weight(Kernel(kernel), *left, *right));
  });
}

// `*result` stays null where the weight cannot be packed.
char* tm_pack(Tensor** result, const Tensor* weight, int64_t rows) {
  return guarded([&] {
    static const auto op = find<ReorderSignature>("mkldnn::_reorder_linear_weight");
    if (!op || !takes_onednn(*weight, *weight)) return;
    at::NoGradGuard no_grad;
    *result = new Tensor(op->call(weight->detach().contiguous(), c10::SymInt(rows)));
  });
}

char* tm_packed_linear(Tensor** result, const Tensor* input, const Tensor* packed, const Tensor* bias) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    *result = new Tensor(onednn(*input, *packed, optional_tensor(bias)));
  });
}

}  // extern "C"
