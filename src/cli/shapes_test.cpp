// `sinter shapes` in processes of its own: what it writes, how it fails, how it ends early.
#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "cli.h"
#include "hardware/device_choice.h"
#include "io/image.h"
#include "shapes/json.h"
#include "shapes/render.h"
#include "shapes/svg.h"
#include "temporary_folder.h"

namespace fs = std::filesystem;
using namespace sinter;
using nlohmann::json;

namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A sun over a hill.
Tensor scene(int64_t width, int64_t height) {
  Tensor out(DType::f32, {height, width, 3});
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      double u = double(x) / double(width), v = double(y) / double(height);
      bool sun = std::hypot(u - 0.7, v - 0.3)<0.15, hill = v> 0.6 + 0.2 * std::sin(5 * u);
      std::array<double, 3> color = sun    ? std::array{1.0, 0.9, 0.3}
                                    : hill ? std::array{0.1 + 0.3 * u, 0.4, 0.15}
                                           : std::array{0.3, 0.5 + 0.3 * v, 0.9};
      for (size_t c = 0; c < 3; ++c) out.f32()[size_t(y * width + x) * 3 + c] = float(color[c]);
    }
  return out;
}

/// The same with enough detail for any number of shapes.
Tensor rough_scene(int64_t width, int64_t height) {
  Tensor out = scene(width, height);
  for (size_t i = 0; i < out.f32().size(); ++i) out.f32()[i] *= float(i * 7919 % 1000) / 1000;
  return out;
}

/// A folder with "scene.png" in it, and the program with little effort set.
struct Workplace {
  TemporaryFolder folder;
  Cli sinter{folder};
  Workplace() { write_image(folder / "scene.png", scene(160, 120)); }

  std::vector<std::string> words(std::vector<std::string> more) const {
    std::vector<std::string> all = {"shapes", "--shapes",    "20", "--compute-size", "64", "--candidates", "60", "--climbers",
                                    "4",      "--mutations", "20", "--threads",      "2"};
    if (std::ranges::find(more, "--shapes") != more.end()) all.erase(all.begin() + 1, all.begin() + 3);
    if (std::ranges::find(more, "--threads") != more.end()) all.resize(all.size() - 2);
    if (auto size = std::ranges::find(all, "--compute-size"); std::ranges::find(more, *size) != more.end())
      all.erase(size, size + 2);
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  CliResult run(std::vector<std::string> more) const { return sinter(words(std::move(more))); }
  /// The one object of a run that must succeed.
  json figures(std::vector<std::string> more) const {
    more.push_back("--json");
    CliResult result = run(std::move(more));
    REQUIRE_MESSAGE(result.exit_code == 0, result.err);
    return only_json(result);
  }
  std::string bytes(const std::string& name) const { return read_file(folder / name); }
  shapes::Result result(const std::string& name) const { return shapes::from_json(bytes(name), name); }
  /// Files beside what the runs print and read.
  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder.path())) names.insert(entry.path().filename().string());
    for (const char* known : {"scene.png", "out.txt", "err.txt", "cache", "data"}) names.erase(known);
    return names;
  }
};

/// A file of the repository's corpora; empty where the tests run without it.
fs::path corpus(const std::string& name) {
  for (fs::path at = program().parent_path(); at != at.root_path(); at = at.parent_path())
    if (fs::exists(at / "tests/corpus" / name)) return at / "tests/corpus" / name;
  MESSAGE("skipped: tests/corpus/" << name << " not found");
  return {};
}

}  // namespace

TEST_CASE("--anneal searches in another way, for as many candidates") {
  Workplace w;
  const auto plain = w.figures({w.folder / "scene.png", "--device", "cpu", "--out", w.folder / "plain.json"});
  const auto annealed = w.figures({w.folder / "scene.png", "--device", "cpu", "--anneal", "--out", w.folder / "annealed.json"});
  CHECK(w.result("plain.json").steps != w.result("annealed.json").steps);
  CHECK(plain["candidates"] == annealed["candidates"]);
}

