// Frozen weights: packing into panels, products, look-up. The kernels are in panels.cpp; here are memory, threads and
// libtorch's tensors.
#include "panels.hpp"
#include "scratch.hpp"
#include "shim.hpp"

#include <ATen/EmptyTensor.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

namespace tidemill {
namespace {

constexpr int64_t kRowBlock = 42 * kTile;          // rows whose activations stay in the cache together
constexpr int64_t kHugePage = int64_t(2) << 20;    // bytes
constexpr int64_t kWorthThreads = int64_t(96) << 10;  // bytes of weights below which one thread is faster than two

struct WeightPanels {
  Layout layout;
  std::unique_ptr<char, decltype(&std::free)> memory{nullptr, &std::free};

  explicit WeightPanels(const Layout& of) : layout(of) {
    const int64_t bytes = layout.panels() * layout.panel_bytes(), align = bytes >= 2 * kHugePage ? kHugePage : 64;
    memory.reset(static_cast<char*>(std::aligned_alloc(align, std::max(align, (bytes + align - 1) / align * align))));
    if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    // Fewer pages, fewer misses of the translation buffer; only whole huge pages, so that nothing is wasted at the end.
    if (align == kHugePage) madvise(memory.get(), bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  }
  const char* panel(int64_t i) const { return memory.get() + i * layout.panel_bytes(); }
  char* panel(int64_t i) { return memory.get() + i * layout.panel_bytes(); }
  int64_t bytes() const { return layout.panels() * layout.panel_bytes(); }
};

// The activations that a part needs: as floats or pairs, with or without sums.
struct Activations {
  Layout layout;  // the deepest of the parts that share them
  bool serves(const Layout& other) const {
    const bool sums = layout.minima, wants = other.minima;
    return (layout.format == Format::Float32) == (other.format == Format::Float32) && sums == wants &&
           (!sums || layout.group == other.group);
  }
};

}  // namespace

struct Matrix {
  struct Part {
    std::shared_ptr<const WeightPanels> panels;
    int64_t first_output;
    int64_t bytes_before;
    size_t activations;
  };
  std::vector<Part> parts;
  std::vector<Activations> activations;
  int64_t outputs = 0, inputs = 0, bytes = 0, panels = 0;

