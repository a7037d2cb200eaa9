#include "backends/cuda/kernels/tile_attention.h"

#include <algorithm>
#include <array>
#include <limits>
#include <span>

#include "backends/cuda/kernels/tensor_map.h"
#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kRows = device::kAttentionRows;

/// Registers allow three warpgroups where sums and scores of a thread are at most 96, four where they are at most 84. Of what
/// they and shared memory allow, the fastest (bench/NOTES.md).
constexpr std::array<device::TileAttentionForm, 5> kAny = {{{40, 4}, {64, 3}, {80, 2}, {128, 3, 64}, {160, 2, 64}}};
constexpr std::array<device::TileAttentionForm, 3> kFew = {
    {{40, 4, device::kFewKeys}, {64, 4, device::kFewKeys}, {80, 3, device::kFewKeys}}};

std::span<const device::TileAttentionForm> forms_of(TileKind kind) {
  return kind == TileKind::Few ? std::span<const device::TileAttentionForm>(kFew) : kAny;
}
int widest(TileKind kind) { return forms_of(kind).back().d; }

/// Null where heads are wider than all.
const device::TileAttentionForm* form_of(const AttentionCall& c, TileKind kind) {
  const auto forms = forms_of(kind);
  auto form = std::find_if(forms.begin(), forms.end(), [&](const auto& f) { return f.d >= c.d; });
  return form == forms.end() ? nullptr : &*form;
}

/// What a block's time for a group of so many tiles is, in units of one tile among three; besides, what every group costs.
constexpr std::array<double, 5> kTimeOfWidth = {0, 1.6, 2.2, 3, 3.8};
constexpr double kTimeOfGroup = 0.1;

/// The time of the busiest block.
double time_of(const device::TileAttentionOrder& order, int multiprocessors) {
  const int groups = order.groups(), blocks = std::min(groups, multiprocessors);
  double most = 0;
  for (int block = 0; block < blocks; ++block) {
    double time = 0;
    for (int g = block; g < groups; g += blocks) time += kTimeOfWidth[size_t(order.group(g).width)] + kTimeOfGroup;
    most = std::max(most, time);
  }
  return most;
}

/// Columns, heads, tokens and entries, copied 64 columns of a head and `box_rows` tokens at a time.
TiledArray heads(const AttentionCall& c, DevicePtr at, const HeadStrides& strides, int64_t tokens, int64_t box_rows) {
  // The stride of a size of 1 means nothing, but must be one.
  const int64_t row = strides.t && tokens > 1 ? strides.t : c.d;
  return {.at = at,
          .type = c.type,
          .sizes = {c.d, c.heads, tokens, c.b},
          .strides = {c.heads > 1 ? strides.h : row, row, c.b > 1 ? strides.b : row},
          .box = {64, 1, box_rows, 1}};
}

}  // namespace

std::string why_no_tile_attention(const AttentionCall& c, TileKind kind, const DeviceInfo& device) {
  if (device.capability() != 90)
    return fmt::format("tile attention is for capability 9.0, and {} has {}", device.name, device.capability());
  if (device.cuda_version < 12000) return "tile attention needs a driver for CUDA 12.0";
  if (c.type != DType::bf16 && c.type != DType::f16) return fmt::format("there is no tile attention of {}", name(c.type));
  if (c.causal || c.bias) return "tile attention has neither mask nor bias";
  if (c.d < 1 || !form_of(c, kind)) return fmt::format("heads of {} are wider than {}", c.d, widest(kind));
  if (!lies_in_chunks(c)) return "heads are no whole pieces of 16 bytes";
  if (c.keys < 1 || c.queries < 1 || c.heads < 1 || c.b < 1) return "attention over nothing";
  if (kind == TileKind::Few && c.keys > device::kFewKeys) return fmt::format("{} keys are not few", c.keys);
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 4;
  if (std::max(c.keys, c.heads * c.b * divide_up(c.queries, kRows)) > kMost) return "too large for tile attention";
  for (const auto& [strides, tokens] : {std::pair{c.q_strides, c.queries}, {c.k_strides, c.keys}, {c.v_strides, c.keys}}) {
    // As the driver describes them: bytes below 2^40.
    constexpr int64_t kMostStride = int64_t(1) << 38;
    for (const auto& [size, stride] : {std::pair{c.b, strides.b}, {tokens, strides.t}, {c.heads, strides.h}})
      if (size > 1 && (stride < 1 || stride > kMostStride)) return fmt::format("tile attention has no strides of {}", stride);
  }
  return {};
}

