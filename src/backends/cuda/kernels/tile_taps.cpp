#include "backends/cuda/kernels/tile_taps.h"

#include "base/error.h"

namespace sinter::cuda {

std::string why_no_tile_taps(const TileWindowCall& c, const DeviceInfo& device) {
  if (c.doubles || c.shortcut.c) return "tile taps make no results of twice the size, and no shortcuts";
  if (std::string why = why_no_taps(c); !why.empty()) return why;
  return why_no_tile_product(taps_product(c), device);
}

std::vector<int> tile_taps_forms() {
  std::vector<int> forms;
  for (int form = 0; form < int(tile_forms().size()); ++form)
    if (!tile_forms()[size_t(form)].gated) forms.push_back(form);
  return forms;
}

double tile_taps_share(const TileWindowCall& c, int form, int multiprocessors) {
  return tile_share(taps_product(c), form, multiprocessors) * taps_used(c);
}

std::string tile_taps_module(int form, DType type) {
  return fmt::format("tile_taps_{}_{}", tile_forms()[size_t(form)].columns, name(type));
}

TileTaps tile_taps_without_maps(const TileWindowCall& c, int form, int multiprocessors) {
  const TileProduct product = tile_product_without_maps(taps_product(c), form, multiprocessors);
  return {.kernel = tile_taps_module(form, c.type) + "__plain",
          .shape = product.shape,
          .operands = taps_operands(c, tile_forms()[size_t(form)].columns / 2),
          .product = product.arguments,
          .taps = taps_arguments(c)};
}

TileTaps tile_taps(const TileWindowCall& call, int form, int multiprocessors) {
  TileTaps made = tile_taps_without_maps(call, form, multiprocessors);
  describe(made.operands);
  return made;
}

}  // namespace sinter::cuda
