#pragma once
#include <span>
#include <vector>

#include "tensor/row_product.h"

namespace sinter::cuda {

/// What add_products() takes of these products, each part at the next multiple of kBufferAlignment behind the one before: the
/// table, then the factors. These are views of their files where both are f32, f16 or bf16, and otherwise become f32.
std::vector<Tensor> product_table(std::span<const RowProduct> products);

}  // namespace sinter::cuda
