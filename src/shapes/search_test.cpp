#include "shapes/search.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/sha256.h"
#include "shapes/coverage.h"
#include "shapes/run.h"
#include "shapes/test_tools.h"

using namespace sinter;
using namespace sinter::shapes;

namespace {

Pixels noise(int width, int height, uint32_t number, int low, int high) {
  Pixels p{width, height, {}};
  for (int i = 0; i < width * height * 3; ++i) {
    Random random(11, number, 0, uint32_t(i));
    p.rgb.push_back(uint8_t(random.between(low, high)));
  }
  return p;
}

/// The change of the squared error in 1/255^2, pixel by pixel, without rounding what is drawn.
int64_t change_by_pixels(const Pixels& target, const Pixels& canvas, const Shape& s, const Paint& paint) {
  int64_t change = 0;
  for_each_span(s, {target.width, target.height}, [&](int row, int begin, int end) {
    for (int x = begin; x < end; ++x)
      for (int i = 0; i < 3; ++i) {
        size_t at = size_t((row * target.width + x) * 3 + i);
        int64_t c = canvas.rgb[at], before = 255 * (target.rgb[at] - c), after = before - paint.alpha * (paint.color[i] - c);
        change += after * after - before * before;
      }
  });
  return change;
}

Options quick() {
  Options o;
  o.shapes = 20;
  o.candidates = 128, o.climbers = 16, o.mutations = 24;
  o.kinds = kAllKinds;
  o.threads = 1;
  return o;
}

std::string digest(const Result& result) {
  std::string text;
  for (const Step& step : result.steps) {
    const Shape& s = step.shape;
    text += fmt::format("{} {} {} {} {}:", int(s.kind), s.alpha, s.color[0], s.color[1], s.color[2]);
    for (int i = 0; i < s.count; ++i) text += fmt::format(" {},{}", s.points[i].x, s.points[i].y);
    text += fmt::format(" {} {} {}\n", s.width, s.angle, step.error);
  }
  return sha256_hex(text);
}

void check_message(const std::function<void()>& body, Code code, const std::string& words) {
  try {
    body();
    FAIL("no error");
  } catch (const Error& e) {
    CHECK(e.code() == code);
    CHECK(e.message().find(words) != std::string::npos);
  }
}

std::vector<uint32_t> sums_from_row_begin(const Canvas& canvas) {
  const size_t line = size_t(canvas.width() + 1) * kSumLanes;
  std::vector<uint32_t> sums(line * size_t(canvas.height()));
  for (size_t i = 0; i < sums.size(); ++i)
    sums[i] = uint32_t(canvas.table()[i]) - uint32_t(canvas.table()[i / line * line + i % kSumLanes]);
  return sums;
}

}  // namespace

TEST_CASE("the change of the error from running sums is that of going through the pixels") {
  ThreadPool pool(1);
  Pixels target = test_pixels(61, 40);
  Canvas canvas(target, {90, 120, 30});
  for (uint32_t i = 0; i < 30; ++i) {  // a canvas with some history
    Random random(7, 0, 0, i);
    Shape s = wild_shape(random, Kind(i % kKinds), 61, 40);
    s.alpha = uint8_t(random.between(1, 255));
    for (auto& c : s.color) c = uint8_t(random.below(256));
    canvas.draw(s, pool);
    CHECK(canvas.error() == squared_error(target, canvas.pixels()));
  }
  Options options;
  options.alpha = {1, 255};
  Search search(canvas, options, pool, Simd::scalar);
  int64_t wrong = 0, covered = 0;
  for (uint32_t i = 0; i < 5000; ++i) {
    Random random(8, 0, 0, i);
    Shape s = wild_shape(random, Kind(i % kKinds), 61, 40);
    Paint paint = search.paint(s, 0);
    wrong += paint.change != change_by_pixels(target, canvas.pixels(), s, paint);
    covered += paint.alpha != 0;
  }
  CHECK(wrong == 0);
  CHECK(covered > 2500);
}

TEST_CASE("a shape that does not help leaves no trace, and one that helps is drawn as ever, with any number of threads") {
  const Pixels target = test_pixels(150, 90);
  for (int threads : {1, 4}) {
    ThreadPool pool(threads);
    Canvas canvas(target, {90, 120, 30}), plain = Canvas(target, {90, 120, 30});
    int drawn = 0, refused = 0;
    for (uint32_t i = 0; i < 400; ++i) {
      Random random(12, 0, 0, i);
      Shape s = wild_shape(random, Kind(i % kKinds), 150, 90);
      s.alpha = uint8_t(random.between(1, 255));
      for (auto& c : s.color) c = uint8_t(random.below(256));
      Pixels with = canvas.pixels();
      draw(with, s);
      const bool helps = squared_error(with, target) < canvas.error();
      CHECK(canvas.draw_if_better(s, pool) == helps);
      if (helps) plain.draw(s, pool);
      (helps ? drawn : refused) += 1;
      CHECK(canvas.error() == plain.error());
    }
    CHECK(drawn > 20);
    CHECK(refused > 20);
    CHECK(canvas.pixels() == plain.pixels());
    CHECK(sums_from_row_begin(canvas) == sums_from_row_begin(plain));
    Scene a, b;
    canvas.describe(a), plain.describe(b);
    CHECK(std::equal(a.map, a.map + a.cells, b.map, b.map + b.cells));
  }
}

