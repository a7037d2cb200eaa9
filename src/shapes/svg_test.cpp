#include "shapes/svg.h"

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>

#include "base/file.h"
#include "io/image.h"
#include "shapes/render.h"
#include "shapes/render_test_help.h"
#include "temporary_folder.h"

using namespace sinter;
using namespace sinter::shapes;

namespace {

/// Whether a program of this name can be started.
bool has_program(const std::string& name) { return std::system(("command -v " + name + " > /dev/null 2>&1").c_str()) == 0; }

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++found;
  return found;
}

}  // namespace

TEST_CASE("an SVG has one element for each shape after its background, in few bytes") {
  Result result = random_result(256, 192, 20, 1);
  std::string text = svg(result, 1024, 768);
  CHECK(text.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1024\" height=\"768\" viewBox=\"0 0 4096 3072\""));
  CHECK(count(text, "<path ") + count(text, "<circle ") + count(text, "<ellipse ") == result.steps.size());
  CHECK(count(text, "<rect ") == 1);
  CHECK(text.size() < result.steps.size() * 130);
}

TEST_CASE("numbers of an SVG are short, and opacities are right to a quarter of a level") {
  Result result;
  result.width = result.height = 16;
  result.fill = {255, 255, 255};
  Shape s;
  s.kind = Kind::rotated_ellipse;
  s.count = 2;
  s.points[0] = {-8, 100};
  s.points[1] = {30, 20};
  s.angle = kTurn / 4;
  s.alpha = 128;
  s.color[0] = 0x11, s.color[1] = 0x22, s.color[2] = 0x34;
  result.steps = {{s, 0}};
  std::string text = svg(result, 16, 16);
  CHECK(text.find(
            "<ellipse rx=\"30\" ry=\"20\" transform=\"translate(-8 100)rotate(90)\" fill=\"#112234\" fill-opacity=\".502\"/>") !=
        text.npos);
  CHECK(text.find("fill=\"#fff\"") != text.npos);
}

TEST_CASE("xmllint takes an SVG, and rsvg-convert draws the picture that we draw") {
  TemporaryFolder folder;
  std::string in_folder = "cd " + folder.path().string() + " && ";
  ThreadPool pool(1);
  for (int kind = 0; kind < kKinds; ++kind) {
    Result result = random_result(120, 90, 4, uint32_t(kind + 1));
    std::erase_if(result.steps, [&](const Step& step) { return step.shape.kind != Kind(kind); });
    constexpr int64_t kWidth = 481, kHeight = 359;  // not quite four times as large
    write_atomically(folder / "a.svg", svg(result, kWidth, kHeight));
    if (has_program("xmllint")) CHECK(std::system((in_folder + "xmllint --noout a.svg").c_str()) == 0);
    if (!has_program("rsvg-convert")) {
      MESSAGE("skipped: rsvg-convert not found");
      return;
    }
    REQUIRE(std::system((in_folder + "rsvg-convert a.svg -o a.png").c_str()) == 0);
    Tensor theirs = image_bytes(read_image(folder / "a.png").pixels), ours = render(result, kWidth, kHeight, pool);
    REQUIRE(theirs.shape() == ours.shape());
    double sum = 0;
    int64_t far = 0;
    for (int64_t i = 0; i < ours.bytes(); ++i) {
      int off = std::abs(int(ours.data()[i]) - int(theirs.data()[i]));
      sum += off;
      far += off > 32;
    }
    CAPTURE(kind_name(Kind(kind)));
    CHECK(sum / double(ours.bytes()) < 0.5);             // of 255 levels
    CHECK(double(far) / double(ours.bytes()) < 0.0005);  // edges that the two smooth in other ways
  }
}
