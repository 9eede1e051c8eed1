// What stands between the products of an encoder: looking up and adding embeddings, adding a residual and normalising,
// activations, rotary positions, pooling. One pass over memory each; rows are float32 or bfloat16, arithmetic is float32.
#include "encode.hpp"

#include "crew.hpp"

namespace tidemill::encode {
namespace {

// The loops over one row. Each is compiled for every level of x86-64; a call costs nanoseconds.

TIDEMILL_VECTOR void read(const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = from[i];
}
TIDEMILL_VECTOR void read(const Bfloat* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = widened(from[i]);
}
TIDEMILL_VECTOR void add(const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] += from[i];
}
TIDEMILL_VECTOR void add(const Bfloat* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] += widened(from[i]);
}
TIDEMILL_VECTOR void write(const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = from[i];
}
TIDEMILL_VECTOR void write(const float* from, Bfloat* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) narrow_to(from[i], to[i]);
}
TIDEMILL_VECTOR void scale(float factor, float* values, int64_t n) {
  for (int64_t i = 0; i < n; i++) values[i] *= factor;
}
TIDEMILL_VECTOR void take_larger(const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = from[i] > to[i] || from[i] != from[i] ? from[i] : to[i];
}
TIDEMILL_VECTOR void multiply(const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] *= from[i];
}

TIDEMILL_VECTOR void normalise(float* x, const float* weight, const float* bias, double epsilon, int64_t n) {
  const float mean = float(sum_of(x, n) / n);
  const float inverse = float(1 / std::sqrt(squares_of(x, mean, n) / n + epsilon));
  if (bias)
    for (int64_t i = 0; i < n; i++) x[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
  else
    for (int64_t i = 0; i < n; i++) x[i] = (x[i] - mean) * inverse * weight[i];
}

TIDEMILL_VECTOR double squares(const float* x, int64_t n) { return squares_of(x, 0, n); }

TIDEMILL_VECTOR void rotate_half(const float* cosine, const float* sine, float* left, float* right, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const float x = left[i], y = right[i];
    left[i] = x * cosine[i] - y * sine[i];
    right[i] = y * cosine[i] + x * sine[i];
  }
}

#define TIDEMILL_ACTIVATE(A) \
  TIDEMILL_VECTOR void activate_##A(float* values, int64_t n) { \
    for (int64_t i = 0; i < n; i++) values[i] = activated<Activation::A>(values[i]); \
  }
TIDEMILL_ACTIVATE(Gelu)
TIDEMILL_ACTIVATE(GeluTanh)
TIDEMILL_ACTIVATE(Relu)
TIDEMILL_ACTIVATE(Silu)
TIDEMILL_ACTIVATE(Tanh)
TIDEMILL_ACTIVATE(QuickGelu)
#undef TIDEMILL_ACTIVATE

// Calls body(first type, second type) with the number formats of two tensors.
template <class Body>
void with_kind(const Tensor& tensor, Body&& body) {
  if (is_bfloat(tensor)) body(Bfloat{});
  else body(float{});
}

// Rows in parallel, a few thousand numbers at least to a thread; body(row, space for `width` floats).
template <class Body>
void each_row(int64_t rows, int64_t width, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, width));
  const auto part = [&](int64_t first, int64_t last) {
    std::vector<float> space(width);
    for (int64_t row = first; row < last; row++) body(row, space.data());
  };
  if (crew_is_awake()) share_range(rows, grain, part);
  else at::parallel_for(0, rows, grain, part);
}

void check_width(const Tensor& vector, int64_t width, const char* name) {
  TORCH_CHECK(!vector.defined() || (vector.dim() == 1 && vector.size(0) == width && vector.scalar_type() == at::kFloat && vector.is_contiguous()),
              "layer norm: ", name, " must be ", width, " float32 numbers");
}

struct Norm {
  const Tensor weight, bias;  // float32; undefined where absent
  double epsilon;

  Tensor by_libtorch(const Tensor& x) const {
    return weight.defined() ? at::layer_norm(x, {x.size(-1)}, given(weight), given(bias), epsilon) : x;
  }
  void apply(float* row, int64_t width) const {
    if (weight.defined())
      normalise(row, weight.const_data_ptr<float>(), bias.defined() ? bias.const_data_ptr<float>() : nullptr, epsilon, width);
  }
};

