// A weight [outputs, inputs] as panels, and the kernels that multiply rows of activations by them. Knows nothing of
// libtorch.
//
// A panel holds kColumns outputs (the last one zeros past the end), inputs in the order in which a product walks them:
//   Float32   [inputs][kColumns] float32
//   BFloat16  [inputs / 2][kColumns][2] bfloat16
//   Int8      for each group: scales [kColumns], minima [kColumns] where there are any, values [group / 2][kColumns][2]
//   Int4      the same with values [group / 8][kColumns] words of 32 bits: bits 4 j of the lower 16 hold number 2 j of
//             eight, those of the upper 16 number 2 j + 1
// The inputs are padded with zeros to whole pairs and groups. A number of a group is scale * value + minimum.
//
// A row's result does not depend on the rows beside it, nor on threads: every kernel of a level adds in the order of the
// inputs, whatever the number of rows. Where the processor multiplies bfloat16 pairs, the activations are rounded to
// bfloat16 for every format but Float32; the weights never are.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#define TIDEMILL_X86 1
#include <immintrin.h>
#endif

namespace tidemill {

constexpr int64_t kColumns = 32;  // outputs in a panel
constexpr int64_t kTile = 12;     // rows that a kernel takes at once
constexpr int64_t kAhead = 8192;  // bytes by which a kernel's reads of weights run ahead of it
constexpr int64_t kChunk = 256;   // inputs that are walked before the next tile of rows: their weights stay in the cache

struct AttentionShape;  // attention.hpp
struct AttentionTask;

enum class Format : int32_t { Float32, BFloat16, Int8, Int4 };

struct Layout {
  Format format = Format::Float32;
  int64_t outputs = 0, inputs = 0;
  int64_t group = 0;         // inputs that share a scale: 16 or 32
  bool half_scales = false;  // scales and minima are float16, else float32
  bool minima = false;
  bool centred = false;  // Int4: the bits hold the value + 8

  bool grouped() const { return format == Format::Int8 || format == Format::Int4; }
  int64_t depth() const {  // inputs with their padding
    if (grouped()) return (inputs + group - 1) / group * group;
    return format == Format::BFloat16 ? (inputs + 1) / 2 * 2 : inputs;
  }
  int64_t groups() const { return grouped() ? depth() / group : 0; }
  int64_t scale_bytes() const { return kColumns * (half_scales ? 2 : 4); }
  int64_t head_bytes() const { return scale_bytes() * (minima ? 2 : 1); }
  int64_t group_bytes() const { return head_bytes() + kColumns * group / (format == Format::Int4 ? 2 : 1); }
  int64_t panel_bytes() const {
    if (grouped()) return groups() * group_bytes();
    return depth() * kColumns * (format == Format::BFloat16 ? 2 : 4);
  }
  int64_t panels() const { return (outputs + kColumns - 1) / kColumns; }
};

// What is compiled once for every level of processor.
struct Level {
  const char* name;
  bool pairs;  // the formats other than Float32 take pairs of bfloat16
  // c[rows][kColumns] (+)= a times inputs [from, to) of a panel, for up to kTile rows; `from` and `to` are multiples of a
  // group. `a` holds these inputs as `tile` wrote them; `sums` is [groups][rows] from the first group on. `expanded` is
  // what `expand` made of the same inputs, or null.
  void (*product)(const Layout&, const char* panel, const float* expanded, int64_t from, int64_t to, int64_t rows, const void* a, const float* sums, float* c, bool accumulate);
  // Inputs [from, to), a chunk at most, of a panel as float32 [to - from][kColumns].
  void (*expand)(const Layout&, const char* panel, int64_t from, int64_t to, float* expanded);
  // Inputs [from, to) of up to kTile rows of activations as float32 [to - from][rows] or as pairs of bfloat16
  // [(to - from) / 2][rows], zeros past the last input. `sums`, which may be null, as above: a group's activations added.
  void (*tile)(const Layout&, const float* x, int64_t stride, int64_t rows, int64_t from, int64_t to, void* a, float* sums);
  // Works on a task of attention, in the given scratch memory.
  void (*attend)(const AttentionShape&, const AttentionTask&, float* scratch);
  // Finishes a row whose blocks several tasks worked on: their parts, `step` floats apart.
  void (*merge)(const AttentionShape&, const float* parts, int64_t blocks, int64_t step, float* scratch, float* out);

  bool takes_pairs(const Layout& layout) const { return pairs && layout.format != Format::Float32; }
  // Whether the weights of this format are brought into another form once for many tiles, by `expand`. Kernels for pairs
  // are as fast without.
  bool expands(const Layout& layout) const { return !pairs && layout.format != Format::Float32; }
};

const Level& level();

inline float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, magnitude = half & 0x7FFF;
  const float small = float(magnitude) * 0x1p-24f;
  uint32_t bits;
  std::memcpy(&bits, &small, 4);
  if (magnitude >= 0x400) bits = (magnitude << 13) + (magnitude >= 0x7C00 ? 224u << 23 : 112u << 23);
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline float bfloat_to_float(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// Nearest, ties to even; NaN stays NaN.
inline uint16_t float_to_bfloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

}  // namespace tidemill
