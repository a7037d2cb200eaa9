#include "io/animation.h"

#include <doctest/doctest.h>
#include <webp/decode.h>
#include <webp/demux.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <set>

#include "base/file.h"
#include "io/image.h"
#include "io/palette.h"
#include "refusal.h"
#include "temporary_folder.h"

using namespace sinter;

namespace {

bool has_program(const std::string& name) { return std::system(("command -v " + name + " > /dev/null 2>&1").c_str()) == 0; }

/// Frame `number` of a growing picture: each paints a rectangle of another colour on the one before, at last on a gradient.
Tensor frame(int64_t width, int64_t height, int number, bool gradient = false) {
  Tensor out(DType::u8, {height, width, 3});
  auto* rgb = reinterpret_cast<uint8_t*>(out.data());
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < 3; ++c) {
        uint8_t& value = rgb[(y * width + x) * 3 + c];
        value = gradient ? uint8_t((x * 255 / width * (c == 0) + y * 255 / height * (c == 1) + (x + y) % 256 * (c == 2))) : 30;
        for (int i = 1; i <= number; ++i)
          if (x >= i * 3 && x < i * 3 + 20 && y >= i * 2 && y < i * 2 + 15) value = uint8_t(i * (40 + 31 * c));
      }
  return out;
}

void write_growth(const std::filesystem::path& path, int64_t width, int64_t height, int frames, bool gradient = false) {
  auto writer = open_animation(path, width, height);
  for (int i = 0; i < frames; ++i) writer->add(frame(width, height, i, gradient), i + 1 == frames ? 2000 : 80);
  writer->finish();
}

/// What a GIF shows after each frame: a reader of its own, straight from the format's description.
std::vector<std::vector<Rgb>> read_gif(const std::string& file, int64_t width, int64_t height) {
  REQUIRE(file.starts_with("GIF89a"));
  auto byte = [&](size_t at) { return int(uint8_t(file.at(at))); };
  auto word = [&](size_t at) { return byte(at) | byte(at + 1) << 8; };
  REQUIRE(word(6) == width);
  REQUIRE(word(8) == height);
  std::vector<std::vector<Rgb>> out;
  std::vector<Rgb> shown(size_t(width * height), Rgb{});
  size_t at = 13;
  int transparent = -1;
  while (byte(at) != ';') {
    if (byte(at) == 0x21) {
      if (byte(at + 1) == 0xf9) transparent = byte(at + 3) & 1 ? byte(at + 6) : -1;
      for (at += 2; byte(at) != 0;) at += size_t(byte(at)) + 1;
      ++at;
      continue;
    }
    REQUIRE(byte(at) == 0x2c);
    int left = word(at + 1), top = word(at + 3), w = word(at + 5), h = word(at + 7), flags = byte(at + 9);
    size_t palette = at + 10;
    at = palette + (3u << ((flags & 7) + 1));
    int bits = byte(at++), clear = 1 << bits, size = bits + 1;
    std::string data;
    for (; byte(at) != 0; at += size_t(byte(at)) + 1) data += file.substr(at + 1, size_t(byte(at)));
    ++at;
    std::vector<std::string> table;
    std::string indices, last;
    for (size_t bit = 0;;) {
      int code = 0;
      for (int i = 0; i < size; ++i, ++bit) code |= (uint8_t(data.at(bit / 8)) >> (bit % 8) & 1) << i;
      if (code == clear) {
        table.assign(size_t(clear) + 2, "");
        for (int i = 0; i < clear; ++i) table[size_t(i)] = char(i);
        size = bits + 1;
        last.clear();
        continue;
      }
      if (code == clear + 1) {
        REQUIRE(bit <= data.size() * 8);
        REQUIRE(data.size() * 8 - bit < 8);
        break;
      }
      REQUIRE(size_t(code) <= table.size());
      std::string text = size_t(code) < table.size() ? table[size_t(code)] : last + last[0];
      if (!last.empty() && table.size() < 4096) table.push_back(last + text[0]);
      if (table.size() == size_t(1) << size && size < 12) ++size;
      indices += text;
      last = text;
    }
    REQUIRE(indices.size() == size_t(w) * size_t(h));
    for (size_t i = 0; i < indices.size(); ++i) {
      int index = uint8_t(indices[i]);
      if (index == transparent) continue;
      size_t color = palette + 3 * size_t(index);
      shown[size_t(top + int(i) / w) * size_t(width) + size_t(left + int(i) % w)] = {
          uint8_t(byte(color)), uint8_t(byte(color + 1)), uint8_t(byte(color + 2))};
    }
    out.push_back(shown);
  }
  REQUIRE(at + 1 == file.size());
  return out;
}