  void add(std::shared_ptr<const WeightPanels> added) {
    const Layout& layout = added->layout;
    inputs = layout.inputs;
    size_t i = 0;
    while (i < activations.size() && !activations[i].serves(layout)) i++;
    if (i == activations.size()) activations.push_back({layout});
    else if (layout.depth() > activations[i].layout.depth()) activations[i].layout = layout;
    const int64_t more = added->bytes();
    panels += layout.panels();
    parts.push_back({std::move(added), outputs, bytes, i});
    outputs += layout.outputs;
    bytes += more;
  }
};

namespace {

// ---- packing ----

template <typename T>
void read_floats(const T* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i++) to[i] = static_cast<float>(from[i]);
}

// target[k][kColumns] = source[c][k] of `rows` rows; zeros for the others.
template <typename T>
void turn(const T* source, int64_t stride, int64_t rows, int64_t depth, T* target) {
  constexpr int64_t kDepth = 16;
  for (int64_t k0 = 0; k0 < depth; k0 += kDepth) {
    const int64_t end = std::min(depth, k0 + kDepth);
    for (int64_t c = 0; c < kColumns; c++)
      for (int64_t k = k0; k < end; k++) target[k * kColumns + c] = c < rows ? source[c * stride + k] : T(0);
  }
}

uint16_t float_to_half(float value) { return c10::Half(value).x; }
bool is_half(float value) { return half_to_float(float_to_half(value)) == value; }

// The smallest float16 that is at least `value`, which is not negative.
float half_above(float value) {
  const uint16_t bits = float_to_half(value);
  return half_to_float(half_to_float(bits) < value ? bits + 1 : bits);
}

// One group of one output: scale, minimum, values.
struct Group {
  float scale = 0, minimum = 0;
  int8_t values[32] = {};
};

Group to_bytes(const float* x, int64_t count) {
  float most = 0;
  for (int64_t i = 0; i < count; i++) most = std::max(most, std::abs(x[i]));
  Group group;
  group.scale = half_above(most / 127);
  const float inverse = group.scale > 0 ? 1 / group.scale : 0;
  for (int64_t i = 0; i < count; i++)
    group.values[i] = int8_t(std::clamp(std::nearbyint(x[i] * inverse), -127.f, 127.f));
  return group;
}

// Among several ranges, each mended by least squares, the one with the smallest error.
Group to_nibbles(const float* x, int64_t count) {
  const auto [low, high] = std::minmax_element(x, x + count);
  const float least = *low, range = *high - *low;
  Group best;
  float best_error = std::numeric_limits<float>::infinity();
  for (int64_t step = 0; step <= 8; step++) {
    // 15 steps over the range, or over a little less or more of it.
    float scale = range / (14.2f + 0.2f * float(step)), minimum = least;
    for (int64_t pass = 0; pass < 2; pass++) {
      Group group;
      group.scale = half_to_float(float_to_half(scale));
      group.minimum = half_to_float(float_to_half(minimum));
      const float inverse = group.scale > 0 ? 1 / group.scale : 0;
      float error = 0, sum_q = 0, sum_qq = 0, sum_x = 0, sum_qx = 0;
      for (int64_t i = 0; i < count; i++) {
        const float q = std::clamp(std::nearbyint((x[i] - group.minimum) * inverse), 0.f, 15.f);
        group.values[i] = int8_t(q);
        const float away = group.scale * q + group.minimum - x[i];
        error += away * away;
        sum_q += q;
        sum_qq += q * q;
        sum_x += x[i];
        sum_qx += q * x[i];
      }
      if (error < best_error) {
        best_error = error;
        best = group;
      }
      const float n = float(count), spread = n * sum_qq - sum_q * sum_q;
      if (spread <= 0) break;
      scale = (n * sum_qx - sum_q * sum_x) / spread;
      minimum = (sum_x - scale * sum_q) / n;
      if (!(scale > 0)) break;
    }
  }
  return best;
}

void put_scale(const Layout& layout, char* to, int64_t column, float value) {
  if (!layout.half_scales) {
    std::memcpy(to + 4 * column, &value, 4);
    return;
  }
  const uint16_t half = float_to_half(value);
  std::memcpy(to + 2 * column, &half, 2);
}

// `at`: the group's first byte in the panel, already zeroed.
void put_group(const Layout& layout, char* at, int64_t column, float scale, float minimum, const int8_t* values) {
  put_scale(layout, at, column, scale);
  if (layout.minima) put_scale(layout, at + layout.scale_bytes(), column, minimum);
  char* to = at + layout.head_bytes();
  if (layout.format == Format::Int8) {
    for (int64_t i = 0; i < layout.group; i += 2) std::memcpy(to + (i / 2 * kColumns + column) * 2, values + i, 2);
    return;
  }
  const uint32_t centre = layout.centred ? 8 : 0;
  for (int64_t i = 0; i < layout.group; i += 8) {
    uint32_t word = 0;
    for (int64_t j = 0; j < 8; j++) word |= (uint32_t(values[i + j]) + centre & 15) << (j / 2 * 4 + j % 2 * 16);
    std::memcpy(to + (i / 8 * kColumns + column) * 4, &word, 4);
  }
}

template <typename T>
void pack_panel(const Layout& layout, const T* source, int64_t rows, char* panel) {
  const int64_t inputs = layout.inputs;
  if (layout.format == Format::Float32 && std::is_same_v<T, float>) {
    turn(reinterpret_cast<const float*>(source), inputs, rows, inputs, reinterpret_cast<float*>(panel));
    return;
  }
  if (layout.format == Format::BFloat16 && sizeof(T) == 2 && std::is_same_v<T, c10::BFloat16> && inputs % 2 == 0) {
    turn(reinterpret_cast<const uint32_t*>(source), inputs / 2, rows, inputs / 2, reinterpret_cast<uint32_t*>(panel));
    return;
  }
  std::memset(panel, 0, layout.panel_bytes());
  float row[32];
  for (int64_t c = 0; c < rows; c++) {
    for (int64_t k = 0; k < inputs; k += 32) {
      const int64_t count = std::min<int64_t>(32, inputs - k);
      std::fill_n(row, 32, 0.f);
      read_floats(source + c * inputs + k, count, row);
      if (layout.format == Format::Float32) {
        for (int64_t i = 0; i < count; i++) reinterpret_cast<float*>(panel)[(k + i) * kColumns + c] = row[i];
      } else if (layout.format == Format::BFloat16) {
        auto* target = reinterpret_cast<uint16_t*>(panel);
        for (int64_t i = 0; i < count; i++)
          target[((k + i) / 2 * kColumns + c) * 2 + i % 2] = float_to_bfloat(row[i]);
      } else {
        const Group group = layout.format == Format::Int8 ? to_bytes(row, count) : to_nibbles(row, count);
        put_group(layout, panel + k / 32 * layout.group_bytes(), c, group.scale, group.minimum, group.values);
      }
    }
  }
}

template <typename Body>
void for_each_panel(const WeightPanels& panels, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, panels.layout.depth() * kColumns));
  at::parallel_for(0, panels.layout.panels(), grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) body(i, std::min(kColumns, panels.layout.outputs - i * kColumns));
  });
}

