// The three products of a linear layer, each by a chosen kernel.
#pragma once
#include "shim.hpp"

namespace tidemill {

// The numbers are those of the Rust enum `Kernel`.
enum class Kernel : int32_t { Libtorch = 0, Onednn = 1, Blocked = 2, Packed = 3 };

bool onednn_available();
// a[m, k] b[k, n]^T + bias, where `b` is a weight; all 2-D.
Tensor product_forward(Kernel kernel, const Tensor& input, const Tensor& weight, const Tensor& bias);
// gradient[rows, out] weight[out, in]
Tensor product_grad_input(Kernel kernel, const Tensor& gradient, const Tensor& weight);
// gradient[rows, out]^T input[rows, in]
Tensor product_grad_weight(Kernel kernel, const Tensor& gradient, const Tensor& input);

}  // namespace tidemill
