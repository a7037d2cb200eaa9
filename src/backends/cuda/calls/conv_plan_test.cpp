#include <doctest/doctest.h>

#include <limits>

#include "backends/cuda/calls/attention.h"
#include "backends/cuda/calls/conv.h"
#include "backends/cuda/calls/tuning.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

TEST_CASE("sizes of a strided convolution padded on one side are those of the formula") {
  ConvAxis encoder{.in = 512, .kernel = 3, .stride = 2, .pad_before = 0, .pad_after = 1};
  CHECK(encoder.out() == 256);
  CHECK(ConvAxis{.in = 17, .stride = 2}.out() == 9);
  CHECK(ConvAxis{.in = 5, .kernel = 3, .pad_before = 2, .pad_after = 0}.out() == 5);
  ConvShape s{.n = 2, .c = 4, .out_c = 8, .axes = {{.in = 6}, {.in = 5}}};
  CHECK(s.out_pixels() == 60);
  CHECK(s.flops() == 2.0 * 60 * 8 * 4 * 9);
}

TEST_CASE("only what a pass over the result can do is left out of a plain convolution") {
  ConvShape s{.n = 1, .c = 128, .out_c = 128, .axes = {{.in = 512}, {.in = 512}}, .bias = true, .residual = true, .silu = true};
  CHECK(s.plain().text() == ConvShape{.n = 1, .c = 128, .out_c = 128, .axes = s.axes, .bias = true}.text());
  s.doubles = true;
  CHECK_FALSE(s.plain().bias);
  CHECK(s.plain().doubles);
  CHECK(s.plain().plain() == s.plain());
}

TEST_CASE("where nothing is timed, residuals of large results are cuDNN's to add, and no bias of a doubled one is") {
  ConvShape s{.n = 1, .c = 128, .out_c = 128, .axes = {{.in = 512}, {.in = 512}}, .bias = true, .residual = true};
  CHECK(one_kernel_should_win(s));
  s.axes[0].in = 256;
  CHECK_FALSE(one_kernel_should_win(s));
  s.residual = false, s.doubles = true;
  CHECK_FALSE(one_kernel_should_win(s));
}

TEST_CASE("two convolutions or attentions with the same name are the same") {
  ConvShape base{.n = 2, .c = 4, .out_c = 8, .axes = {{.in = 6}, {.in = 5}}};
  auto differs = [&](auto change) {
    ConvShape other = base;
    change(other);
    CHECK(other.text() != base.text());
  };
  differs([](ConvShape& s) { s.n = 1; });
  differs([](ConvShape& s) { s.c = 5; });
  differs([](ConvShape& s) { s.out_c = 9; });
  differs([](ConvShape& s) { std::swap(s.axes[0], s.axes[1]); });
  differs([](ConvShape& s) { s.axes[0].stride = 2; });
  differs([](ConvShape& s) { s.axes[0].pad_before = 0; });
  differs([](ConvShape& s) { s.axes[1].pad_after = 0; });
  differs([](ConvShape& s) { s.axes[1].dilation = 2; });
  differs([](ConvShape& s) { s.axes[1].kernel = 2; });
  differs([](ConvShape& s) { s.type = DType::f16; });
  differs([](ConvShape& s) { s.bias = true; });
  differs([](ConvShape& s) { s.residual = true; });
  differs([](ConvShape& s) { s.silu = true; });
  differs([](ConvShape& s) { s.allow_tf32 = true; });
  AttentionShape a{.queries = 8, .keys = 8, .d = 64}, other = a;
  other.k.t = 3;
  CHECK(a.text() != other.text());
  other = a;
  other.causal = true;
  CHECK(a.text() != other.text());
  other = a;
  other.bias = AttentionBias{};
  CHECK(a.text() != other.text());
}

TEST_CASE("the first of several equally fast candidates is chosen, and none where all failed") {
  const double never = std::numeric_limits<double>::infinity();
  CHECK(best_candidate({10.05, 10, 9.99}) == 0);
  CHECK(best_candidate({12, never, 9, 9.05}) == 2);
  CHECK(best_candidate({never, never}) == -1);
  CHECK(best_candidate({}) == -1);
}

}  // namespace
}  // namespace sinter::cuda