Matrix* from_tensor(const Tensor& weight, int32_t precision) {
  TORCH_CHECK(weight.dim() == 2, "matrix: the weight must be [outputs, inputs], but has ", weight.dim(), " dimensions");
  TORCH_CHECK(weight.numel() > 0, "matrix: a weight of ", weight.sizes(), " holds nothing");
  TORCH_CHECK(weight.device().is_cpu() && weight.layout() == at::kStrided, "matrix: panels are for dense weights in main memory");
  const Tensor source = weight.detach().contiguous();
  Layout layout;
  layout.format = static_cast<Format>(precision);
  layout.outputs = source.size(0);
  layout.inputs = source.size(1);
  if (layout.grouped()) {
    layout.group = 32;
    layout.half_scales = true;
    layout.minima = layout.format == Format::Int4;
    // float16 scales reach to 65504.
    if (source.numel() > 0) {
      const double most = source.abs().max().item<double>();
      TORCH_CHECK(std::isfinite(most) && most < 60000, "matrix: numbers up to ", most, " cannot be held as scaled integers");
    }
  }
  auto panels = std::make_shared<WeightPanels>(layout);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, source.scalar_type(), "matrix", [&] {
    const scalar_t* data = source.const_data_ptr<scalar_t>();
    for_each_panel(*panels, [&](int64_t i, int64_t rows) {
      pack_panel(layout, data + i * kColumns * layout.inputs, rows, panels->panel(i));
    });
  });
  auto matrix = std::make_unique<Matrix>();
  matrix->add(std::move(panels));
  return matrix.release();
}

Matrix* from_groups(int64_t outputs, int64_t inputs, int64_t group, const int8_t* values, const float* scales, const float* minima) {
  const int64_t count = outputs * inputs, groups = count / group;
  int8_t least = 0, most = 0;
  for (int64_t i = 0; i < count; i++) {
    least = std::min(least, values[i]);
    most = std::max(most, values[i]);
  }
  Layout layout;
  layout.outputs = outputs;
  layout.inputs = inputs;
  layout.group = group;
  layout.centred = least < 0;
  layout.format = (least >= 0 && most < 16) || (least >= -8 && most < 8) ? Format::Int4 : Format::Int8;
  layout.half_scales = std::all_of(scales, scales + groups, is_half);
  if (minima != nullptr) {
    layout.half_scales = layout.half_scales && std::all_of(minima, minima + groups, is_half);
    layout.minima = std::any_of(minima, minima + groups, [](float minimum) { return minimum != 0; });
  }
  auto panels = std::make_shared<WeightPanels>(layout);
  for_each_panel(*panels, [&](int64_t i, int64_t rows) {
    char* panel = panels->panel(i);
    std::memset(panel, 0, layout.panel_bytes());
    for (int64_t c = 0; c < rows; c++) {
      const int64_t row = i * kColumns + c;
      for (int64_t g = 0; g < layout.groups(); g++) {
        const int64_t at = row * layout.groups() + g;
        put_group(layout, panel + g * layout.group_bytes(), c, scales[at], minima != nullptr ? minima[at] : 0.f, values + at * group);
      }
    }
  });
  auto matrix = std::make_unique<Matrix>();
  matrix->add(std::move(panels));
  return matrix.release();
}

// ---- look-up ----

