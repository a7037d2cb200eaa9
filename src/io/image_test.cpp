#include "io/image.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "base/error.h"
#include "base/file.h"
#include "io/exif.h"
#include "refusal.h"
#include "temporary_folder.h"

namespace sinter {
namespace {

using namespace std::string_literals;

std::span<const std::byte> bytes(const std::string& file) { return std::as_bytes(std::span(file.data(), file.size())); }
Image decode(const std::string& file) { return decode_image(bytes(file), "f"); }
std::string why_refused(const std::string& file) {
  return refusal([&] { decode(file); });
}

std::string from_hex(std::string_view hex) {
  std::string out;
  for (size_t i = 0; i < hex.size(); i += 2) out += char(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  return out;
}

// Made by libjpeg and libwebp: kinds that our encoders do not write. 4 x 2 pixels of one colour each.
const std::string kOnes = [] {  // a quantisation table that keeps everything
  std::string out;
  for (int i = 0; i < 64; ++i) out += "01";
  return out;
}();
const std::string kGreyJpeg = from_hex(  // grey 100
    "ffd8ffe000104a46494600010100000100010000"
    "ffdb004300" +
    kOnes +
    "ffc0000b080002000401011100ffc40014000100000000000000000000000000000008ffc4001410010000000000000000000000000000"
    "0000ffda0008010100003f000fbfffd9");
const std::string kCmykJpeg = from_hex(  // stored 200, 100, 50, 204 with an Adobe marker: paper left of each ink
    "ffd8ffee000e41646f626500640000000002"
    "ffdb004300" +
    kOnes + "ffdb004301" + kOnes +
    "ffc00014080002000404012200021101031101042200ffc40016000101010000000000000000000000000000050affc400141001000000"
    "00000000000000000000000000ffc40014010100000000000000000000000000000009ffc4001411010000000000000000000000000000"
    "0000ffda000e040100021103110400003f00b0015009ed3000ffd9");
const std::string kAnimatedWebp = from_hex(  // 3 x 2, first frame 255, 128, 0 with alpha 128
    "5249464684000000574542505650"
    "38580a00000012000000020000010000414e494d06000000ffffffff0000414e4d462800000000000000000002000001000064000002"
    "5650384c100000002f024000100750c0fe47010311d1ff00414e4d4628000000000000000000020000010000640000005650384c0f0000002f02400000"
    "0710d1fffe0722a2ff0100");
const std::string kAlphaWebp = from_hex(  // 3 x 2, 255, 128, 0 with alpha 0, 40, ..., 200
    "5249464628000000574542505650384c1c0000002f024000102f3080f31f83123849424ddb066ca8f32fa746f43fa617");

// --- a PNG writer for the kinds that ours does not write; its deflate stream is stored, not packed

void put(std::string& out, uint32_t value, int count = 4) {
  for (int i = count; i-- > 0;) out += char(value >> (8 * i));
}

uint32_t crc_of(const std::string& text) {
  uint32_t crc = ~0u;
  for (unsigned char c : text) {
    crc ^= c;
    for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
  }
  return ~crc;
}

std::string stored_zlib(const std::string& data) {
  std::string out = "\x78\x01\x01"s;
  uint16_t size = uint16_t(data.size());
  for (uint16_t v : {size, uint16_t(~size)}) out += {char(v & 0xff), char(v >> 8)};
  uint32_t a = 1, b = 0;
  for (unsigned char c : data) {
    a = (a + c) % 65521;
    b = (b + a) % 65521;
  }
  out += data;
  put(out, b << 16 | a);
  return out;
}

std::string chunk(const std::string& type, const std::string& data) {
  std::string out;
  put(out, uint32_t(data.size()));
  out += type + data;
  put(out, crc_of(type + data));
  return out;
}

struct PngParts {
  uint32_t width = 1, height = 1;
  int depth = 8, colour = 2, interlace = 0;
  std::string rows;    // each with its filter byte
  std::string before;  // chunks in front of the pixels

  std::string file() const {
    std::string head;
    put(head, width);
    put(head, height);
    head += {char(depth), char(colour), 0, 0, char(interlace)};
    return "\x89PNG\r\n\x1a\n" + chunk("IHDR", head) + before + chunk("IDAT", stored_zlib(rows)) + chunk("IEND", "");
  }
};

std::vector<float> values(const Tensor& tensor) { return {tensor.f32().begin(), tensor.f32().end()}; }
std::vector<float> over(float largest, std::vector<float> values) {
  for (float& v : values) v /= largest;
  return values;
}

/// A picture in which every value differs from its neighbours.
Tensor pattern(int64_t height, int64_t width) {
  Tensor out(DType::f32, {height, width, 3});
  auto all = out.f32();
  for (size_t i = 0; i < all.size(); ++i) all[i] = float(i * 37 % 256) / 255.0f;
  return out;
}

/// One without sharp edges, which lossy formats keep.
Tensor gradient(int64_t height, int64_t width) {
  Tensor out(DType::f32, {height, width, 3});
  auto all = out.f32();
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < 3; ++c) all[size_t((y * width + x) * 3 + c)] = float(y + x + 8 * c) / float(height + width + 16);
  return out;
}

float largest_difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  float out = 0;
  for (size_t i = 0; i < a.f32().size(); ++i) out = std::max(out, std::abs(a.f32()[i] - b.f32()[i]));
  return out;
}

TEST_CASE("stored values are 255 times the float, cut, and every stored value survives the way there and back") {
  Tensor picture = Tensor::of({1, 2, 3}, std::vector<float>{0.999f, 1.0f, 2.0f, -1.0f, NAN, 0.5f});
  Tensor stored = image_bytes(picture);
  const int expected[] = {254, 255, 255, 0, 0, 127};
  for (int i = 0; i < 6; ++i) CHECK(int(stored.data()[i]) == expected[i]);

  Tensor all(DType::f32, {16, 16, 3});
  for (int i = 0; i < 768; ++i) all.f32()[size_t(i)] = float(i % 256) / 255.0f;
  stored = image_bytes(all);
  for (int i = 0; i < 768; ++i) REQUIRE(int(stored.data()[i]) == i % 256);
  CHECK(image_bytes(stored).data() == stored.data());
}

TEST_CASE("PNG and lossless WebP keep every value") {
  for (auto [height, width] : {std::pair<int64_t, int64_t>{1, 1}, {7, 5}, {64, 33}}) {
    Tensor picture = pattern(height, width);
    for (auto& file : {encode_png(picture), encode_webp(picture, 90, true)}) {
      Image image = decode(file);
      CHECK(image.alpha.empty());
      CHECK(largest_difference(image.pixels, picture) < 1e-6f);
    }
  }
}

TEST_CASE("JPEG and lossy WebP come close, and closer with more quality") {
  Tensor picture = gradient(40, 56);
  auto errors = [&](auto encode) {
    return std::pair(relative_error(decode(encode(30)).pixels, picture), relative_error(decode(encode(95)).pixels, picture));
  };
  auto [jpeg_low, jpeg_high] = errors([&](int quality) { return encode_jpeg(picture, quality); });
  CHECK(jpeg_high < 0.02);
  CHECK(jpeg_high < jpeg_low);
  auto [webp_low, webp_high] = errors([&](int quality) { return encode_webp(picture, quality); });
  CHECK(webp_high < 0.02);
  CHECK(webp_high < webp_low);
  CHECK(encode_jpeg(picture, 20).size() < encode_jpeg(picture, 95).size());
}

TEST_CASE("PNG of every colour type and depth is read") {
  SUBCASE("grey of 1, 2, 4, 8 and 16 bits") {
    for (auto [depth, row, expected] : {std::tuple{1, "\xa0"s, over(1, {1, 0, 1})},
                                        {2, "\x6c"s, over(3, {1, 2, 3})},
                                        {4, "\x1f\x70"s, over(15, {1, 15, 7})},
                                        {8, "\x01\xff\x07"s, over(255, {1, 255, 7})},
                                        {16, "\x00\x01\xff\xff\x12\x34"s, over(65535, {1, 65535, 0x1234})}}) {
      CAPTURE(depth);
      Image image = decode(PngParts{3, 1, depth, 0, 0, "\0"s + row, ""}.file());
      CHECK(image.alpha.empty());
      for (size_t i = 0; i < 9; ++i) CHECK(image.pixels.f32()[i] == doctest::Approx(expected[i / 3]));
    }
  }
  SUBCASE("grey with alpha") {
    Image image = decode(PngParts{1, 1, 8, 4, 0, "\0\x40\x80"s, ""}.file());
    CHECK(values(image.pixels) == over(255, {64, 64, 64}));
    CHECK(values(image.alpha) == over(255, {128}));
  }
  SUBCASE("RGB of 16 bits") {
    Image image = decode(PngParts{1, 1, 16, 2, 0, "\0\x00\x05\x80\x00\xff\xff"s, ""}.file());
    CHECK(values(image.pixels) == over(65535, {5, 32768, 65535}));
  }
  SUBCASE("RGBA of 8 and 16 bits: colours are not multiplied with alpha") {
    Image image = decode(PngParts{1, 1, 8, 6, 0, "\0\x0a\x14\x1e\x00"s, ""}.file());
    CHECK(values(image.pixels) == over(255, {10, 20, 30}));
    CHECK(values(image.alpha) == std::vector<float>{0});
    image = decode(PngParts{1, 1, 16, 6, 0, "\0\x00\x01\x00\x02\x00\x03\x80\x00"s, ""}.file());
    CHECK(values(image.pixels) == over(65535, {1, 2, 3}));
    CHECK(values(image.alpha) == over(65535, {32768}));
  }
  SUBCASE("a palette, with and without transparency") {
    std::string palette = chunk("PLTE", "\x01\x02\x03\x0a\x0b\x0c"s);
    Image image = decode(PngParts{2, 1, 8, 3, 0, "\0\x01\x00"s, palette}.file());
    CHECK(values(image.pixels) == over(255, {10, 11, 12, 1, 2, 3}));
    CHECK(image.alpha.empty());
    image = decode(PngParts{2, 1, 1, 3, 0, "\0\x40"s, palette + chunk("tRNS", "\x80"s)}.file());
    CHECK(values(image.pixels) == over(255, {1, 2, 3, 10, 11, 12}));
    CHECK(values(image.alpha) == over(255, {128, 255}));
  }
  SUBCASE("interlaced, also where some passes are empty") {
    // Passes of a 2 x 2 picture: (0,0); none; none; none; none; (0,1); (1,0) (1,1).
    Image image = decode(PngParts{2, 2, 8, 0, 1, "\0\x01\0\x02\0\x03\x04"s, ""}.file());
    for (size_t i = 0; i < 12; ++i) CHECK(image.pixels.f32()[i] == float(i / 3 + 1) / 255.0f);
  }
}

TEST_CASE("grey and CMYK JPEG become RGB") {
  Image grey = decode(kGreyJpeg);
  CHECK(grey.pixels.shape() == std::vector<int64_t>{2, 4, 3});
  for (float v : grey.pixels.f32()) CHECK(v == doctest::Approx(100.0 / 255).epsilon(0.01));
  Image cmyk = decode(kCmykJpeg);
  const double expected[] = {200 * 204 / 65025.0, 100 * 204 / 65025.0, 50 * 204 / 65025.0};
  for (size_t i = 0; i < cmyk.pixels.f32().size(); ++i)
    CHECK(cmyk.pixels.f32()[i] == doctest::Approx(expected[i % 3]).epsilon(0.03));
}

TEST_CASE("WebP with alpha and the first frame of an animation are read") {
  Image alpha = decode(kAlphaWebp);
  CHECK(values(alpha.alpha) == over(255, {0, 40, 80, 120, 160, 200}));
  for (size_t i = 3; i < 18; ++i) CHECK(alpha.pixels.f32()[i] == std::vector{1.0f, 128 / 255.0f, 0.0f}[i % 3]);
  Image animated = decode(kAnimatedWebp);
  CHECK(animated.pixels.shape() == std::vector<int64_t>{2, 3, 3});
  CHECK(animated.alpha.f32()[0] == 128 / 255.0f);
  CHECK(animated.pixels.f32()[1] == doctest::Approx(128 / 255.0).epsilon(0.02));
}

/// An EXIF block of low-byte-first order that holds only an orientation.
std::string orientation_block(int orientation) {
  return "II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"s + char(orientation) + std::string(7, '\0');
}

TEST_CASE("every EXIF orientation is undone") {
  // a b c / d e f, and what each orientation makes of the stored rows when shown upright.
  Tensor stored = Tensor::of({2, 3}, std::vector<float>{1, 2, 3, 4, 5, 6});
  auto turned = [&](int orientation) { return values(upright(stored, orientation)); };
  CHECK(turned(1) == std::vector<float>{1, 2, 3, 4, 5, 6});
  CHECK(turned(2) == std::vector<float>{3, 2, 1, 6, 5, 4});
  CHECK(turned(3) == std::vector<float>{6, 5, 4, 3, 2, 1});
  CHECK(turned(4) == std::vector<float>{4, 5, 6, 1, 2, 3});
  CHECK(turned(5) == std::vector<float>{1, 4, 2, 5, 3, 6});
  CHECK(turned(6) == std::vector<float>{4, 1, 5, 2, 6, 3});
  CHECK(turned(7) == std::vector<float>{6, 3, 5, 2, 4, 1});
  CHECK(turned(8) == std::vector<float>{3, 6, 2, 5, 1, 4});
  CHECK(upright(stored, 6).shape() == std::vector<int64_t>{3, 2});
}

TEST_CASE("the orientation in a file is applied, whatever its format") {
  Tensor picture = gradient(16, 24);
  std::string jpeg = encode_jpeg(picture, 95);
  std::string exif = "Exif\0\0"s + orientation_block(6);
  std::string marker = "\xff\xe1";
  put(marker, uint32_t(exif.size() + 2), 2);
  std::string turned = jpeg.substr(0, 2) + marker + exif + jpeg.substr(2);
  CHECK(largest_difference(decode(turned).pixels, upright(decode(jpeg).pixels, 6)) == 0);
  CHECK(decode(turned).pixels.shape() == std::vector<int64_t>{24, 16, 3});

  std::string png = PngParts{2, 1, 8, 0, 0, "\0\x01\x02"s, chunk("eXIf", orientation_block(3))}.file();
  CHECK(values(decode(png).pixels) == over(255, {2, 2, 2, 1, 1, 1}));
}

TEST_CASE("broken EXIF blocks are passed over") {
  CHECK(parse_exif("").orientation == 1);
  CHECK(parse_exif("II*\0"s).orientation == 1);
  CHECK(parse_exif(orientation_block(9)).orientation == 1);
  CHECK(parse_exif(orientation_block(8)).orientation == 8);
  std::string block = build_exif({{"parameters", "text"}, {"prompt", "{}"}});
  CHECK(parse_exif(block).text.size() == 2);
  for (size_t size = 0; size < block.size(); ++size) parse_exif(std::string(block, 0, size));
  for (size_t at = 0; at < block.size(); ++at) {
    for (int value : {0, 1, 0x7f, 0x80, 0xff}) {
      std::string changed = block;
      changed[at] = char(value);
      parse_exif(changed);
    }
  }
}

TEST_CASE("texts in a PNG are read as they were written") {
  ImageText text{{"parameters", "a cat\nSteps: 20"},
                 {"prompt",
                  "{\"1\": \"gr\xc3\xbc\xc3\x9f"
                  "e\"}"},
                 {"workflow", "\xe7\x8c\xab \xf0\x9f\x90\xb1"},
                 {"empty", ""},
                 {"k\xc3\xa9y", "x"}};
  std::string file = encode_png(pattern(3, 3), text);
  CHECK(image_text(bytes(file), "f") == text);
  CHECK(contains(file, "tEXtparameters"));
  CHECK(contains(file, "tEXtprompt"));
  CHECK(contains(file,
                 "gr\xfc\xdf"
                 "e"));
  CHECK(contains(file, "iTXtworkflow"));
  CHECK(largest_difference(decode(file).pixels, pattern(3, 3)) < 1e-6f);
}

TEST_CASE("packed texts in a PNG are read, and broken ones passed over") {
  std::string packed = stored_zlib("packed text");
  std::string broken = chunk("tEXt", "a\0b"s);
  broken[8] = 'x';
  PngParts parts{1,
                 1,
                 8,
                 0,
                 0,
                 "\0\x01"s,
                 chunk("zTXt", "z\0\0"s + packed) + chunk("iTXt", "i\0\x01\0en\0key\0"s + packed) + chunk("comf", "prompt\0{}"s) +
                     chunk("tEXt", "no zero") + chunk("zTXt", "z2\0\0xxx"s) + chunk("iTXt", "short\0"s) + broken};
  CHECK(image_text(bytes(parts.file()), "f") ==
        ImageText{{"z", "packed text"}, {"i", "packed text"}, {"prompt", "{}"}, {"z2", ""}});
  CHECK(decode(parts.file()).pixels.count() == 3);
}

TEST_CASE("broken packed texts count against the limit of what is unpacked") {
  // Stored blocks of deflate, and no end: unpacked in full, and then worth nothing.
  std::string endless = "\x78\x01"s;
  for (int i = 0; i < 400; ++i) endless += "\0\xff\xff\0\0"s + std::string(0xffff, 'x');
  std::string text = chunk("zTXt", "z\0\0"s + endless);
  PngParts parts{1, 1, 8, 2, 0, "\0\x01\x02\x03"s, text + text};
  CHECK(image_text(bytes(parts.file()), "f") == ImageText{{"z", ""}, {"z", ""}});
  parts.before += text;
  CHECK_THROWS_WITH_AS(image_text(bytes(parts.file()), "f"), doctest::Contains("the texts in it are larger than"), Error);
}

TEST_CASE("texts that a PNG cannot hold are refused") {
  auto said = [](std::string key, std::string value) { return refusal([&] { encode_png(pattern(1, 1), {{key, value}}); }); };
  for (std::string key : {""s, " a"s, "a "s, "a  b"s, std::string(80, 'k'), "\xe7\x8c\xab"s, "a\nb"s, "a\0b"s, "\xff"s})
    CHECK(contains(said(key, "x"), "cannot be the key of a text in a PNG: expected 1 to 79 printable Latin-1 characters"));
  CHECK(said(std::string(79, 'k'), "x") == "accepted");
  CHECK(contains(said("key", "a\0b"s), "the text \"key\" for the picture has a zero byte"));
  CHECK(contains(said("key", "\xff"), "the text \"key\" for the picture is not UTF-8"));
}

TEST_CASE("JPEG and WebP carry the parameters as UTF-16 UserComment, and other keys in tags") {
  ImageText text{{"parameters",
                  "a \xf0\x9f\x90\xb1, gr\xc3\xbc\xc3\x9f"
                  "e\nSteps: 20"},
                 {"prompt", "{\"a\":1}"},
                 {"workflow", "x:y"}};
  for (auto& file : {encode_jpeg(pattern(8, 8), 90, text), encode_webp(pattern(8, 8), 90, true, text),
                     encode_webp(pattern(8, 8), 90, false, text)}) {
    CHECK(image_text(bytes(file), "f") == text);
    CHECK(contains(file, "UNICODE\0\0a\0 \xd8\x3d\xdc\x31"s));
    CHECK(contains(file, "prompt:{\"a\":1}"));
    CHECK(decode(file).pixels.dim(1) == 8);
  }
  CHECK(image_text(bytes(encode_jpeg(pattern(8, 8), 90, {{"parameters", ""}})), "f").empty());
  CHECK(image_text(bytes(encode_jpeg(pattern(8, 8), 90)), "f").empty());
  CHECK(contains(refusal([] {
                   encode_jpeg(pattern(8, 8), 90, {{"parameters", std::string(40'000, 'x')}});
                 }),
                 "a JPEG holds 65533 bytes of text, and there are 80"));
  CHECK(contains(refusal([] {
                   build_exif({{"a", ""}, {"b", ""}, {"c", ""}, {"d", ""}, {"e", ""}});
                 }),
                 "EXIF holds \"parameters\" and 4 other texts, and \"e\" is one more"));
  CHECK(contains(refusal([] { build_exif({{"parameters", "\xff"}}); }), "the text \"parameters\" for the picture is not UTF-8"));
}

TEST_CASE("user comments of other writers are read") {
  auto comment = [](const std::string& value) {
    // Low byte first: directory 0 points at the EXIF directory at 26, whose comment is at 44.
    std::string out = "II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x1a\0\0\0\0\0\0\0"s;
    out += "\x01\0\x86\x92\x07\0"s + char(value.size()) + "\0\0\0\x2c\0\0\0\0\0\0\0"s + value;
    auto text = parse_exif(out).text;
    return text.empty() ? "none" : text[0].second;
  };
  CHECK(comment("ASCII\0\0\0plain text\0"s) == "plain text");
  CHECK(comment("\0\0\0\0\0\0\0\0no code"s) == "no code");
  CHECK(comment("UNICODE\0\0h\0i"s) == "hi");
  CHECK(comment("UNICODE\0h\0i\0"s) == "hi");
  CHECK(comment("UNICODE\0\xfe\xff\0h\0i"s) == "hi");
  CHECK(comment("UNICODE\0\xff\xfeh\0i\0"s) == "hi");
  CHECK(comment("JIS\0\0\0\0\0abc"s) == "none");
}

TEST_CASE("a WebP whose EXIF starts with the JPEG mark is read too") {
  std::string file = encode_webp(pattern(4, 4), 90, true, {{"parameters", "text"}});
  size_t at = file.find("EXIF");
  REQUIRE(at != std::string::npos);
  std::string exif = "Exif\0\0"s + build_exif({{"parameters", "text"}});
  std::string length{char(exif.size()), 0, 0, 0};
  CHECK(image_text(bytes(file.substr(0, at + 4) + length + exif), "f") == ImageText{{"parameters", "text"}});
}

TEST_CASE("sizes over the limits are refused before anything is allocated") {
  CHECK(contains(why_refused(PngParts{16385, 1, 8, 0, 0, "", ""}.file()),
                 "f: the picture is 16385 x 1 pixels, and at most 16384 a side are read"));
  CHECK(contains(why_refused(PngParts{2'000'000'000, 2'000'000'000, 16, 6, 0, "", ""}.file()), "at most 16384 a side"));
  for (auto& file : {encode_png(pattern(8, 8)), encode_jpeg(pattern(8, 8)), encode_webp(pattern(8, 8)), kAnimatedWebp}) {
    CHECK(contains(refusal([&] { decode_image(bytes(file), "f", {.side = 2}); }), "at most 2 a side are read"));
    CHECK(
        contains(refusal([&] { decode_image(bytes(file), "f", {.side = 99, .pixels = 5}); }), "pixels, and at most 5 are read"));
  }
  CHECK(contains(why_refused(PngParts{0, 1, 8, 0, 0, "", ""}.file()), "f: not a valid PNG file: "));
}

TEST_CASE("what is no picture, or a broken one, is refused by name") {
  CHECK(why_refused("") == "f: not a picture: the file is empty");
  CHECK(why_refused("GIF89a........") == "f: not a picture that can be read: expected PNG, JPEG or WebP");
  CHECK(contains(why_refused("\x89PNG\r\n\x1a\n"), "f: not a valid PNG file: it is cut short"));
  CHECK(contains(why_refused("\xff\xd8\xff\xd9"), "f: not a valid JPEG file: "));
  CHECK(contains(why_refused("RIFF\x04\0\0\0WEBP"s), "f: not a valid WebP file: "));
  std::string png = encode_png(pattern(20, 20)), jpeg = encode_jpeg(pattern(20, 20)), webp = encode_webp(pattern(20, 20));
  CHECK(contains(why_refused(png.substr(0, png.size() / 2)), "f: not a valid PNG file: it is cut short"));
  CHECK(contains(why_refused(jpeg.substr(0, jpeg.size() - 40)), "f: not a valid JPEG file: it is cut short"));
  CHECK(contains(why_refused(webp.substr(0, webp.size() / 2)), "f: not a valid WebP file: it is cut short"));
  png[png.find("IDAT") + 10] ^= 1;
  CHECK(contains(why_refused(png), "f: not a valid PNG file: "));
}

TEST_CASE("a JPEG of more scans than its size warrants is refused") {
  // The grey picture as a progressive one, of so many scans of nothing but the first coefficients.
  auto scanned = [](int scans, int side) {
    std::string file = kGreyJpeg;
    size_t frame = file.find("\xff\xc0"), scan = file.find("\xff\xda");
    REQUIRE(frame != std::string::npos);
    REQUIRE(scan != std::string::npos);
    file[frame + 1] = '\xc2';
    if (side) file[frame + 5] = file[frame + 7] = char(side >> 8), file[frame + 6] = file[frame + 8] = char(side & 255);
    file[scan + 8] = 0;  // the last coefficient
    std::string body = file.substr(scan, file.size() - scan - 2), out = file.substr(0, scan);
    for (int i = 0; i < scans; ++i) out += body;
    return out + "\xff\xd9";
  };
  CHECK(decode(scanned(200, 0)).pixels.count() == 3 * 8);
  CHECK(contains(why_refused(scanned(201, 0)), "it has more than 200 scans"));
  CHECK(contains(why_refused(scanned(60, 8192)), "it has more than 59 scans"));
}

TEST_CASE("small pictures cut anywhere, or with any byte changed, are read or refused") {
  ImageText text{{"parameters", "t"}};
  for (auto& whole : {encode_png(pattern(3, 2), text), encode_jpeg(pattern(3, 2), 90, text),
                      encode_webp(pattern(3, 2), 90, false, text), encode_webp(pattern(3, 2), 90, true), kGreyJpeg, kCmykJpeg,
                      kAnimatedWebp, kAlphaWebp, PngParts{2, 2, 8, 0, 1, "\0\x01\0\x02\0\x03\x04"s, ""}.file()}) {
    auto survives = [](const std::string& file) {
      // An own allocation of the exact size, so that a sanitizer sees any read behind it.
      std::vector<std::byte> copy(bytes(file).begin(), bytes(file).end());
      bool good = true;
      auto attempt = [&](auto&& read) {
        try {
          read();
        } catch (const Error&) {
          good = false;
        }
      };
      attempt([&] { decode_image(copy, "f", {.side = 64, .pixels = 4096}); });
      attempt([&] { image_text(copy, "f"); });
      return good;
    };
    REQUIRE(survives(whole));
    for (size_t size = 0; size < whole.size(); ++size) survives(whole.substr(0, size));
    REQUIRE(!survives(whole.substr(0, whole.size() / 2)));
    for (size_t at = 0; at < whole.size(); ++at) {
      for (int value : {0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, whole[at] ^ 1, whole[at] ^ 0x10}) {
        std::string changed = whole;
        changed[at] = char(value);
        survives(changed);
      }
    }
  }
}

TEST_CASE("pictures are written by the ending of the name and read by their content") {
  TemporaryFolder folder;
  Tensor picture = pattern(9, 11);
  write_image(folder / "a.PNG", picture, {{"parameters", "x"}});
  std::filesystem::rename(folder / "a.PNG", folder / "a.jpg");
  CHECK(largest_difference(read_image(folder / "a.jpg").pixels, picture) < 1e-6f);
  CHECK(read_image_text(folder / "a.jpg") == ImageText{{"parameters", "x"}});
  write_image(folder / "b.jpeg", picture);
  CHECK(image_format(bytes(read_file(folder / "b.jpeg"))) == ImageFormat::Jpeg);
  write_image(folder / "c.webp", picture, {}, {.lossless = true});
  CHECK(largest_difference(read_image(folder / "c.webp").pixels, picture) < 1e-6f);
  CHECK(contains(refusal([&] { write_image(folder / "d.bmp", picture); }), "the name ends in \".bmp\""));
  CHECK(contains(refusal([&] { write_image(folder / "none" / "e.png", picture); }), "No such file or directory"));
  CHECK(contains(refusal([&] { read_image(folder / "missing.png"); }), "missing.png: cannot open: No such file or directory"));
}

TEST_CASE("tensors that are no pictures and qualities out of range are refused") {
  CHECK(contains(refusal([] {
                   encode_png(Tensor(DType::f32, {4, 4}));
                 }),
                 "a picture to write must be f32 or u8 [height, width, 3], and this is f32 [4, 4]"));
  CHECK(contains(refusal([] { encode_png(Tensor(DType::f16, {4, 4, 3})); }), "and this is f16 [4, 4, 3]"));
  CHECK(contains(refusal([] { encode_png(Tensor(DType::f32, {0, 4, 3})); }), "and this is f32 [0, 4, 3]"));
  CHECK(contains(refusal([] { encode_jpeg(pattern(1, 1), 0); }), "JPEG quality 0: expected 1 to 100"));
  CHECK(contains(refusal([] { encode_webp(pattern(1, 1), 101); }), "WebP quality 101: expected 1 to 100"));
  CHECK(contains(refusal([] { encode_jpeg(pattern(1, 65536)); }), "a JPEG has at most 65535 pixels a side"));
  CHECK(contains(refusal([] { encode_webp(pattern(1, 16384)); }), "a WebP has at most 16383 pixels a side"));
}

}  // namespace
}  // namespace sinter