const device::TileAttentionForm& tile_attention_form(const AttentionCall& c, TileKind kind) { return *form_of(c, kind); }

std::string tile_attention_module(const AttentionCall& c, TileKind kind) {
  const char* which = kind == TileKind::Few ? "_few" : "";
  return fmt::format("tile_attention{}_{}_{}", which, form_of(c, kind)->d, name(c.type));
}
std::string tile_attention_kernel(const AttentionCall& c, TileKind kind) { return tile_attention_module(c, kind) + "__attend"; }

device::TileAttentionOrder tile_attention_order(int64_t heads, int64_t queries, int makers, int multiprocessors) {
  const int64_t tiles = divide_up(queries, kRows), fewest = divide_up(tiles, makers);
  const int64_t most = std::min(tiles, std::max(2 * fewest, divide_up(multiprocessors, heads)));
  device::TileAttentionOrder best;
  double least = 0;
  for (int64_t groups = fewest; groups <= most; ++groups) {
    const int64_t width = divide_up(tiles, groups);
    const auto split = [&](int64_t count, int64_t into) {
      const int64_t wide = tiles - into * (width - 1);
      return device::TileAttentionOrder::Heads{int(count), int(wide), int(into - wide)};
    };
    const auto consider = [&](int64_t split_further) {
      const device::TileAttentionOrder order{int(width), split(heads - split_further, groups), split(split_further, groups + 1)};
      const double time = time_of(order, multiprocessors);
      if (best.width == 0 || time < least) best = order, least = time;
    };
    consider(0);
    // Where some blocks have a group less than others, as many heads have one more.
    const int64_t idle = divide_up(groups * heads, multiprocessors) * multiprocessors - groups * heads;
    if (groups < tiles && (groups + 1) * (width - 1) <= tiles) consider(std::min(idle, heads));
  }
  return best;
}

TileAttention tile_attention_without_maps(const AttentionCall& c, TileKind kind, int multiprocessors) {
  const device::TileAttentionForm& form = tile_attention_form(c, kind);
  TileAttention made;
  made.kernel = tile_attention_kernel(c, kind);
  made.maps = {};
  made.q = heads(c, c.q, c.q_strides, c.queries, kRows);
  made.k = heads(c, c.k, c.k_strides, c.keys, form.keys);
  made.v = heads(c, c.v, c.v_strides, c.keys, form.keys);
  made.arguments.out = device_arguments(c).out;
  made.arguments.heads = int(c.heads), made.arguments.d = int(c.d);
  made.arguments.queries = int(c.queries), made.arguments.keys = int(c.keys);
  made.arguments.scale = c.scale;
  const int64_t heads_of_all = c.heads * c.b;
  int64_t shares = 0;
  if (kind == TileKind::Few) {  // of single tiles, not groups
    made.arguments.order.first.count = int(heads_of_all);
    shares = heads_of_all * divide_up(c.queries, kRows);
  } else {
    made.arguments.order = tile_attention_order(heads_of_all, c.queries, form.makers, multiprocessors);
    shares = made.arguments.order.groups();
  }
  made.shape = {.grid = {uint32_t(std::min<int64_t>(shares, multiprocessors))},
                .block = {uint32_t(form.threads())},
                .shared_bytes = uint32_t(form.shared_bytes())};
  return made;
}

TileAttention tile_attention(const AttentionCall& c, TileKind kind, int multiprocessors) {
  TileAttention made = tile_attention_without_maps(c, kind, multiprocessors);
  describe(made.maps.q, made.q);
  describe(made.maps.k, made.k);
  describe(made.maps.v, made.v);
  return made;
}

}  // namespace sinter::cuda