TEST_CASE("without a GPU the search says once that it is on the CPU, and why") {
  const DeviceChoice choice = choose_device("auto");
  if (choice.kind == DeviceChoice::Kind::Cuda) {
    MESSAGE("skipped: there is a CUDA device");
    return;
  }
  Workplace place;
  CliResult result = place.sinter({"shapes", "scene.png", "--out", "a.png", "--shapes", "2"});
  const std::string told = "searching on the CPU: " + choice.why_not_cuda;
  CHECK(result.exit_code == 0);
  CHECK(has(result.err, told));
  CHECK(result.err.find(told) == result.err.rfind(told));
  CHECK(!has(place.sinter({"shapes", "scene.png", "--out", "a.png", "--shapes", "2", "--device", "cpu"}).err, "searching on"));
}

TEST_CASE("one run writes every format, of the source's size, and says what it did in one object") {
  Workplace place;
  std::vector<std::string> names = {"a.png", "a.JPG", "a.webp", "a.svg", "a.json", "a.gif"}, words = {"scene.png"};
  for (const std::string& name : names) words.insert(words.end(), {"--out", name});
  json figures = place.figures(words);
  CHECK(figures["outputs"] == json(names));
  CHECK(figures["shapes"] == 20);
  CHECK(figures["candidates"].get<int64_t>() >= 20 * 60);
  CHECK(figures["seconds"].get<double>() > 0);
  CHECK(figures["cpu_seconds"].get<double>() > 0);
  CHECK(figures["device"] == choose_device("auto").text());
  CHECK(figures["pictures"].size() == 1);
  CHECK(figures["pictures"][0]["stop"] == "shapes");

  shapes::Result result = place.result("a.json");
  CHECK(figures["score"].get<double>() == shapes::score(result));
  CHECK(shapes::score(result) < 0.5 * shapes::score(result.start_error, result.width, result.height));
  CHECK(result.steps.size() == 20);
  CHECK(result.width == 64);
  CHECK(result.source_width == 160);
  ThreadPool pool(1);
  Tensor drawn = shapes::render(result, 160, 120, pool);
  CHECK(place.bytes("a.png") == encode_png(drawn));
  CHECK(place.bytes("a.svg") == shapes::svg(result, 160, 120));
  for (const char* name : {"a.JPG", "a.webp"}) CHECK(read_image(place.folder / name).pixels.shape() == drawn.shape());
  CHECK_FALSE(read_image(place.folder / "a.webp").animated);
  CHECK(place.files() == std::set<std::string>(names.begin(), names.end()));
}

TEST_CASE("the shapes depend on picture, options and seed, not on the run or the number of threads") {
  Workplace place;
  place.figures({"scene.png", "--out", "a.json", "--threads", "1"});
  place.figures({"scene.png", "--out", "b.json", "--threads", "3"});
  place.figures({"scene.png", "--out", "c.json", "--seed", "1"});
  CHECK(place.result("a.json").steps == place.result("b.json").steps);
  CHECK(place.result("a.json").steps != place.result("c.json").steps);
}

TEST_CASE("every option of the search reaches it") {
  Workplace place;
  auto steps = [&](std::vector<std::string> more) {
    more.insert(more.end(), {"scene.png", "--out", "o.json"});
    place.figures(more);
    return place.result("o.json");
  };
  for (const shapes::Step& step : steps({"--shape-types", "ellipse,line"}).steps)
    CHECK((step.shape.kind == shapes::Kind::ellipse || step.shape.kind == shapes::Kind::line));
  for (const shapes::Step& step : steps({"--alpha", "0.2"}).steps) CHECK(step.shape.alpha == 51);
  for (const shapes::Step& step : steps({"--style", "crispy"}).steps) CHECK(step.shape.alpha >= 198);
  CHECK(steps({"--fill-color", "#f08"}).fill == shapes::Color{0xff, 0x00, 0x88});
  CHECK(steps({"--fill-color", "102030"}).fill == shapes::Color{0x10, 0x20, 0x30});
  CHECK(steps({"--shapes", "3"}).steps.size() == 3);
  shapes::Result good = steps({"--shapes", "500", "--target-error", "0.1"});
  CHECK(good.stop == shapes::Stop::target_error);
  CHECK(shapes::score(good) <= 0.1);
  CHECK(good.steps.size() < 500);
  auto begin = std::chrono::steady_clock::now();
  write_image(place.folder / "rough.png", rough_scene(1000, 800));
  place.figures({"rough.png", "--shapes", "100000", "--compute-size", "1000", "--time-budget", "0.3", "--out", "t.json"});
  CHECK(place.result("t.json").stop == shapes::Stop::time_budget);
  CHECK(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < 10);
  CHECK(steps({"--compute-size", "100"}).width == 100);
}