int largest_difference(const std::vector<Rgb>& got, const Tensor& expected) {
  int worst = 0;
  const auto* bytes = reinterpret_cast<const uint8_t*>(expected.data());
  for (size_t i = 0; i < got.size(); ++i)
    for (size_t c = 0; c < 3; ++c) worst = std::max(worst, std::abs(int(got[i][c]) - int(bytes[i * 3 + c])));
  return worst;
}

}  // namespace

TEST_CASE("a GIF shows every frame: exactly where a frame brings few colours, closely where it brings many") {
  TemporaryFolder folder;
  write_growth(folder / "few.gif", 70, 50, 9);
  auto frames = read_gif(read_file(folder / "few.gif"), 70, 50);
  REQUIRE(frames.size() == 9);
  for (int i = 0; i < 9; ++i) CHECK(largest_difference(frames[size_t(i)], frame(70, 50, i)) == 0);

  write_growth(folder / "many.gif", 300, 200, 6, true);
  frames = read_gif(read_file(folder / "many.gif"), 300, 200);
  REQUIRE(frames.size() == 6);
  for (int i = 0; i < 6; ++i) CHECK(largest_difference(frames[size_t(i)], frame(300, 200, i, true)) <= 40);
}

TEST_CASE("a GIF of noise, whose codes grow to the last and begin again, reads back") {
  TemporaryFolder folder;
  std::mt19937 random(3);
  for (auto [width, height, colors] :
       {std::tuple{1, 1, 1}, {1, 1, 2}, {2, 2, 3}, {127, 90, 255}, {128, 65, 256}, {200, 200, 2}, {64, 64, 7}}) {
    Tensor noise(DType::u8, {height, width, 3});
    for (int64_t i = 0; i < noise.bytes() / 3; ++i)
      noise.data()[3 * i] = noise.data()[3 * i + 1] = noise.data()[3 * i + 2] = std::byte(random() % uint32_t(colors));
    auto writer = open_animation(folder / "noise.gif", width, height);
    writer->add(noise, 100);
    writer->add(noise, 100);
    writer->finish();
    auto frames = read_gif(read_file(folder / "noise.gif"), width, height);
    REQUIRE(frames.size() == 2);
    CHECK(largest_difference(frames[1], noise) <= (colors > 255 ? 1 : 0));
  }
}

TEST_CASE("a palette of few colours is those colours, and of many it is no worse than equal steps") {
  std::vector<Rgb> colors;
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) colors.push_back({uint8_t(random()), uint8_t(random()), uint8_t(random())});
  std::set<Rgb> chosen, given(colors.begin(), colors.end());
  for (Rgb c : choose_palette(colors, 256)) chosen.insert(c);
  CHECK(chosen == given);

  for (int i = 0; i < 50'000; ++i) colors.push_back({uint8_t(random()), uint8_t(random()), uint8_t(random())});
  std::vector<Rgb> palette = choose_palette(colors, 216), steps;
  for (int i = 0; i < 216; ++i) steps.push_back({uint8_t(i / 36 * 51), uint8_t(i / 6 % 6 * 51), uint8_t(i % 6 * 51)});
  CHECK(palette.size() == 216);
  auto error = [&](std::span<const Rgb> list) {
    PaletteIndex index(list);
    double sum = 0;
    for (Rgb c : colors)
      for (size_t k = 0; k < 3; ++k) sum += std::pow(double(c[k]) - list[index.nearest(c)][k], 2);
    return sum;
  };
  CHECK(error(palette) < 1.02 * error(steps));
}