// The sum of one row from each table, normalised.
Tensor embed(const std::vector<Tensor>& tables, const std::vector<Tensor>& ids, const Norm& norm, at::ScalarType kind) {
  TORCH_CHECK(!tables.empty() && tables.size() == ids.size(), "embed: each table needs its ids");
  const int64_t tokens = ids[0].numel(), width = tables[0].dim() == 2 ? tables[0].size(1) : 0;
  bool ours = (kind == at::kFloat || kind == at::kBFloat16) && !wants_gradient({&norm.weight, &norm.bias});
  for (size_t t = 0; t < tables.size(); t++) {
    TORCH_CHECK(tables[t].dim() == 2 && tables[t].size(1) == width, "embed: the tables must be matrices of the same width");
    TORCH_CHECK(ids[t].dim() == 1 && ids[t].size(0) == tokens && ids[t].scalar_type() == at::kLong, "embed: the ids must be int64, one each token");
    ours = ours && takes(tables[t]) && tables[t].is_contiguous() && ids[t].device().is_cpu() && !wants_gradient({&tables[t]});
  }
  check_width(norm.weight, width, "the weight");
  check_width(norm.bias, width, "the bias");
  if (!ours) {
    Tensor sum;
    for (size_t t = 0; t < tables.size(); t++) {
      const Tensor rows = at::embedding(tables[t], ids[t]).to(at::kFloat);
      sum = sum.defined() ? sum + rows : rows;
    }
    return norm.by_libtorch(sum).to(kind);
  }
  std::vector<Tensor> flat;
  for (size_t t = 0; t < tables.size(); t++) {
    flat.push_back(ids[t].contiguous());
    const int64_t* numbers = flat[t].const_data_ptr<int64_t>();
    for (int64_t i = 0; i < tokens; i++)
      TORCH_CHECK_INDEX(numbers[i] >= 0 && numbers[i] < tables[t].size(0), "embed: the id ", numbers[i], " is outside a table of ",
                        tables[t].size(0), " rows");
  }
  Tensor result = at::empty({tokens, width}, tables[0].options().dtype(kind));
  each_row(tokens, width, [&](int64_t row, float* space) {
    for (size_t t = 0; t < tables.size(); t++) {
      const int64_t from = flat[t].const_data_ptr<int64_t>()[row] * width;
      with_kind(tables[t], [&](auto example) {
        using T = decltype(example);
        if (t == 0) read(numbers<T>(tables[t]) + from, space, width);
        else add(numbers<T>(tables[t]) + from, space, width);
      });
    }
    norm.apply(space, width);
    with_kind(result, [&](auto example) { write(space, mutable_numbers<decltype(example)>(result) + row * width, width); });
  });
  return result;
}

// The norm of x + residual; with `keep` the sum is left in the residual.
Tensor add_layer_norm(const Tensor& x, const Tensor& residual, bool keep, const Norm& norm, at::ScalarType kind) {
  TORCH_CHECK(x.dim() == 2, "layer norm: the rows must be a matrix");
  TORCH_CHECK(!residual.defined() || residual.sizes() == x.sizes(), "layer norm: the residual must be shaped like the rows, ", x.sizes());
  const int64_t rows = x.size(0), width = x.size(1);
  check_width(norm.weight, width, "the weight");
  check_width(norm.bias, width, "the bias");
  const bool ours = takes(x) && (!residual.defined() || (takes(residual) && residual.is_contiguous())) &&
                    (kind == at::kFloat || kind == at::kBFloat16) && !wants_gradient({&x, &residual, &norm.weight, &norm.bias});
  if (!ours) {
    Tensor sum = x.to(at::kFloat);
    if (residual.defined()) sum = sum + residual.to(at::kFloat);
    if (residual.defined() && keep) residual.copy_(sum);
    return norm.by_libtorch(sum).to(kind);
  }
  const Tensor from = unit_rows(x);
  Tensor result = at::empty({rows, width}, x.options().dtype(kind));
  each_row(rows, width, [&](int64_t row, float* space) {
    with_kind(from, [&](auto example) { read(numbers<decltype(example)>(from) + row * from.stride(0), space, width); });
    if (residual.defined()) {
      with_kind(residual, [&](auto example) {
        using T = decltype(example);
        add(numbers<T>(residual) + row * width, space, width);
        if (keep) write(space, mutable_numbers<T>(residual) + row * width, width);
      });
    }
    norm.apply(space, width);
    with_kind(result, [&](auto example) { write(space, mutable_numbers<decltype(example)>(result) + row * width, width); });
  });
  return result;
}