TEST_CASE("--scale sets the size of what is drawn, --animate makes a .webp move, and a preview is a picture") {
  Workplace place;
  place.figures(
      {"scene.png", "--out", "a.png", "--out", "m.webp", "--out", "a.svg", "--scale", "0.5", "--animate", "--preview", "p.png"});
  CHECK(read_image(place.folder / "a.png").pixels.shape() == std::vector<int64_t>{60, 80, 3});
  CHECK(read_image(place.folder / "m.webp").animated);
  CHECK(has(place.bytes("a.svg"), "width=\"80\" height=\"60\""));
  CHECK(read_image(place.folder / "p.png").pixels.shape() == std::vector<int64_t>{48, 64, 3});
}

TEST_CASE("a resumed result has the earlier shapes first, and those that one longer run finds") {
  Workplace place;
  place.figures({"scene.png", "--out", "ten.json", "--shapes", "10"});
  place.figures({"scene.png", "--out", "twenty.json", "--shapes", "20"});
  json figures = place.figures({"scene.png", "--resume", "ten.json", "--out", "ten.json", "--shapes", "10"});
  CHECK(figures["shapes"] == 20);
  CHECK(place.result("ten.json").steps == place.result("twenty.json").steps);

  write_image(place.folder / "other.png", scene(120, 160));
  CliResult wrong = place.run({"other.png", "--resume", "ten.json", "--out", "x.json"});
  CHECK(wrong.exit_code == 1);
  CHECK_MESSAGE(has(wrong.err, "the result to go on from is for a compute picture of 64 x 48"), wrong.err);
  write_atomically(place.folder / "bad.json", "{\"format\": 1}");
  wrong = place.run({"scene.png", "--resume", "bad.json", "--out", "x.json"});
  CHECK(wrong.exit_code == 1);
  CHECK_MESSAGE(has(wrong.err, "bad.json: not the JSON of an earlier result"), wrong.err);
  CHECK_FALSE(fs::exists(place.folder / "x.json"));
}

TEST_CASE("several pictures get names of their own") {
  Workplace place;
  fs::create_directory(place.folder / "in");
  write_image(place.folder / "in/hill.png", scene(50, 90));
  json figures = place.figures({"scene.png", "in/hill.png", "--out", "art.png", "--out", "{name}-shapes.svg", "--shapes", "5"});
  CHECK(place.files() == std::set<std::string>{"art_scene.png", "art_hill.png", "scene-shapes.svg", "hill-shapes.svg", "in"});
  CHECK(figures["shapes"] == 10);
  REQUIRE(figures["pictures"].size() == 2);
  CHECK(figures["pictures"][1]["outputs"] == json{"art_hill.png", "hill-shapes.svg"});
  CHECK(figures["score"].get<double>() ==
        doctest::Approx((figures["pictures"][0]["score"].get<double>() + figures["pictures"][1]["score"].get<double>()) / 2));

  fs::copy(place.folder / "scene.png", place.folder / "in/scene.png");
  CliResult twice = place.run({"scene.png", "in/scene.png", "--out", "b.png"});
  CHECK(twice.exit_code == 2);
  CHECK_MESSAGE(has(twice.err, "b_scene.png would be written twice"), twice.err);
}