void read_output(const WeightPanels& panels, int64_t output, float* to) {
  const Layout& layout = panels.layout;
  const char* panel = panels.panel(output / kColumns);
  const int64_t column = output % kColumns;
  if (layout.format == Format::Float32) {
    const auto* from = reinterpret_cast<const float*>(panel) + column;
    for (int64_t k = 0; k < layout.inputs; k++) to[k] = from[k * kColumns];
    return;
  }
  if (layout.format == Format::BFloat16) {
    const auto* from = reinterpret_cast<const uint16_t*>(panel) + 2 * column;
    for (int64_t k = 0; k < layout.inputs; k++) to[k] = bfloat_to_float(from[k / 2 * 2 * kColumns + k % 2]);
    return;
  }
  const auto scale = [&](const char* at) {
    float value;
    uint16_t half;
    if (layout.half_scales) {
      std::memcpy(&half, at + 2 * column, 2);
      return half_to_float(half);
    }
    std::memcpy(&value, at + 4 * column, 4);
    return value;
  };
  for (int64_t k = 0; k < layout.inputs; k += layout.group, panel += layout.group_bytes()) {
    const float factor = scale(panel), minimum = layout.minima ? scale(panel + layout.scale_bytes()) : 0;
    const char* values = panel + layout.head_bytes();
    for (int64_t i = 0; i < std::min(layout.group, layout.inputs - k); i++) {
      int32_t value;
      if (layout.format == Format::Int8) {
        value = int8_t(values[(i / 2 * kColumns + column) * 2 + i % 2]);
      } else {
        uint32_t word;
        std::memcpy(&word, values + (i / 8 * kColumns + column) * 4, 4);
        value = int32_t(word >> (i % 8 / 2 * 4 + i % 2 * 16) & 15) - (layout.centred ? 8 : 0);
      }
      to[k + i] = factor * float(value) + minimum;
    }
  }
}

Tensor rows(const Matrix& matrix, const Tensor& ids) {
  TORCH_CHECK(ids.dim() == 1 && ids.scalar_type() == at::kLong && ids.device().is_cpu(), "matrix: the ids must be [n] int64 in main memory, but are ", ids.sizes(), " ", ids.scalar_type());
  const Tensor given = ids.contiguous();
  const int64_t count = given.numel();
  const int64_t* id = given.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < count; i++)
    TORCH_CHECK_INDEX(id[i] >= 0 && id[i] < matrix.outputs, "matrix: id ", id[i], " is not among the ", matrix.outputs, " rows");
  Tensor result = at::detail::empty_cpu({count, matrix.inputs}, at::kFloat);
  float* out = result.mutable_data_ptr<float>();
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, matrix.inputs));
  at::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
      size_t part = 0;
      while (part + 1 < matrix.parts.size() && id[i] >= matrix.parts[part + 1].first_output) part++;
      const Matrix::Part& from = matrix.parts[part];
      read_output(*from.panels, id[i] - from.first_output, out + i * matrix.inputs);
    }
  });
  return result;
}

// ---- products ----

// How the threads share a product: `rows` groups of tiles times `columns` groups of panels.
struct Shares {
  int64_t rows = 1, columns = 1;
};

Shares share_out(int64_t tiles, int64_t panels) {
  Shares best;
  const int64_t threads = at::get_num_threads();
  const auto cost = [&](int64_t rows, int64_t columns) {
    return ((tiles + rows - 1) / rows) * ((panels + columns - 1) / columns);
  };
  for (int64_t rows = 1; rows <= std::min(threads, tiles); rows++) {
    const int64_t columns = std::min(panels, threads / rows);
    if (rows == 1 || cost(rows, columns) < cost(best.rows, best.columns)) best = {rows, columns};
  }
  return best;
}

// The activations of some rows, cut into tiles of nearly equal height. They lie chunk of inputs by chunk, tile by tile.
struct Tiles {
  int64_t rows = 0, count = 0, depth = 0;
  bool pairs = false;
  char* values = nullptr;
  float* sums = nullptr;  // [tiles][groups][rows of the tile], or null
  int64_t groups = 0;

  int64_t height(int64_t tile) const { return rows / count + (tile < rows % count); }
  int64_t first(int64_t tile) const { return tile * (rows / count) + std::min(tile, rows % count); }
  // Inputs from `k` on, where a chunk begins.
  char* at(int64_t tile, int64_t k) const {
    const int64_t numbers = rows * k + first(tile) * (std::min(depth, k + kChunk) - k);
    return values + numbers * (pairs ? 2 : 4);
  }
  float* sums_of(int64_t tile) const { return sums == nullptr ? nullptr : sums + first(tile) * groups; }
};

