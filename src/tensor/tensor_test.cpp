#include "tensor/tensor.h"

#include <doctest/doctest.h>

#include <cstring>

using namespace sinter;

TEST_CASE("a conversion to the type that a tensor has shares the data only where they are aligned") {
  const float values[] = {1, -2, 3};
  auto memory = std::make_shared<std::vector<std::byte>>(64);
  for (size_t shift : {0, 1, 2, 3, 4}) {
    CAPTURE(shift);
    std::memcpy(memory->data() + shift, values, sizeof values);
    Tensor view(DType::f32, {3}, memory->data() + shift, memory), same = view.to(DType::f32);
    CHECK((same.data() == view.data()) == (shift % sizeof(float) == 0));
    CHECK(std::vector<float>(same.f32().begin(), same.f32().end()) == std::vector<float>{1, -2, 3});
  }
}