Tensor activated_rows(const Tensor& x, Activation activation) {
  if (!takes(x) || wants_gradient({&x})) return activated_by_libtorch(x, activation);
  const Tensor from = x.contiguous();
  Tensor result = at::empty_like(from);
  constexpr int64_t kPiece = 4096;
  const int64_t count = from.numel();
  each_row((count + kPiece - 1) / kPiece, kPiece, [&](int64_t piece, float* space) {
    const int64_t start = piece * kPiece, size = std::min(kPiece, count - start);
    with_kind(from, [&](auto example) {
      using T = decltype(example);
      read(numbers<T>(from) + start, space, size);
      activate(space, size, activation);
      write(space, mutable_numbers<T>(result) + start, size);
    });
  });
  return result;
}

// activation(left half of each row) * right half
Tensor gated(const Tensor& x, Activation activation) {
  TORCH_CHECK(x.dim() > 0 && x.size(-1) % 2 == 0, "gated: rows of ", x.dim() > 0 ? x.size(-1) : 1, " numbers have no halves");
  const int64_t width = x.size(-1) / 2;
  if (!takes(x) || wants_gradient({&x})) return activated_by_libtorch(x.narrow(-1, 0, width), activation) * x.narrow(-1, width, width);
  const Tensor from = unit_rows(x.dim() == 2 ? x : x.reshape({-1, x.size(-1)}));
  const int64_t rows = from.size(0);
  auto shape = x.sizes().vec();
  shape.back() = width;
  Tensor result = at::empty(shape, x.options());
  each_row(rows, 2 * width, [&](int64_t row, float* space) {
    with_kind(from, [&](auto example) {
      using T = decltype(example);
      read(numbers<T>(from) + row * from.stride(0), space, 2 * width);
      activate(space, width, activation);
      multiply(space + width, space, width);
      write(space, mutable_numbers<T>(result) + row * width, width);
    });
  });
  return result;
}

// Turns the queries and keys of [tokens, 3 * heads * head_dim] by the angles of their positions; the right half of a head's
// numbers belongs to its left half.
Tensor rotated(const Tensor& qkv, int64_t heads, const Tensor& cosine, const Tensor& sine, const Tensor& positions) {
  TORCH_CHECK(qkv.dim() == 2 && heads > 0 && qkv.size(1) % (6 * heads) == 0, "rotate: the rows must hold queries, keys and values of ", heads, " heads");
  const int64_t tokens = qkv.size(0), head_dim = qkv.size(1) / (3 * heads), half = head_dim / 2;
  for (const Tensor* table : {&cosine, &sine})
    TORCH_CHECK(table->dim() == 2 && table->size(1) == half && table->scalar_type() == at::kFloat && table->sizes() == cosine.sizes(),
                "rotate: the tables must be float32 [positions, ", half, "]");
  TORCH_CHECK(positions.dim() == 1 && positions.size(0) == tokens && positions.scalar_type() == at::kLong, "rotate: one position a token");
  if (!takes(qkv) || wants_gradient({&qkv})) {
    const Tensor c = cosine.index_select(0, positions).unsqueeze(1).unsqueeze(1), s = sine.index_select(0, positions).unsqueeze(1).unsqueeze(1);
    const Tensor parts = qkv.view({tokens, 3, heads, head_dim}), turned = parts.narrow(1, 0, 2).to(at::kFloat);
    const Tensor left = turned.narrow(-1, 0, half), right = turned.narrow(-1, half, half);
    const Tensor both = at::cat({left * c - right * s, right * c + left * s}, -1).to(qkv.scalar_type());
    return at::cat({both, parts.narrow(1, 2, 1)}, 1).view({tokens, -1});
  }
  Tensor result = qkv.is_contiguous() ? qkv : qkv.contiguous();
  const Tensor places = positions.contiguous(), c = cosine.contiguous(), s = sine.contiguous();
  const int64_t* place = places.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < tokens; i++)
    TORCH_CHECK_INDEX(place[i] >= 0 && place[i] < c.size(0), "rotate: the position ", place[i], " is outside a table of ", c.size(0), " rows");
  const int64_t width = 2 * heads * head_dim;
  each_row(tokens, width, [&](int64_t row, float* space) {
    with_kind(result, [&](auto example) {
      using T = decltype(example);
      T* values = mutable_numbers<T>(result) + row * result.stride(0);
      read(values, space, width);
      const float *cosines = c.const_data_ptr<float>() + place[row] * half, *sines = s.const_data_ptr<float>() + place[row] * half;
      for (int64_t head = 0; head < 2 * heads; head++)
        rotate_half(cosines, sines, space + head * head_dim, space + head * head_dim + half, half);
      write(space, values, width);
    });
  });
  return result;
}

