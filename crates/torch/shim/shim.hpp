// What every part of the shim shares: the guarded boundary and the checks of its arguments.
//
// Each `extern "C"` function returns null on success and otherwise a message that the caller frees by `tm_free`. No
// exception passes. A tensor crosses as `at::Tensor*`, which is what `torch_sys::C_tensor` is.
#pragma once
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

namespace tidemill {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

inline char* message(const char* text) {
  char* copy = strdup(text);
  static char no_memory[] = "out of memory";
  return copy ? copy : no_memory;
}

template <typename Body>
char* guarded(Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return message(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return message(error.what());
  } catch (...) {
    return message("an unknown C++ exception");
  }
}

inline Tensor optional_tensor(const Tensor* tensor) { return tensor ? *tensor : Tensor(); }

// What an autograd function takes for a tensor that may be absent: it refuses an undefined one.
inline std::optional<Tensor> given(const Tensor& tensor) { return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt; }

inline std::vector<Tensor> tensors(Tensor* const* first, int64_t count) {
  std::vector<Tensor> list;
  list.reserve(count);
  for (int64_t i = 0; i < count; i++) list.push_back(*first[i]);
  return list;
}

inline bool wants_gradient(std::initializer_list<const Tensor*> list) {
  if (!at::GradMode::is_enabled()) return false;
  for (const Tensor* tensor : list)
    if (tensor->defined() && tensor->requires_grad()) return true;
  return false;
}

// The custom backward passes compute numbers, not graphs: a second derivative through them would be silently wrong.
inline void check_first_derivative(const char* name) {
  TORCH_CHECK(!at::GradMode::is_enabled(), name, " can be differentiated only once (create_graph is not supported)");
}

inline bool is_cpu_float(const Tensor& tensor) {
  return tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided;
}

}  // namespace tidemill
