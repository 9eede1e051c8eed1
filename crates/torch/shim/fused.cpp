// Optimiser steps by libtorch's fused kernels, which `tch` does not wrap, and the clearing of gradients.
#include "shim.hpp"

namespace tidemill {
namespace {

void check_like(const std::vector<Tensor>& params, const std::vector<Tensor>& others, const char* name) {
  for (size_t i = 0; i < params.size(); i++) {
    TORCH_CHECK(others[i].defined() && others[i].sizes() == params[i].sizes(), "fused step: ", name, " number ", i,
                " is not shaped like its parameter ", params[i].sizes());
    TORCH_CHECK(others[i].scalar_type() == params[i].scalar_type() && others[i].device() == params[i].device(),
                "fused step: ", name, " number ", i, " differs from its parameter in type or device");
    TORCH_CHECK(!others[i].is_sparse(), "fused step: ", name, " number ", i, " is sparse");
  }
}

void count_up(std::vector<Tensor>& steps) {
  for (size_t i = 0; i < steps.size(); i++) {
    TORCH_CHECK(steps[i].numel() == 1 && steps[i].scalar_type() == at::kFloat, "fused step: the step count number ", i,
                " must be one float32 number");
    steps[i].add_(1);
  }
}

// The kernels walk parameter, gradient and state in memory order: they must lie alike.
std::vector<Tensor> like_params(const std::vector<Tensor>& params, std::vector<Tensor> gradients) {
  for (size_t i = 0; i < params.size(); i++)
    if (gradients[i].strides() != params[i].strides())
      gradients[i] = at::empty_like(params[i]).copy_(gradients[i]);
  return gradients;
}

void check_lie_alike(const std::vector<Tensor>& params, const std::vector<Tensor>& states, const char* name) {
  for (size_t i = 0; i < params.size(); i++)
    TORCH_CHECK(states[i].strides() == params[i].strides(), "fused step: ", name, " number ", i,
                " does not lie in memory like its parameter");
}

}  // namespace
}  // namespace tidemill

using namespace tidemill;

extern "C" {

// lists: parameters, gradients, first moments, second moments, steps.
// options: learning rate, beta1, beta2, weight decay, eps.
char* tm_adam(Tensor* const* const* lists, int64_t count, const double* options, bool decoupled) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    if (count == 0) return;
    auto params = tensors(lists[0], count), gradients = tensors(lists[1], count), first = tensors(lists[2], count),
         second = tensors(lists[3], count), steps = tensors(lists[4], count);
    check_like(params, gradients, "gradient");
    check_like(params, first, "first moment");
    check_like(params, second, "second moment");
    check_lie_alike(params, first, "first moment");
    check_lie_alike(params, second, "second moment");
    count_up(steps);
    gradients = like_params(params, gradients);
    if (decoupled)
      at::_fused_adamw_(params, gradients, first, second, {}, steps, options[0], options[1], options[2], options[3], options[4], false, false);
    else
      at::_fused_adam_(params, gradients, first, second, {}, steps, options[0], options[1], options[2], options[3], options[4], false, false);
  });
}

// lists: parameters, gradients, momentum buffers (null without momentum).
// options: learning rate, momentum, dampening, weight decay.
char* tm_sgd(Tensor* const* const* lists, int64_t count, const double* options, bool nesterov, bool first) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    if (count == 0) return;
    auto params = tensors(lists[0], count), gradients = tensors(lists[1], count);
    check_like(params, gradients, "gradient");
    std::vector<Tensor> momentums;
    if (lists[2]) {
      momentums = tensors(lists[2], count);
      check_like(params, momentums, "momentum");
      check_lie_alike(params, momentums, "momentum");
    }
    gradients = like_params(params, gradients);
    at::_fused_sgd_(params, gradients, momentums, options[3], options[1], options[0], options[2], nesterov, false, first);
  });
}

// lists: parameters, gradients, sums of squares, steps. options: learning rate, its decay, weight decay, eps.
char* tm_adagrad(Tensor* const* const* lists, int64_t count, const double* options) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    if (count == 0) return;
    auto params = tensors(lists[0], count), gradients = tensors(lists[1], count), sums = tensors(lists[2], count), steps = tensors(lists[3], count);
    check_like(params, gradients, "gradient");
    check_like(params, sums, "sum of squares");
    check_lie_alike(params, sums, "sum of squares");
    count_up(steps);
    gradients = like_params(params, gradients);
    at::_fused_adagrad_(params, gradients, sums, steps, options[0], options[1], options[2], options[3], false);
  });
}

// Makes the gradients undefined, so that the next backward pass stores its own instead of adding to zeros.
char* tm_clear_gradients(Tensor* const* list, int64_t count) {
  return guarded([&] {
    for (int64_t i = 0; i < count; i++) list[i]->mutable_grad().reset();
  });
}

bool tm_set_flush_denormal(bool on) {
  try {
    return at::globalContext().setFlushDenormal(on);
  } catch (...) {
    return false;
  }
}

}  // extern "C"