enum class Pooling : int32_t { Mean = 0, Max = 1, First = 2, Last = 3, MeanSquareRoot = 4 };

// One float32 vector a text of [tokens, width]; text t has the tokens bounds[t] .. bounds[t + 1].
Tensor pool(const Tensor& hidden, const int64_t* bounds, int64_t texts, Pooling pooling) {
  TORCH_CHECK(hidden.dim() == 2, "pool: the tokens must be a matrix");
  TORCH_CHECK(bounds[0] == 0 && bounds[texts] == hidden.size(0), "pool: the bounds must run from 0 to the ", hidden.size(0), " tokens");
  for (int64_t t = 0; t < texts; t++) TORCH_CHECK(bounds[t] < bounds[t + 1], "pool: text ", t, " has no token");
  const int64_t width = hidden.size(1);
  if (!takes(hidden) || wants_gradient({&hidden})) {
    std::vector<int64_t> rows(bounds + (pooling == Pooling::Last ? 1 : 0), bounds + texts + (pooling == Pooling::Last ? 1 : 0));
    const auto longs = at::TensorOptions().dtype(at::kLong);
    if (pooling == Pooling::First || pooling == Pooling::Last) {
      const Tensor index = at::tensor(rows, longs) - (pooling == Pooling::Last ? 1 : 0);
      return hidden.index_select(0, index.to(hidden.device())).to(at::kFloat);
    }
    for (int64_t t = 0; t < texts; t++) rows[t] = bounds[t + 1] - bounds[t];
    const Tensor lengths = at::tensor(rows, longs).to(hidden.device());
    const Tensor pooled = at::segment_reduce(hidden.to(at::kFloat), pooling == Pooling::Max ? "max" : "mean", lengths);
    return pooling == Pooling::MeanSquareRoot ? pooled * lengths.to(at::kFloat).sqrt().unsqueeze(1) : pooled;
  }
  const Tensor from = unit_rows(hidden);
  Tensor result = at::empty({texts, width}, hidden.options().dtype(at::kFloat));
  each_row(texts, width, [&](int64_t text, float* space) {
    float* out = result.mutable_data_ptr<float>() + text * width;
    const int64_t first = bounds[text], last = bounds[text + 1], count = last - first;
    with_kind(from, [&](auto example) {
      using T = decltype(example);
      const auto row = [&](int64_t token) { return numbers<T>(from) + token * from.stride(0); };
      read(row(pooling == Pooling::Last ? last - 1 : first), out, width);
      if (pooling == Pooling::First || pooling == Pooling::Last) return;
      for (int64_t token = first + 1; token < last; token++) {
        if (pooling == Pooling::Max) {
          read(row(token), space, width);
          take_larger(space, out, width);
        } else {
          add(row(token), out, width);
        }
      }
      if (pooling != Pooling::Max) scale(float(1 / (pooling == Pooling::Mean ? double(count) : std::sqrt(double(count)))), out, width);
    });
  });
  return result;
}

