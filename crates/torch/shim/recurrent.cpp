// One LSTM or GRU layer, in one or two directions, forward and backward.
//
// The projection of the inputs of all steps and directions is one large product; then every (direction, share of the
// rows) runs through time on a thread of its own without waiting for another, and the gradients of the weights are large
// products again. A step past a row's length leaves the state at zero, so that the reverse direction starts at the row's
// own last step. Equations and gate order as in torch.nn.LSTM (i, f, g, o) and torch.nn.GRU (r, z, n).
#include "linear.hpp"
#include "product.hpp"
#include "vector_math.hpp"

#include <algorithm>

namespace tidemill {
namespace {

// ---- gates: one row of one step ----

TIDEMILL_VECTOR void lstm_forward(float* __restrict gates, const float* cell_before, float* cell, float* __restrict hidden, int64_t size) {
  float *gi = gates, *gf = gates + size, *gg = gates + 2 * size, *go = gates + 3 * size;
#pragma GCC ivdep
  for (int64_t k = 0; k < size; k++) {
    const float i = fast_sigmoid(gi[k]), f = fast_sigmoid(gf[k]), g = fast_tanh(gg[k]), o = fast_sigmoid(go[k]);
    const float c = f * cell_before[k] + i * g;
    gi[k] = i, gf[k] = f, gg[k] = g, go[k] = o, cell[k] = c;
    hidden[k] = o * fast_tanh(c);
  }
}

// `carry_hidden` and `carry_cell` are the gradients that the next step sent; `carry_cell` becomes the one for the last.
TIDEMILL_VECTOR void lstm_backward(const float* __restrict gates, const float* __restrict cell_before, const float* __restrict cell,
                                   const float* __restrict gradient, const float* __restrict carry_hidden, float* __restrict carry_cell,
                                   float* __restrict gate_gradients, float* __restrict bias, int64_t size) {
  const float *gi = gates, *gf = gates + size, *gg = gates + 2 * size, *go = gates + 3 * size;
#pragma GCC ivdep
  for (int64_t k = 0; k < size; k++) {
    const float i = gi[k], f = gf[k], g = gg[k], o = go[k], tanh_cell = fast_tanh(cell[k]);
    const float dh = gradient[k] + carry_hidden[k];
    const float dc = carry_cell[k] + dh * o * (1 - tanh_cell * tanh_cell);
    const float di = dc * g * i * (1 - i), df = dc * cell_before[k] * f * (1 - f), dg = dc * i * (1 - g * g);
    const float d_o = dh * tanh_cell * o * (1 - o);
    gate_gradients[k] = di, gate_gradients[size + k] = df;
    gate_gradients[2 * size + k] = dg, gate_gradients[3 * size + k] = d_o;
    bias[k] += di, bias[size + k] += df, bias[2 * size + k] += dg, bias[3 * size + k] += d_o;
    carry_cell[k] = dc * f;
  }
}

// `product` is hidden_before @ weight_hh.T; `kept` keeps its third part with its bias, for the backward pass.
TIDEMILL_VECTOR void gru_forward(float* __restrict gates, const float* __restrict product, const float* __restrict hidden_bias,
                                 const float* __restrict hidden_before, float* __restrict kept, float* __restrict hidden, int64_t size) {
  float *gr = gates, *gz = gates + size, *gn = gates + 2 * size;
#pragma GCC ivdep
  for (int64_t k = 0; k < size; k++) {
    const float r = fast_sigmoid(gr[k] + product[k]), z = fast_sigmoid(gz[k] + product[size + k]);
    const float h = product[2 * size + k] + hidden_bias[k], n = fast_tanh(gn[k] + r * h);
    gr[k] = r, gz[k] = z, gn[k] = n, kept[k] = h;
    hidden[k] = n + z * (hidden_before[k] - n);
  }
}

TIDEMILL_VECTOR void gru_backward(const float* __restrict gates, const float* __restrict kept, const float* __restrict hidden_before,
                                  const float* __restrict gradient, float* __restrict carry_hidden, float* __restrict gate_gradients,
                                  float* __restrict hidden_gradients, float* __restrict bias, int64_t size) {
  const float *gr = gates, *gz = gates + size, *gn = gates + 2 * size;
#pragma GCC ivdep
  for (int64_t k = 0; k < size; k++) {
    const float r = gr[k], z = gz[k], n = gn[k], dh = gradient[k] + carry_hidden[k];
    const float dn = dh * (1 - z) * (1 - n * n), dz = dh * (hidden_before[k] - n) * z * (1 - z);
    const float dr = dn * kept[k] * r * (1 - r);
    gate_gradients[k] = dr, gate_gradients[size + k] = dz, gate_gradients[2 * size + k] = dn;
    hidden_gradients[k] = dr, hidden_gradients[size + k] = dz, hidden_gradients[2 * size + k] = dn * r;
    bias[k] += dr, bias[size + k] += dz, bias[2 * size + k] += dn, bias[3 * size + k] += dn * r;
    carry_hidden[k] = dh * z;
  }
}

// ---- the layer ----

struct Shape {
  bool gru;
  int64_t time, batch, inputs, hidden, directions;
  int64_t gates() const { return gru ? 3 : 4; }
  int64_t gate_row() const { return directions * gates() * hidden; }  // one step's gates of one row, all directions
  int64_t hidden_row() const { return directions * hidden; }
};

// A direction and a share of the batch's rows: what one thread runs through time.
struct Share {
  int64_t direction, first, rows;
};

std::vector<Share> shares(const Shape& shape) {
  const int64_t wanted = (at::get_num_threads() + shape.directions - 1) / shape.directions;
  const int64_t pieces = std::clamp<int64_t>(shape.batch / 8, 1, wanted);
  std::vector<Share> list;
  for (int64_t direction = 0; direction < shape.directions; direction++)
    for (int64_t p = 0; p < pieces; p++) {
      const int64_t first = p * shape.batch / pieces, last = (p + 1) * shape.batch / pieces;
      list.push_back({direction, first, last - first});
    }
  return list;
}

int64_t longest(const int64_t* lengths, const Share& share) {
  return *std::max_element(lengths + share.first, lengths + share.first + share.rows);
}

// W_hh by direction, transposed and packed for the forward pass or as it is for the backward pass.
std::vector<Panels> pack_hidden(const Shape& shape, const Tensor* const* weights, bool transposed) {
  std::vector<Panels> list;
  const int64_t rows = shape.gates() * shape.hidden;
  for (int64_t d = 0; d < shape.directions; d++) {
    const Tensor weight = weights[d]->contiguous();
    list.push_back(transposed ? pack_panels(weight.const_data_ptr<float>(), shape.hidden, rows, 1, shape.hidden)
                              : pack_panels(weight.const_data_ptr<float>(), rows, shape.hidden, shape.hidden, 1));
  }
  return list;
}

// `gates` holds the projected inputs and becomes the activated gates; `kept` holds the cells (LSTM) or the hidden part
// of the new gate (GRU), of all steps, or of one step where nothing is kept for a backward pass.
void run_forward(const Shape& s, const Share& share, const Panels& weight, const float* hidden_bias, const int64_t* lengths,
                 float* gates, float* kept, bool keeps, float* output) {
  const int64_t gate_row = s.gate_row(), hidden_row = s.hidden_row(), own_gates = s.gates() * s.hidden, end = longest(lengths, share);
  const std::vector<float> zeros(s.hidden);
  std::vector<float> product(s.gru ? share.rows * own_gates : 0);
  for (int64_t step = 0; step < s.time; step++) {
    const int64_t t = share.direction ? s.time - 1 - step : step, before = share.direction ? t + 1 : t - 1;
    const bool first = step == 0 || before >= end;  // the state before is zero
    float* gates_now = gates + (t * s.batch + share.first) * gate_row + share.direction * own_gates;
    float* output_now = output + (t * s.batch + share.first) * hidden_row + share.direction * s.hidden;
    const float* output_before = first ? nullptr : output + (before * s.batch + share.first) * hidden_row + share.direction * s.hidden;
    if (t < end && !first)
      panel_product(share.rows, output_before, hidden_row, weight, s.gru ? product.data() : gates_now,
                    s.gru ? own_gates : gate_row, !s.gru);
    for (int64_t row = 0; row < share.rows; row++) {
      float* hidden = output_now + row * hidden_row;
      const int64_t offset = (share.first + row) * hidden_row + share.direction * s.hidden;
      float* kept_now = kept + (keeps ? t * s.batch * hidden_row : 0) + offset;
      if (t >= lengths[share.first + row]) {
        std::fill_n(hidden, s.hidden, 0.f);
        std::fill_n(kept_now, s.hidden, 0.f);
      } else if (s.gru) {
        gru_forward(gates_now + row * gate_row, product.data() + row * own_gates, hidden_bias,
                    first ? zeros.data() : output_before + row * hidden_row, kept_now, hidden, s.hidden);
      } else {
        const float* cell = first ? zeros.data() : kept + (keeps ? before * s.batch * hidden_row : 0) + offset;
        lstm_forward(gates_now + row * gate_row, cell, kept_now, hidden, s.hidden);
      }
    }
  }
  release_brgemm();
}

// Fills the gradients of the gates (and for the GRU of the hidden products) of all steps, and adds up the biases'.
void run_backward(const Shape& s, const Share& share, const Panels& weight, const int64_t* lengths, const float* gates,
                  const float* kept, const float* output, const float* gradient, float* gate_gradients,
                  float* hidden_gradients, double* bias) {
  const int64_t gate_row = s.gate_row(), hidden_row = s.hidden_row(), own_gates = s.gates() * s.hidden, end = longest(lengths, share);
  const std::vector<float> zeros(s.hidden);
  std::vector<float> carry_hidden(share.rows * s.hidden), carry_cell(share.rows * s.hidden), step_bias(4 * s.hidden);
  for (int64_t step = s.time - 1; step >= 0; step--) {
    const int64_t t = share.direction ? s.time - 1 - step : step, before = share.direction ? t + 1 : t - 1;
    const int64_t gate_offset = (t * s.batch + share.first) * gate_row + share.direction * own_gates;
    const int64_t offset = (t * s.batch + share.first) * hidden_row + share.direction * s.hidden;
    const int64_t offset_before = (before * s.batch + share.first) * hidden_row + share.direction * s.hidden;
    std::fill(step_bias.begin(), step_bias.end(), 0.f);
    for (int64_t row = 0; row < share.rows; row++) {
      const int64_t at_gates = gate_offset + row * gate_row, at_hidden = offset + row * hidden_row;
      float *hidden = carry_hidden.data() + row * s.hidden, *cell = carry_cell.data() + row * s.hidden;
      if (t >= lengths[share.first + row]) {
        std::fill_n(gate_gradients + at_gates, own_gates, 0.f);
        if (s.gru) std::fill_n(hidden_gradients + at_gates, own_gates, 0.f);
        std::fill_n(hidden, s.hidden, 0.f);
        std::fill_n(cell, s.hidden, 0.f);
        continue;
      }
      const float* state = s.gru ? output : kept;
      const float* state_before = step == 0 ? zeros.data() : state + offset_before + row * hidden_row;
      if (s.gru)
        gru_backward(gates + at_gates, kept + at_hidden, state_before, gradient + at_hidden, hidden,
                     gate_gradients + at_gates, hidden_gradients + at_gates, step_bias.data(), s.hidden);
      else
        lstm_backward(gates + at_gates, state_before, kept + at_hidden, gradient + at_hidden, hidden, cell,
                      gate_gradients + at_gates, step_bias.data(), s.hidden);
    }
    for (int64_t k = 0; k < 4 * s.hidden; k++) bias[k] += step_bias[k];
    if (step > 0 && t < end)
      panel_product(share.rows, (s.gru ? hidden_gradients : gate_gradients) + gate_offset, gate_row, weight,
                    carry_hidden.data(), s.hidden, s.gru);
  }
  release_brgemm();
}

Tensor lengths_of(const Tensor& lengths, const Shape& shape) {
  return lengths.defined() ? lengths.clamp(0, shape.time).contiguous() : at::full({shape.batch}, shape.time, at::kLong);
}

struct Recurrent : torch::autograd::Function<Recurrent> {
  // Weights by kind, then by direction; what the reverse direction lacks is undefined.
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& lengths, const Tensor& ih0,
                        const std::optional<Tensor>& ih1, const Tensor& hh0, const std::optional<Tensor>& second_hh,
                        const Tensor& bih0, const std::optional<Tensor>& second_bih, const Tensor& bhh0,
                        const std::optional<Tensor>& second_bhh, bool gru, int64_t forward_kernel, int64_t grad_input,
                        int64_t grad_weight) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const Shape shape{gru, input.size(0), input.size(1), input.size(2), hh0.size(1), ih1 ? 2 : 1};
    const Tensor hh1 = second_hh.value_or(Tensor()), bih1 = second_bih.value_or(Tensor()), bhh1 = second_bhh.value_or(Tensor());
    const Tensor inputs = input.reshape({shape.time * shape.batch, shape.inputs});
    const Tensor weight = ih1 ? at::cat({ih0, *ih1}) : ih0.contiguous();
    Tensor gates, kept, output;
    compute(shape, inputs, lengths, weight, {&hh0, &hh1}, {&bih0, &bih1}, {&bhh0, &bhh1}, Kernel(forward_kernel), true,
            gates, kept, output);
    context->save_for_backward({inputs, lengths, weight, hh0, hh1, gates, kept, output});
    context->saved_data["gru"] = gru;
    context->saved_data["grad_input"] = grad_input;
    context->saved_data["grad_weight"] = grad_weight;
    return output;
  }