TEST_CASE("what is wrong with the options is said before any work, with option, range and what was found") {
  Workplace place;
  struct Mistake {
    std::vector<std::string> words;
    std::string message;
    int exit_code = 2;
  };
  for (const Mistake& mistake : {
           Mistake{{"--out", "a.png", "--shapes", "0"}, "--shapes: Value 0 not in range 1 to 100000"},
           Mistake{{"--out", "a.png", "--shapes", "100001"}, "--shapes: Value 100001 not in range"},
           Mistake{{"--out", "a.png", "--compute-size", "63"}, "--compute-size: Value 63 not in range 64 to 2048"},
           Mistake{{"--out", "a.png", "--alpha", "1.5"}, "--alpha: 1.5 is out of range: from 0.004 to 1"},
           Mistake{{"--out", "a.png", "--alpha", "0.5", "--style", "crispy"}, "--alpha and --style both"},
           Mistake{{"--out", "a.png", "--style", "vivid"}, "\"vivid\" is none of crispy, dreamy, blurry"},
           Mistake{{"--out", "a.png", "--shape-types", "triangle,star"}, "--shape-types: there is no kind of shape \"star\""},
           Mistake{{"--out", "a.png", "--fill-color", "red"},
                   "--fill-color: expected auto or a colour as #rrggbb, found \"red\""},
           Mistake{{"--out", "a.png", "--target-error", "2"}, "--target-error: 2 is out of range: from 0 to 1"},
           Mistake{{"--out", "a.png", "--seed", "-1"}, "--seed: \"-1\" is out of range"},
           Mistake{{"--out", "a.png", "--animate"}, "--animate is for a .webp"},
           Mistake{{"--out", "a.png", "--preview", "p.svg"}, "--preview: expected a .png, .jpg or .webp, found \"p.svg\""},
           Mistake{{"--out", "a.png", "--out", "./a.png"}, "a.png would be written twice"},
           Mistake{{"--out", "scene.png"}, "--out names scene.png, which is one of the pictures"},
           Mistake{{"--out", "a.bmp"}, "'a.bmp': shapes are written as .png", 1},
           Mistake{{"--out", "no/a.png"}, "the folder 'no' of --out does not exist", 1},
           Mistake{{"--out", "a.png", "--preview", "no/p.png"}, "the folder 'no' of --preview does not exist", 1},
           Mistake{{"--out", "a.png", "--device", "cuda:99"}, "cuda:99: there ", 1},
           Mistake{{"--out", "a.png", "--device", "gpu"}, "--device: the device \"gpu\" is not known"},
           Mistake{{"--out", "a.png", "--resume", "no.json"}, "no.json: cannot open", 1},
           Mistake{{"--out", "a.png", "--scale", "101"}, "--scale: 101 is out of range", 2},
       }) {
    CAPTURE(mistake.message);
    std::vector<std::string> words = mistake.words;
    words.push_back("scene.png");
    CliResult result = place.sinter([&] {
      std::vector<std::string> all = {"shapes"};
      all.insert(all.end(), words.begin(), words.end());
      return all;
    }());
    CHECK(result.exit_code == mistake.exit_code);
    CHECK_MESSAGE(has(result.err, mistake.message), result.err);
    CHECK(place.files().empty());
  }
}

TEST_CASE("without ffmpeg an MP4 is refused before the search") {
  Workplace place;
  CliResult result = place.sinter(place.words({"scene.png", "--shapes", "100000", "--out", "a.mp4"}),
                                  [&] { ::setenv("PATH", place.folder.path().c_str(), 1); });
  CHECK(result.exit_code == 1);
  CHECK_MESSAGE(has(result.err, "install the package ffmpeg"), result.err);
  CHECK(place.files().empty());
}

TEST_CASE("files that are no pictures are refused by name, and nothing is written") {
  Workplace place;
  std::string png = place.bytes("scene.png");
  write_atomically(place.folder / "empty.png", "");
  write_atomically(place.folder / "text.png", "not a picture at all");
  write_atomically(place.folder / "cut.png", png.substr(0, png.size() / 2));
  for (auto [name, message] : {std::pair{"empty.png", "empty.png: not a picture: the file is empty"},
                               {"text.png", "text.png: not a picture that can be read: expected PNG, JPEG or WebP"},
                               {"cut.png", "cut.png: not a valid PNG file"},
                               {"none.png", "none.png: cannot open"}}) {
    CliResult result = place.run({name, "--out", "a.png"});
    CHECK(result.exit_code == 1);
    CHECK_MESSAGE(has(result.err, message), result.err);
    CHECK_FALSE(fs::exists(place.folder / "a.png"));
  }
}