TEST_CASE("no other colour is better, and hardly any other alpha") {
  ThreadPool pool(1);
  Pixels target = noise(40, 40, 0, 100, 150);
  Canvas canvas(target, {120, 120, 120});
  for (uint32_t i = 0; i < 20; ++i) {
    Random random(9, 0, 0, i);
    Shape s = wild_shape(random, Kind::triangle, 40, 40);
    s.alpha = 128;
    for (auto& c : s.color) c = uint8_t(random.between(80, 170));
    canvas.draw(s, pool);
  }
  Options options;
  options.alpha = {60, 200};
  Search search(canvas, options, pool, Simd::scalar);
  for (uint32_t i = 0; i < 200; ++i) {
    Random random(10, 0, 0, i);
    Shape s = wild_shape(random, Kind::quadrilateral, 40, 40);
    Paint best = search.paint(s, 0);
    if (best.alpha == 0) continue;
    for (int channel = 0; channel < 3; ++channel)
      for (int step : {-1, 1}) {
        Paint other = best;
        if (int(best.color[channel]) + step < 0 || int(best.color[channel]) + step > 255) continue;
        other.color[channel] = uint8_t(int(best.color[channel]) + step);
        CHECK(change_by_pixels(target, canvas.pixels(), s, other) >= best.change);
      }
    for (int alpha = 60; alpha <= 200; alpha += 7) {
      Options fixed;
      fixed.alpha = {uint8_t(alpha), uint8_t(alpha)};
      Paint other = Search(canvas, fixed, pool, Simd::scalar).paint(s, 0);
      int64_t pixels = 0;
      for_each_span(s, {40, 40}, [&](int, int begin, int end) { pixels += end - begin; });
      // A whole-numbered colour is off by half a level in each of three channels at most.
      CHECK(best.change <= other.change + 3 * pixels * 200 * 200 / 4);
    }
  }
}

TEST_CASE("sums over the largest rows do not overflow") {
  ThreadPool pool(1);
  const int width = 2048, height = 32;
  for (uint8_t shade : {uint8_t(0), uint8_t(255)}) {
    Pixels target{width, height, std::vector<uint8_t>(size_t(width) * height * 3, shade)};
    Canvas canvas(target, {uint8_t(255 - shade), uint8_t(255 - shade), uint8_t(255 - shade)});
    Shape all{.kind = Kind::rectangle, .count = 2, .points = {{0, 0}, {width * 16, height * 16}}};
    Options options;
    options.alpha = {255, 255};
    for (Simd simd : {Simd::scalar, Simd::avx2, Simd::avx512}) {
      if (simd > widest_simd()) continue;
      Paint paint = Search(canvas, options, pool, simd).paint(all, 0);
      CHECK(paint.color[0] == shade);
      CHECK(paint.change == -int64_t(width) * height * 3 * 255 * 255 * 255 * 255);
    }
  }
}

TEST_CASE("threads and vector instructions change nothing") {
  Image image = test_image();
  Options options = quick();
  Result one = run_with(Simd::scalar, image, options);
  CHECK(one.steps.size() == 20);
  for (int threads : {1, 3, 4})
    for (Simd simd : {Simd::scalar, Simd::avx2, Simd::avx512}) {
      if (simd > widest_simd()) continue;
      options.threads = threads;
      Result other = run_with(simd, image, options);
      CHECK(other.steps == one.steps);
      CHECK(other.candidates == one.candidates);
    }
}

TEST_CASE("annealing finds other shapes, no worse ones, and the same with any number of threads") {
  Image image = test_image();
  Options options = quick();
  const Result plain = run(image, options);
  options.anneal = true;
  const Result annealed = run(image, options);
  CHECK(annealed.steps != plain.steps);
  CHECK(annealed.candidates == plain.candidates);
  CHECK(score(annealed) < 1.03 * score(plain));
  for (int threads : {2, 4}) {
    options.threads = threads;
    CHECK(run(image, options).steps == annealed.steps);
  }
  options.climbers = 1, options.threads = 1;  // one round, which begins and anneals
  const Result one = run(image, options);
  options.threads = 3;
  CHECK(run(image, options).steps == one.steps);
}