  static void compute(const Shape& shape, const Tensor& inputs, const Tensor& lengths, const Tensor& weight,
                      std::vector<const Tensor*> hidden, std::vector<const Tensor*> input_bias,
                      std::vector<const Tensor*> hidden_bias, Kernel kernel, bool keeps, Tensor& gates, Tensor& kept,
                      Tensor& output) {
    std::vector<Tensor> biases, new_gate;
    for (int64_t d = 0; d < shape.directions; d++) {
      Tensor sum = *input_bias[d] + *hidden_bias[d];
      if (shape.gru) {  // the new gate's hidden bias stays inside the product with the reset gate
        sum.narrow(0, 2 * shape.hidden, shape.hidden).copy_(input_bias[d]->narrow(0, 2 * shape.hidden, shape.hidden));
        new_gate.push_back(hidden_bias[d]->narrow(0, 2 * shape.hidden, shape.hidden).contiguous());
      }
      biases.push_back(sum);
    }
    gates = product_forward(kernel, inputs, weight, biases.size() == 1 ? biases[0] : at::cat(biases)).contiguous();
    output = at::empty({shape.time, shape.batch, shape.hidden_row()}, inputs.options());
    kept = at::empty({keeps ? shape.time : 1, shape.batch, shape.hidden_row()}, inputs.options());
    // The first step's product is not run: zeros stand for it.
    const auto packed = pack_hidden(shape, hidden.data(), true);
    const auto list = shares(shape);
    float *gate_data = gates.mutable_data_ptr<float>(), *kept_data = kept.mutable_data_ptr<float>();
    float* output_data = output.mutable_data_ptr<float>();
    const int64_t* length_data = lengths.const_data_ptr<int64_t>();
    at::parallel_for(0, list.size(), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i++) {
        const int64_t d = list[i].direction;
        run_forward(shape, list[i], packed[d], shape.gru ? new_gate[d].const_data_ptr<float>() : nullptr, length_data,
                    gate_data, kept_data, keeps, output_data);
      }
    });
  }

  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    tensor_list result(14);
    if (!gradients[0].defined()) return result;
    check_first_derivative("a recurrent layer");
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto saved = context->get_saved_variables();
    const Tensor &inputs = saved[0], &lengths = saved[1], &weight = saved[2], &gates = saved[5], &kept = saved[6], &output = saved[7];
    const bool gru = context->saved_data["gru"].toBool();
    const Shape shape{gru, output.size(0), output.size(1), inputs.size(1), saved[3].size(1), saved[4].defined() ? 2 : 1};
    const Tensor gradient = gradients[0].contiguous();
    Tensor gate_gradients = at::empty_like(gates), hidden_gradients = gru ? at::empty_like(gates) : gate_gradients;
    const auto list = shares(shape);
    std::vector<std::vector<double>> biases(list.size(), std::vector<double>(4 * shape.hidden));
    {
      const Tensor* hidden[] = {&saved[3], &saved[4]};
      const auto packed = pack_hidden(shape, hidden, false);
      const int64_t* length_data = lengths.const_data_ptr<int64_t>();
      const float *gate_data = gates.const_data_ptr<float>(), *kept_data = kept.const_data_ptr<float>();
      const float *output_data = output.const_data_ptr<float>(), *gradient_data = gradient.const_data_ptr<float>();
      float *to_gates = gate_gradients.mutable_data_ptr<float>(), *to_hidden = hidden_gradients.mutable_data_ptr<float>();
      at::parallel_for(0, list.size(), 1, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++)
          run_backward(shape, list[i], packed[list[i].direction], length_data, gate_data, kept_data, output_data,
                       gradient_data, to_gates, to_hidden, biases[i].data());
      });
    }
    if (context->needs_input_grad(0)) {
      const Kernel kernel = Kernel(context->saved_data["grad_input"].toInt());
      result[0] = product_grad_input(kernel, gate_gradients, weight).view({shape.time, shape.batch, shape.inputs});
    }
    const int64_t own_gates = shape.gates() * shape.hidden;
    const Kernel kernel = Kernel(context->saved_data["grad_weight"].toInt());
    const Tensor input_weights = product_grad_weight(kernel, gate_gradients, inputs);
    for (int64_t d = 0; d < shape.directions; d++) {
      result[2 + d] = input_weights.narrow(0, d * own_gates, own_gates);
      result[4 + d] = hidden_weight_gradient(shape, d, hidden_gradients, output);
      std::vector<double> total(4 * shape.hidden);
      for (size_t i = 0; i < list.size(); i++)
        if (list[i].direction == d)
          for (size_t k = 0; k < total.size(); k++) total[k] += biases[i][k];
      const Tensor bias = at::tensor(at::ArrayRef<double>(total), at::kDouble).to(at::kFloat);
      result[6 + d] = bias.narrow(0, 0, own_gates).clone();
      result[8 + d] = gru ? at::cat({bias.narrow(0, 0, 2 * shape.hidden), bias.narrow(0, 3 * shape.hidden, shape.hidden)}) : result[6 + d].clone();
    }
    return result;
  }

  // Sum over time of gradients[t]^T hidden[t - 1] (t + 1 in the reverse direction), as one product.
  static Tensor hidden_weight_gradient(const Shape& s, int64_t direction, const Tensor& gradients, const Tensor& output) {
    const int64_t own_gates = s.gates() * s.hidden, rows = (s.time - 1) * s.batch;
    if (rows == 0) return at::zeros({own_gates, s.hidden}, output.options());
    const int64_t from_gates = direction ? 0 : s.batch, from_hidden = direction ? s.batch : 0;
    return blocked_inner_product(
        gradients.narrow(0, from_gates, rows).narrow(1, direction * own_gates, own_gates),
        output.view({s.time * s.batch, s.hidden_row()}).narrow(0, from_hidden, rows).narrow(1, direction * s.hidden, s.hidden));
  }
};