Tiles pack_tiles(const Level& level, const Layout& layout, const float* x, int64_t stride, int64_t rows, Scratch& scratch) {
  Tiles tiles{rows, (rows + kTile - 1) / kTile, layout.depth(), level.takes_pairs(layout)};
  tiles.groups = layout.minima && tiles.pairs ? layout.groups() : 0;
  const int64_t bytes = (rows * tiles.depth * (tiles.pairs ? 2 : 4) + 63) / 64 * 64;
  tiles.values = scratch.take<char>(bytes + rows * tiles.groups * int64_t(sizeof(float)));
  if (tiles.groups > 0) tiles.sums = reinterpret_cast<float*>(tiles.values + bytes);
  const auto pack = [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++)
      for (int64_t k = 0; k < tiles.depth; k += kChunk)
        level.tile(layout, x + tiles.first(t) * stride, stride, tiles.height(t), k, std::min(tiles.depth, k + kChunk), tiles.at(t, k), tiles.sums_of(t));
  };
  if (rows * tiles.depth < 65536) pack(0, tiles.count);
  else at::parallel_for(0, tiles.count, 1, pack);
  return tiles;
}

struct Product {
  const Matrix& matrix;
  const Level& level;
  const std::vector<Tiles>& activations;
  const float* bias;
  float* out;  // the first row of the tiles
};

void write_columns(const Product& product, const float* c, int64_t rows, int64_t row, int64_t column, int64_t width) {
  for (int64_t r = 0; r < rows; r++) {
    float* to = product.out + (row + r) * product.matrix.outputs + column;
    const float* from = c + r * kColumns;
    if (product.bias == nullptr) {
      std::memcpy(to, from, width * sizeof(float));
      continue;
    }
    for (int64_t i = 0; i < width; i++) to[i] = from[i] + product.bias[column + i];
  }
}

// Tiles [first, last) times share `share` of `shares` of the panels.
void multiply(const Product& product, int64_t first, int64_t last, int64_t share, int64_t shares) {
  thread_local Scratch totals, weights;
  const Level& level = product.level;
  const Tiles& any = product.activations.front();
  const int64_t first_row = any.first(first), rows = any.first(last) - first_row;
  float* c = totals.take<float>(rows * kColumns);
  float* expanded = weights.take<float>(kChunk * kColumns);
  const double goal = double(product.matrix.bytes) / double(shares);
  for (const Matrix::Part& part : product.matrix.parts) {
    const Layout& layout = part.panels->layout;
    const Tiles& tiles = product.activations[part.activations];
    const bool expands = level.expands(layout) && last - first > 1;
    // A panel belongs to the share in which its middle lies.
    const auto edge = [&](int64_t s) {
      const double at = (goal * double(s) - double(part.bytes_before)) / double(layout.panel_bytes());
      return std::clamp<int64_t>(int64_t(std::ceil(at - 0.5)), 0, layout.panels());
    };
    const int64_t from = edge(share), to = share + 1 == shares ? layout.panels() : edge(share + 1);
    for (int64_t i = from; i < to; i++) {
      const char* panel = part.panels->panel(i);
      for (int64_t k = 0; k < layout.depth(); k += kChunk) {
        // One tile has its inputs in one piece.
        const int64_t end = tiles.count == 1 ? layout.depth() : std::min(layout.depth(), k + kChunk);
        if (expands) level.expand(layout, panel, k, end, expanded);
        float* at = c;
        for (int64_t t = first; t < last; at += tiles.height(t) * kColumns, t++)
          level.product(layout, panel, expands ? expanded : nullptr, k, end, tiles.height(t), tiles.at(t, k), tiles.sums_of(t), at, k > 0);
        if (end == layout.depth()) break;
      }
      const int64_t column = i * kColumns;
      write_columns(product, c, rows, first_row, part.first_output + column, std::min(kColumns, layout.outputs - column));
    }
  }
}