TEST_CASE("pictures of every kind that cameras and programs write are taken") {
  Workplace place;
  for (const char* name : {"words.png", "cmyk.jpg", "palette.png", "grey.jpg", "alpha.webp"}) {
    fs::path picture = corpus(std::string("image_fuzz/") + name);
    if (picture.empty()) return;
    CAPTURE(name);
    place.figures({picture.string(), "--out", "o.png", "--out", "o.json", "--shapes", "3"});
    CHECK(read_image(place.folder / "o.png").pixels.shape() == read_image(picture).pixels.shape());
  }
  fs::path moving = corpus("image_fuzz/animated.webp");
  CliResult result = place.run({moving.string(), "--out", "o.png", "--shapes", "3"});
  CHECK(result.exit_code == 0);
  size_t first = result.err.find("is an animation; its first frame is used");
  REQUIRE(first != std::string::npos);
  CHECK(result.err.find("is an animation", first + 1) == std::string::npos);
}

TEST_CASE("a picture of one pixel, a line of 30,000 and one of a single colour give what they are") {
  Workplace place;
  Tensor one(DType::f32, {1, 1, 3});
  one.f32()[0] = 1;
  write_image(place.folder / "one.png", one);
  json figures = place.figures({"one.png", "--out", "o.png"});
  CHECK(figures["score"] == 0);
  CHECK(place.bytes("o.png") == encode_png(one));

  write_image(place.folder / "wide.png", scene(30'000, 20));
  figures = place.figures({"wide.png", "--out", "w.png", "--out", "w.json", "--shapes", "5"});
  CHECK(read_image(place.folder / "w.png", {.side = 30'000}).pixels.shape() == std::vector<int64_t>{20, 30'000, 3});
  CHECK(place.result("w.json").source_width == 30'000);
  CliResult refused = place.run({"wide.png", "--out", "w.webp", "--shapes", "5"});
  CHECK(refused.exit_code == 1);
  CHECK_MESSAGE(has(refused.err, "w.webp: the format holds at most 16383 pixels a side, and this would be 30000 x 20"),
                refused.err);

  Tensor flat(DType::f32, {40, 40, 3});
  std::ranges::fill(flat.f32(), 0.4f);
  write_image(place.folder / "flat.png", flat);
  figures = place.figures({"flat.png", "--out", "f.png"});
  CHECK(figures["score"] == 0);
}

TEST_CASE("a transparent picture lies on the fill colour") {
  Workplace place;
  fs::path picture = corpus("image_fuzz/alpha.webp");  // of one colour, its alpha rises from 0
  if (picture.empty()) return;
  place.figures({picture.string(), "--out", "a.json", "--fill-color", "#0000ff", "--shapes", "1"});
  shapes::Result result = place.result("a.json");
  Image image = read_image(picture);
  uint64_t expected = 0;
  for (size_t i = 0; i < image.alpha.f32().size(); ++i)
    for (size_t c = 0; c < 3; ++c) {
      double below = c == 2 ? 255 : 0, alpha = image.alpha.f32()[i];
      double value = std::floor(below * (1 - alpha) + image.pixels.f32()[i * 3 + c] * 255 * alpha + 0.5);
      expected += uint64_t((value - below) * (value - below));
    }
  CHECK(result.fill == shapes::Color{0, 0, 255});
  CHECK(result.start_error == expected);
}

TEST_CASE("Ctrl-C ends the search within a second, keeps what there is, and says so") {
  Workplace place;
  write_image(place.folder / "large.png", rough_scene(1200, 900));
  auto words = place.words({"large.png", "--compute-size", "1024", "--shapes", "100000", "--out", "a.json", "--out", "a.png",
                            "--preview", "p.png", "--json"});
  pid_t child = place.sinter.start(words);
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  auto begin = std::chrono::steady_clock::now();
  ::kill(child, SIGINT);
  CliResult result = place.sinter.finish(child);
  CHECK(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < 3);  // 0.1 s on an idle machine
  CHECK(result.exit_code == 130);
  json figures = only_json(result);
  CHECK(figures["pictures"][0]["stop"] == "cancelled");
  CHECK(has(result.err, "writing what there is"));
  shapes::Result part = place.result("a.json");
  CHECK(part.stop == shapes::Stop::cancelled);
  CHECK(figures["shapes"] == part.steps.size());
  CHECK(part.steps.size() > 0);
  CHECK(read_image(place.folder / "a.png").pixels.dim(1) == 1200);
}