// libtorch's own layer, for other types and devices.
Tensor reference(bool gru, const Tensor& input, const Tensor& lengths, const std::vector<Tensor>& parameters, int64_t hidden, int64_t directions) {
  const int64_t time = input.size(0), batch = input.size(1);
  const Tensor state = at::zeros({directions, batch, hidden}, input.options());
  const bool both = directions == 2;
  if (!lengths.defined())
    return gru ? std::get<0>(at::gru(input, state, parameters, true, 1, 0., false, both, false))
               : std::get<0>(at::lstm(input, {state, state}, parameters, true, 1, 0., false, both, false));
  const Tensor counts = lengths.to(at::kCPU).clamp(0, time);
  const auto [sorted, order] = counts.clamp_min(1).sort(0, true);
  const Tensor places = order.to(input.device());
  const auto [data, sizes] = at::_pack_padded_sequence(input.index_select(1, places), sorted, false);
  const Tensor output = gru ? std::get<0>(at::gru(data, sizes, state, parameters, true, 1, 0., false, both))
                            : std::get<0>(at::lstm(data, sizes, {state, state}, parameters, true, 1, 0., false, both));
  const Tensor padded = std::get<0>(at::_pad_packed_sequence(output, sizes, false, 0., time)).index_select(1, places.argsort());
  const Tensor real = at::arange(time, counts.options()).unsqueeze(1).lt(counts.unsqueeze(0)).unsqueeze(2).to(input.device());
  return padded * real.to(input.scalar_type());
}