TEST_CASE("an animated WebP holds the frames and how long they are shown") {
  TemporaryFolder folder;
  write_growth(folder / "a.webp", 90, 60, 7);
  std::string file = read_file(folder / "a.webp");
  WebPData data{reinterpret_cast<const uint8_t*>(file.data()), file.size()};
  WebPAnimDecoder* decoder = WebPAnimDecoderNew(&data, nullptr);
  REQUIRE(decoder);
  int frames = 0, time = 0;
  uint8_t* rgba;
  double worst = 0;
  while (WebPAnimDecoderHasMoreFrames(decoder)) {
    REQUIRE(WebPAnimDecoderGetNext(decoder, &rgba, &time));
    Tensor expected = frame(90, 60, frames++);
    double sum = 0;
    for (int64_t i = 0; i < expected.bytes(); ++i)
      sum += std::abs(int(rgba[i / 3 * 4 + i % 3]) - int(reinterpret_cast<uint8_t*>(expected.data())[i]));
    worst = std::max(worst, sum / double(expected.bytes()));
  }
  WebPAnimDecoderDelete(decoder);
  CHECK(frames == 7);
  CHECK(time == 6 * 80 + 2000);
  CHECK(worst < 4);
}

TEST_CASE("an MP4 is a film that ffmpeg plays to the end") {
  if (!has_program("ffmpeg") || !has_program("ffprobe")) {
    MESSAGE("skipped: ffmpeg not found");
    return;
  }
  TemporaryFolder folder;
  write_growth(folder / "a.mp4", 160, 90, 12);
  std::string in_folder = "cd " + folder.path().string() + " && ";
  REQUIRE(std::system((in_folder + "ffprobe -v error -count_frames -show_entries stream=width,height,nb_read_frames -of csv=p=0 "
                                   "a.mp4 > probe.txt")
                          .c_str()) == 0);
  CHECK(read_file(folder / "probe.txt") == "160,90,72\n");  // 11 frames of 80 ms and one of 2 s, at 25 a second
  REQUIRE(std::system((in_folder + "ffmpeg -v error -sseof -0.1 -i a.mp4 -update 1 last.png").c_str()) == 0);
  Tensor last = image_bytes(read_image(folder / "last.png").pixels), expected = frame(160, 90, 11);
  double sum = 0;
  for (int64_t i = 0; i < last.bytes(); ++i) sum += std::abs(int(last.data()[i]) - int(expected.data()[i]));
  CHECK(sum / double(last.bytes()) < 6);
}

TEST_CASE("a film that is not finished, or whose ffmpeg fails, leaves no file behind") {
  TemporaryFolder folder;
  for (const char* name : {"a.gif", "a.webp", "a.mp4"}) {
    if (std::string(name) == "a.mp4" && !has_program("ffmpeg")) continue;
    auto writer = open_animation(folder / name, 64, 64);
    writer->add(frame(64, 64, 1), 100);
    writer.reset();
    CHECK(std::filesystem::is_empty(folder.path()));
  }
}

TEST_CASE("MP4 without ffmpeg is refused, naming the package, and odd sizes are too") {
  TemporaryFolder folder;
  std::string path = std::getenv("PATH");
  ::setenv("PATH", folder.path().c_str(), 1);
  std::string why = refusal([&] { check_animation(folder / "a.mp4", 64, 64); });
  std::filesystem::create_symlink("/bin/false", folder / "ffmpeg");
  std::string failed = refusal([&] { write_growth(folder / "a.mp4", 64, 64, 30); });
  ::setenv("PATH", path.c_str(), 1);
  CHECK(contains(why, "install the package ffmpeg"));
  CHECK(contains(failed, "ffmpeg could not write it"));
  CHECK_FALSE(std::filesystem::exists(folder / "a.mp4"));
  CHECK(contains(refusal([&] { check_animation("a.mp4", 65, 64); }), "an even width and height"));
  CHECK(contains(refusal([&] { check_animation("a.gif", 70'000, 64); }), "at most 65535 pixels a side"));
  CHECK(contains(refusal([&] { check_animation("a.avi", 64, 64); }), ".gif, .webp or .mp4"));
}