Tensor linear(const Matrix& matrix, const Tensor& x, const Tensor& bias) {
  TORCH_CHECK(is_cpu_float(x), "matrix: the input must be float32 in main memory, but is ", x.scalar_type(), " on ", x.device());
  TORCH_CHECK(x.dim() > 0 && x.size(-1) == matrix.inputs, "matrix: the input is ", x.sizes(), ", but the weight takes ", matrix.inputs, " features");
  if (bias.defined())
    TORCH_CHECK(is_cpu_float(bias) && bias.dim() == 1 && bias.size(0) == matrix.outputs, "matrix: the bias must be [", matrix.outputs, "] float32, but is ", bias.sizes(), " ", bias.scalar_type());
  c10::SmallVector<int64_t, 5> size(x.sizes().begin(), x.sizes().end());
  size.back() = matrix.outputs;
  Tensor result = at::detail::empty_cpu(size, at::kFloat);
  const bool strided = x.dim() == 2 && x.stride(1) == 1;
  const Tensor input = strided ? x : x.contiguous(), offsets = bias.defined() ? bias.contiguous() : bias;
  const int64_t rows = result.numel() / std::max<int64_t>(1, matrix.outputs), stride = strided ? x.stride(0) : matrix.inputs;
  const float *from = input.const_data_ptr<float>(), *bias_data = offsets.defined() ? offsets.const_data_ptr<float>() : nullptr;
  float* out = result.mutable_data_ptr<float>();
  if (result.numel() == 0) return result;

  thread_local std::vector<Scratch> scratch;
  thread_local std::vector<Tiles> tiles;
  const size_t kinds = matrix.activations.size();
  if (scratch.size() < kinds) scratch.resize(kinds);
  tiles.resize(kinds);
  const Level& kernels = level();
  for (int64_t row = 0; row < rows; row += kRowBlock) {
    const int64_t height = std::min(kRowBlock, rows - row);
    for (size_t i = 0; i < kinds; i++)
      tiles[i] = pack_tiles(kernels, matrix.activations[i].layout, from + row * stride, stride, height, scratch[i]);
    const Product product{matrix, kernels, tiles, bias_data, out + row * matrix.outputs};
    const int64_t count = tiles.front().count;
    if (matrix.bytes * count < kWorthThreads || at::get_num_threads() == 1 || at::in_parallel_region()) {
      multiply(product, 0, count, 0, 1);
      continue;
    }
    const Shares shares = share_out(count, matrix.panels);
    at::parallel_for(0, shares.rows * shares.columns, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i++) {
        const int64_t group = i / shares.columns;
        multiply(product, group * count / shares.rows, (group + 1) * count / shares.rows, i % shares.columns, shares.columns);
      }
    });
  }
  return result;
}

}  // namespace
}  // namespace tidemill

using namespace tidemill;

extern "C" {

char* tm_matrix_from_tensor(Matrix** result, const Tensor* weight, int32_t precision) {
  return guarded([&] { *result = from_tensor(*weight, precision); });
}

// values [outputs, inputs], scales and minima (or null) [outputs, inputs / group].
char* tm_matrix_from_groups(Matrix** result, int64_t outputs, int64_t inputs, int64_t group, const int8_t* values, const float* scales, const float* minima) {
  return guarded([&] { *result = from_groups(outputs, inputs, group, values, scales, minima); });
}

char* tm_matrix_concatenated(Matrix** result, const Matrix* const* parts, int64_t count) {
  return guarded([&] {
    auto matrix = std::make_unique<Matrix>();
    for (int64_t i = 0; i < count; i++) {
      TORCH_CHECK(parts[i]->inputs == parts[0]->inputs, "matrix: parts of ", parts[0]->inputs, " and ", parts[i]->inputs, " inputs cannot be joined");
      for (const Matrix::Part& part : parts[i]->parts) matrix->add(part.panels);
    }
    *result = matrix.release();
  });
}

void tm_matrix_free(Matrix* matrix) { delete matrix; }

// numbers: outputs, inputs, bytes, format of the first part.
void tm_matrix_describe(const Matrix* matrix, int64_t* numbers) {
  numbers[0] = matrix->outputs;
  numbers[1] = matrix->inputs;
  numbers[2] = matrix->bytes;
  numbers[3] = matrix->parts.empty() ? 0 : int64_t(matrix->parts.front().panels->layout.format);
}

char* tm_matrix_linear(Tensor** result, const Matrix* matrix, const Tensor* x, const Tensor* bias) {
  return guarded([&] { *result = new Tensor(linear(*matrix, *x, optional_tensor(bias))); });
}

char* tm_matrix_rows(Tensor** result, const Matrix* matrix, const Tensor* ids) {
  return guarded([&] { *result = new Tensor(rows(*matrix, *ids)); });
}
}