// `weights`: input, hidden, input bias, hidden bias of the first direction, then of the second.
Tensor recurrent(bool gru, const Tensor& input, const Tensor& lengths, const std::vector<Tensor>& weights, Kernel forward,
                 Kernel grad_input, Kernel grad_weight) {
  const int64_t directions = weights.size() / 4, gates = gru ? 3 : 4;
  TORCH_CHECK(input.dim() == 3, "recurrent layer: the input must be [time, batch, in], but has ", input.dim(), " dimensions");
  TORCH_CHECK(weights[1].dim() == 2, "recurrent layer: weight_hh must be [gates * hidden, hidden]");
  const int64_t hidden = weights[1].size(1);
  bool fused = is_cpu_float(input) && brgemm_available() && input.numel() > 0 && hidden > 0;
  for (int64_t d = 0; d < directions; d++) {
    const std::vector<int64_t> shapes[] = {{gates * hidden, input.size(2)}, {gates * hidden, hidden}, {gates * hidden}, {gates * hidden}};
    for (int64_t k = 0; k < 4; k++) {
      const Tensor& weight = weights[4 * d + k];
      TORCH_CHECK(weight.sizes() == at::IntArrayRef(shapes[k]), "recurrent layer: a weight is ", weight.sizes(),
                  ", but for this input it must be ", at::IntArrayRef(shapes[k]));
      TORCH_CHECK(weight.scalar_type() == input.scalar_type(), "recurrent layer: a weight is ", weight.scalar_type(),
                  ", but the input is ", input.scalar_type());
      fused = fused && is_cpu_float(weight);
    }
  }
  TORCH_CHECK(!lengths.defined() || (lengths.dim() == 1 && lengths.size(0) == input.size(1) && lengths.scalar_type() == at::kLong),
              "recurrent layer: the lengths must be int64 [", input.size(1), "]");
  if (!fused) return reference(gru, input, lengths, weights, hidden, directions);
  const Shape shape{gru, input.size(0), input.size(1), input.size(2), hidden, directions};
  const Tensor none, counts = lengths_of(lengths, shape);
  const auto second = [&](int64_t k) -> const Tensor& { return directions == 2 ? weights[4 + k] : none; };
  bool wanted = wants_gradient({&input});
  for (const Tensor& weight : weights) wanted = wanted || wants_gradient({&weight});
  if (wanted)
    return Recurrent::apply(input, counts, weights[0], given(second(0)), weights[1], given(second(1)), weights[2],
                            given(second(2)), weights[3], given(second(3)), gru, int64_t(forward), int64_t(grad_input), int64_t(grad_weight));
  at::NoGradGuard no_grad;
  Tensor gate_values, kept, output;
  Recurrent::compute(shape, input.reshape({shape.time * shape.batch, shape.inputs}), counts,
                     directions == 2 ? at::cat({weights[0], weights[4]}) : weights[0], {&weights[1], &second(1)},
                     {&weights[2], &second(2)}, {&weights[3], &second(3)}, forward, false, gate_values, kept, output);
  return output;
}

}  // namespace
}  // namespace tidemill

using namespace tidemill;

extern "C" char* tm_recurrent(Tensor** result, bool gru, const Tensor* input, const Tensor* lengths,
                              Tensor* const* weights, int32_t directions, int32_t forward, int32_t grad_input,
                              int32_t grad_weight) {
  return guarded([&] {
    *result = new Tensor(recurrent(gru, *input, optional_tensor(lengths), tensors(weights, 4 * directions),
                                   Kernel(forward), Kernel(grad_input), Kernel(grad_weight)));
  });
}