TEST_CASE("a change may be worse by 1/128 of what the best shape brings, by less from try to try, by nothing without one") {
  CHECK(allowed_loss(-128 * 1000, 10, 0) == 1000);
  CHECK(allowed_loss(-128 * 1000, 10, 9) == 100);
  CHECK(allowed_loss(0, 10, 0) == 0);
  CHECK(allowed_loss(500, 10, 0) == 0);
  CHECK(allowed_loss(-(int64_t(1) << 56), 100'000, 0) > 0);  // the largest there is
}

TEST_CASE("the search finds what it has always found") {
  // A change of this digest changes everybody's pictures: say so where it is made.
  CHECK(digest(run(test_image(), quick())) == "bbd745ad8cb3ce4b6896c9aa5830469623a370782be19d1e2729da1a0bc36efb");
}

TEST_CASE("seeds, and only what matters, change the shapes") {
  Image image = test_image();
  Options options = quick();
  Result first = run(image, options);
  options.time_budget = 1e6;
  CHECK(run(image, options).steps == first.steps);
  options.seed = uint64_t(1) << 40;
  CHECK(run(image, options).steps != first.steps);
}

TEST_CASE("every step lowers the error, and the drawn result has it") {
  for (Kind kind : {Kind::triangle, Kind::rotated_ellipse, Kind::polyline}) {
    Image image = test_image();
    Options options = quick();
    options.kinds = kind_bit(kind);
    Result result = run(image, options);
    uint64_t before = result.start_error;
    for (const Step& step : result.steps) {
      CHECK(step.error < before);
      CHECK(step.shape.kind == kind);
      check(step.shape);
      before = step.error;
    }
    CHECK(squared_error(draw(result), compute_picture(image, options)) == result.error());
    CHECK(score(result) < 0.7 * score(result.start_error, result.width, result.height));
  }
}

TEST_CASE("an explicit alpha is kept, a style is a range") {
  Options options = quick();
  options.alpha = {77, 77};
  for (const Step& step : run(test_image(), options).steps) CHECK(step.shape.alpha == 77);
  options.alpha = parse_style("crispy");
  for (const Step& step : run(test_image(), options).steps) CHECK((step.shape.alpha >= 198 && step.shape.alpha <= 236));
}

TEST_CASE("a result that is resumed becomes that of one run") {
  Image image = test_image();
  Options options = quick();
  Result whole = run(image, options);
  options.shapes = 7;
  Result part = run(image, options);
  options.shapes = 13;
  Result rest = run(image, options, &part);
  CHECK(rest.steps == whole.steps);
  CHECK(rest.start_error == whole.start_error);
  CHECK(rest.candidates == whole.candidates);

  check_message([&] { run(test_image(96, 70), options, &part); }, Code::InvalidArgument, "compute picture of 96 x 64");
  Pixels other = test_pixels(96, 64);
  other.rgb[5] ^= 64;
  check_message([&] { run(image_of(other), options, &part); }, Code::InvalidArgument, "another picture");
}

TEST_CASE("a run ends early for a target, for a budget, when told to, and when nothing helps") {
  Options options = quick();
  Result whole = run(test_image(), options);
  options.target_error = score(whole.steps[9].error, whole.width, whole.height) + 1e-12;
  Result some = run(test_image(), options);
  CHECK(some.stop == Stop::target_error);
  CHECK(some.steps.size() == 10);

  options = quick();
  options.time_budget = 1e-9;
  Result soon = run(test_image(), options);
  CHECK(soon.stop == Stop::time_budget);
  CHECK(soon.steps.size() <= 1);

  options = quick();
  Result told = run(test_image(), options, nullptr, [](const Progress& p) { return p.done < 5; });
  CHECK(told.stop == Stop::cancelled);
  CHECK(told.steps.size() == 5);

  Pixels even{30, 20, std::vector<uint8_t>(30 * 20 * 3, 99)};
  int calls = 0;
  Result nothing = run(image_of(even), options, nullptr, [&](const Progress& p) {
    ++calls;
    return p.preview;
  });
  CHECK(nothing.stop == Stop::no_improvement);
  CHECK(nothing.steps.empty());
  CHECK(nothing.error() == 0);
  CHECK(calls == 1);
}

TEST_CASE("the callback hears of every shape and is asked for about twenty previews") {
  Options options = quick();
  options.shapes = 60;
  int calls = 0, previews = 0;
  bool last = false;
  run(test_image(), options, nullptr, [&](const Progress& p) {
    ++calls;
    CHECK(p.done == calls);
    CHECK(p.total == 60);
    CHECK(p.result->steps.size() == size_t(calls));
    previews += p.preview;
    last = p.preview;
    return true;
  });
  CHECK(calls == 60);
  CHECK(previews == 20);
  CHECK(last);
}

TEST_CASE("pictures of one pixel, one row and one column have results") {
  for (auto [width, height] : {std::pair{1, 1}, {1, 50}, {50, 1}, {2, 3}, {700, 3}}) {
    Options options = quick();
    options.fill_auto = false;
    options.fill = {10, 20, 200};
    Result result = run(test_image(width, height), options);
    CAPTURE(width);
    CAPTURE(height);
    CHECK(result.source_width == width);
    CHECK(result.width == std::min(width, 256));
    CHECK(result.error() < result.start_error);
    CHECK(!result.steps.empty());
  }
}

TEST_CASE("options at their ends work, and beyond them say what is allowed") {
  Image image = test_image(40, 30);
  Options least;
  least.shapes = 1, least.candidates = 1, least.climbers = 1, least.mutations = 1, least.alpha = {1, 1}, least.threads = 1;
  CHECK(run(image, least).candidates >= 2);
  Options wide;
  wide.shapes = 1, wide.climbers = 4096, wide.mutations = 1, wide.candidates = 1, wide.alpha = {255, 255};
  CHECK(run(image, wide).steps.size() == 1);
  Options big;
  big.shapes = 2, big.compute_size = 2048, big.kinds = kAllKinds;
  CHECK(run(test_image(2100, 1000), big).width == 2048);

  auto refused = [&](auto change, const std::string& words) {
    Options o;
    change(o);
    check_message([&] { run(image, o); }, Code::InvalidArgument, words);
  };
  refused([](Options& o) { o.shapes = 0; }, "shapes is 0, but must lie within 1 and 100000");
  refused([](Options& o) { o.compute_size = 63; }, "compute_size is 63");
  refused([](Options& o) { o.compute_size = 2049; }, "compute_size is 2049");
  refused([](Options& o) { o.climbers = 4097; }, "climbers is 4097");
  refused([](Options& o) { o.mutations = -1; }, "mutations is -1");
  refused([](Options& o) { o.target_error = std::nan(""); }, "target_error is nan");
  refused([](Options& o) { o.kinds = 0; }, "kinds");
  refused([](Options& o) { o.alpha = {9, 8}; }, "alpha is 9..8");
  refused([](Options& o) { o.alpha = {0, 8}; }, "alpha is 0..8");
  check_message([] { parse_kinds("triangle,cube"); }, Code::InvalidArgument, "no kind of shape \"cube\"; known are triangle, ");
  check_message([] { parse_style("loud"); }, Code::InvalidArgument, "known are crispy, dreamy and blurry");
  CHECK(parse_kinds("triangle,ellipse") == (kind_bit(Kind::triangle) | kind_bit(Kind::ellipse)));
  CHECK(parse_kinds("mixed") == kMixedKinds);
}

TEST_CASE("shapes from outside are checked before anything is drawn") {
  Shape good{.kind = Kind::line, .alpha = 9, .count = 2, .points = {{0, 0}, {9, 9}}, .width = 4};
  check(good);
  auto refused = [&](auto change, const std::string& words) {
    Shape s = good;
    change(s);
    check_message([&] { check(s); }, Code::InvalidArgument, words);
  };
  refused([](Shape& s) { s.kind = Kind(40); }, "unknown kind 40");
  refused([](Shape& s) { s.count = 3; }, "a line has 3 points");
  refused([](Shape& s) { s.points[1].x = kCoordinateLimit + 1; }, "point 1 of a line");
  refused([](Shape& s) { s.width = 0; }, "the width of a line is 0");
  refused([](Shape& s) { s.angle = kTurn; }, "the angle");
  refused([](Shape& s) { s.alpha = 0; }, "the alpha");
  refused([](Shape& s) { s.kind = Kind::circle, s.points[1] = {5, 6}; }, "radii 5 and 6");
  refused([](Shape& s) { s.kind = Kind::ellipse, s.points[1] = {0, 6}; }, "point 1 of a ellipse");
}

TEST_CASE("the search scores alike at twice the size") {
  Options options = quick();
  options.shapes = 60;
  options.kinds = kMixedKinds;
  options.compute_size = 96;
  Pixels coarse = test_pixels(48, 32), fine{192, 128, {}};  // detail that neither size loses
  for (int i = 0; i < 192 * 128 * 3; ++i)
    fine.rgb.push_back(coarse.rgb[size_t((i / (192 * 3) / 4 * 48 + i / 3 % 192 / 4) * 3 + i % 3)]);
  Image image = image_of(fine);
  double small = score(run(image, options));
  options.compute_size = 192;
  double large = score(run(image, options));
  CHECK(large < 1.1 * small);
}