// Rows of length 1, in place; a row of zeros stays.
void normalise_rows(const Tensor& rows) {
  TORCH_CHECK(rows.dim() == 2 && rows.scalar_type() == at::kFloat && rows.is_contiguous(), "normalise: the rows must be a float32 matrix");
  if (!takes(rows)) {
    rows.div_(rows.norm(2, {1}, true).clamp_min(1e-12));
    return;
  }
  const int64_t width = rows.size(1);
  each_row(rows.size(0), width, [&](int64_t row, float*) {
    float* values = rows.mutable_data_ptr<float>() + row * width;
    scale(float(1 / std::max(1e-12, std::sqrt(squares(values, width)))), values, width);
  });
}

}  // namespace

Tensor activated_by_libtorch(const Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::Gelu: return at::gelu(x);
    case Activation::GeluTanh: return at::gelu(x, "tanh");
    case Activation::Relu: return at::relu(x);
    case Activation::Silu: return at::silu(x);
    case Activation::Tanh: return at::tanh(x);
    case Activation::QuickGelu: return x * at::sigmoid(1.702 * x);
    default: return x;
  }
}

void activate(float* values, int64_t count, Activation activation) {
  switch (activation) {
    case Activation::Gelu: return activate_Gelu(values, count);
    case Activation::GeluTanh: return activate_GeluTanh(values, count);
    case Activation::Relu: return activate_Relu(values, count);
    case Activation::Silu: return activate_Silu(values, count);
    case Activation::Tanh: return activate_Tanh(values, count);
    case Activation::QuickGelu: return activate_QuickGelu(values, count);
    default: return;
  }
}

}  // namespace tidemill::encode

using namespace tidemill;

namespace {

encode::Norm norm_of(const Tensor* weight, const Tensor* bias, double epsilon) {
  return {optional_tensor(weight), optional_tensor(bias), epsilon};
}

at::ScalarType kind_of_number(bool bfloat) { return bfloat ? at::kBFloat16 : at::kFloat; }

}  // namespace

extern "C" {

char* tm_embed(Tensor** result, Tensor* const* tables, Tensor* const* ids, int64_t count, const Tensor* weight,
               const Tensor* bias, double epsilon, bool bfloat) {
  return guarded([&] {
    *result = new Tensor(encode::embed(tensors(tables, count), tensors(ids, count), norm_of(weight, bias, epsilon), kind_of_number(bfloat)));
  });
}

char* tm_add_layer_norm(Tensor** result, const Tensor* x, const Tensor* residual, bool keep, const Tensor* weight,
                        const Tensor* bias, double epsilon, bool bfloat) {
  return guarded([&] {
    *result = new Tensor(encode::add_layer_norm(*x, optional_tensor(residual), keep, norm_of(weight, bias, epsilon), kind_of_number(bfloat)));
  });
}

char* tm_activated(Tensor** result, const Tensor* x, int32_t activation) {
  return guarded([&] { *result = new Tensor(encode::activated_rows(*x, encode::Activation(activation))); });
}

char* tm_gated(Tensor** result, const Tensor* x, int32_t activation) {
  return guarded([&] { *result = new Tensor(encode::gated(*x, encode::Activation(activation))); });
}

char* tm_rotated(Tensor** result, const Tensor* qkv, int64_t heads, const Tensor* cosine, const Tensor* sine, const Tensor* positions) {
  return guarded([&] { *result = new Tensor(encode::rotated(*qkv, heads, *cosine, *sine, *positions)); });
}

// `bounds` holds one number more than there are texts.
char* tm_pool(Tensor** result, const Tensor* hidden, const int64_t* bounds, int64_t texts, int32_t pooling, bool normalised) {
  return guarded([&] {
    Tensor pooled = encode::pool(*hidden, bounds, texts, encode::Pooling(pooling));
    if (normalised) encode::normalise_rows(pooled.requires_grad() ? pooled.detach() : pooled);
    *result = new Tensor(pooled);
  });
}

char* tm_normalise_rows(const Tensor* rows) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    encode::normalise_rows(*rows);
  });
}

}  // extern "C"
