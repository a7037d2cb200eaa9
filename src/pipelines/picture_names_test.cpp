#include "pipelines/picture_names.h"

#include <doctest/doctest.h>

#include "base/file.h"
#include "refusal.h"
#include "temporary_folder.h"

using namespace sinter;

TEST_CASE("names of pictures: the seed, the next free number, or a number behind the name where there are several") {
  TemporaryFolder folder;
  std::string pattern = (folder / "s{seed}_{index}.png").string();
  CHECK(next_picture_name(pattern, 7, 0, false) == folder / "s7_00001.png");
  write_atomically(folder / "s7_00001.png", "x");
  write_atomically(folder / "s7_00003.png", "x");
  CHECK(next_picture_name(pattern, 7, 0, true) == folder / "s7_00002.png");
  CHECK(next_picture_name(pattern, 8, 5, true) == folder / "s8_00001.png");
  CHECK(next_picture_name("{seed}{seed}.webp", 18446744073709551615u, 0, false) ==
        "1844674407370955161518446744073709551615.webp");
  CHECK(next_picture_name("a/b.c.jpg", 1, 0, false) == "a/b.c.jpg");
  CHECK(next_picture_name("a/b.c.jpg", 1, 0, true) == "a/b.c_00001.jpg");
  CHECK(next_picture_name("a/b.c.jpg", 1, 11, true) == "a/b.c_00012.jpg");
}

TEST_CASE("a name under which no picture can be written is refused with the reason") {
  TemporaryFolder folder;
  auto said = [&](const std::string& name) { return refusal([&] { check_picture_name((folder / name).string()); }); };
  for (const char* good : {"a.png", "a{index}.jpg", "a.jpeg", "a.webp"}) CHECK(said(good) == "accepted");
  CHECK(refusal([] { check_picture_name("a.png"); }) == "accepted");
  CHECK(contains(said("a.gif"), ".png, .jpg, .jpeg or .webp"));
  CHECK(contains(said("png"), ".png, .jpg, .jpeg or .webp"));
  CHECK(contains(said("none/a.png"), "does not exist"));
  CHECK(contains(said(std::string(252, 'a') + ".png"), "256 bytes"));
  CHECK(said(std::string(251, 'a') + ".png") == "accepted");
  std::filesystem::create_directory(folder / "f.png");
  CHECK(contains(said("f.png"), "is a folder"));
}

TEST_CASE("a resized picture keeps an even colour, means what it shrinks, and goes straight between what it enlarges") {
  Tensor even(DType::f32, {5, 9, 3});
  std::ranges::fill(even.f32(), 0.25f);
  Tensor bigger = resized(even, 16, 24);
  REQUIRE(bigger.shape() == std::vector<int64_t>{16, 24, 3});
  for (float v : bigger.f32()) CHECK(v == doctest::Approx(0.25));

  Tensor slope(DType::f32, {8, 64, 3});
  for (int64_t i = 0; i < slope.count(); ++i) slope.f32()[size_t(i)] = float(i / 3 % 64) / 63;
  for (int64_t width : {8, 16, 200}) {
    CAPTURE(width);
    Tensor other = resized(slope, 8, width);
    double sum = 0;
    for (float v : other.f32()) sum += v;
    CHECK(sum / double(other.count()) == doctest::Approx(0.5));
    for (int64_t x = 1; x < width; ++x) CHECK(other.f32()[size_t(3 * x)] >= other.f32()[size_t(3 * (x - 1))]);
  }
  CHECK(resized(slope, 8, 64).data() == slope.data());
}
