#include "backends/cuda/product_table.h"

#include <cstring>

#include "backends/cuda/kernels/element_types.h"
#include "backends/cuda/kernels/row_product_arguments.h"
#include "backends/cuda/schedules.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

int factor_type(DType type) { return type == DType::f16 ? device::kF16 : type == DType::bf16 ? device::kBf16 : device::kF32; }

}  // namespace

std::vector<Tensor> product_table(std::span<const RowProduct> products) {
  std::vector<device::RowProductArguments> lines;
  std::vector<Tensor> parts(1);
  int64_t end = round_up(int64_t(products.size() * sizeof(device::RowProductArguments)), kBufferAlignment);
  parts[0] = Tensor(DType::u8, {end});
  auto place = [&](const Tensor& factor, DType type) {
    parts.push_back(factor.to(type));
    const int64_t at = end;
    end = round_up(end + parts.back().bytes(), kBufferAlignment);
    return at;
  };
  for (const RowProduct& p : products) {
    const DType given = p.up.dtype();
    const DType type = given == p.down.dtype() && (given == DType::f16 || given == DType::bf16) ? given : DType::f32;
    device::RowProductArguments line{.begin = p.begin, .end = p.end, .inner = p.inner(), .factor = p.factor};
    line.type = factor_type(type);
    line.up = place(p.up, type);
    line.down = place(p.down, type);
    lines.push_back(line);
  }
  std::memcpy(parts[0].data(), lines.data(), lines.size() * sizeof lines[0]);
  return parts;
}

}  // namespace sinter::cuda
