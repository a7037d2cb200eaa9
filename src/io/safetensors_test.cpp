#include "io/safetensors.h"

#include <doctest/doctest.h>

#include <chrono>
#include <cstring>
#include <ctime>

#include "base/error.h"
#include "golden.h"
#include "patience.h"
#include "refusal.h"
#include "temporary_folder.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;

std::string length_bytes(uint64_t length) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += char(length >> (8 * i));
  return out;
}

/// A file with this header text and `data` bytes behind it.
std::string file_of(const std::string& json, size_t data) { return length_bytes(json.size()) + json + std::string(data, 'd'); }

SafetensorsHeader parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file.data(), file.size())), "f.safetensors");
}

std::string why_refused(const std::string& json, size_t data) {
  return refusal([&] { parse(file_of(json, data)); });
}

/// The refusal without its fixed beginning.
std::string rule(const std::string& json, size_t data) {
  const std::string begin = "f.safetensors: not a valid safetensors file: ";
  std::string said = why_refused(json, data);
  return said.starts_with(begin) ? said.substr(begin.size()) : said;
}

TEST_CASE("a plain header is read as it is written") {
  auto header = parse(file_of(R"({"b":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]},)"
                              R"("__metadata__":{"format":"pt","x":"\u00fc"},)"
                              R"("a":{"data_offsets":[0,4],"shape":[],"dtype":"F32"},)"
                              R"("empty":{"dtype":"I64","shape":[0,7],"data_offsets":[4,4]}}   )",
                              16));
  REQUIRE(header.entries.size() == 3);
  CHECK(header.entries[0].name == "a");
  CHECK(header.entries[0].shape.empty());
  CHECK(header.entries[0].dtype == DType::f32);
  CHECK(header.entries[1].name == "b");
  CHECK(header.entries[1].shape == std::vector<int64_t>{2, 3});
  CHECK(header.entries[1].type == "F16");
  CHECK(header.entries[1].bytes == 12);
  CHECK(header.entries[1].offset == header.entries[0].offset + 4);
  CHECK(header.entries[2].bytes == 0);
  CHECK(header.metadata == Metadata{{"format", "pt"}, {"x", "\xc3\xbc"}});
}

TEST_CASE("a file without tensors is valid") {
  CHECK(parse(file_of("{}", 0)).entries.empty());
  CHECK(parse(file_of(R"({"__metadata__":{}})", 0)).metadata.empty());
}

TEST_CASE("each rule about lengths is checked before the JSON") {
  auto said = [](std::string file) { return refusal([&] { parse(file); }); };
  CHECK(contains(said("1234567"), "the file has 7 bytes, where at least 8 were expected (HeaderTooSmall)"));
  CHECK(contains(said(length_bytes(100'000'001) + "{}"),
                 "the header has 100000001 bytes, and at most 100000000 are allowed (HeaderTooLarge)"));
  CHECK(contains(said(length_bytes(UINT64_MAX) + "{}"), "(HeaderTooLarge)"));
  CHECK(contains(said(length_bytes(UINT64_MAX - 7) + "{}"), "(HeaderTooLarge)"));
  CHECK(contains(said(length_bytes(3) + "{}"),
                 "the header has 3 bytes, and the file only 10: it is cut short (InvalidHeaderLength)"));
}

TEST_CASE("what is no UTF-8 or no JSON is refused") {
  CHECK(rule("{\"\xff\":1}", 0) == "the header is not UTF-8 from its byte 2 on (InvalidHeader)");
  CHECK(contains(rule("", 0), "is not JSON"));
  CHECK(contains(rule("{", 0), "is not JSON"));
  CHECK(contains(rule("{}x", 0), "is not JSON from its byte 3 on (InvalidHeaderDeserialization)"));
  CHECK(contains(rule("{\"a\":NaN}", 0), "is not JSON"));
  CHECK(contains(rule(std::string("{}\0", 3), 0), "is not JSON from its byte 2 on"));
  CHECK(contains(rule("\xef\xbb\xbf{}", 0), "byte order mark"));
}

TEST_CASE("a header of another form is refused with the field and what was expected") {
  CHECK(contains(rule("[]", 0), "the header is a list, where an object was expected (InvalidHeaderDeserialization)"));
  CHECK(contains(rule("7", 0), "the header is a number, where an object was expected"));
  CHECK(contains(rule(R"({"a":1})", 0), "\"a\" is a number, where an object was expected"));
  CHECK(contains(rule(R"({"a":[]})", 0), "\"a\" is a list, where an object was expected"));
  CHECK(contains(rule(R"({"a":{}})", 0), "tensor \"a\": it has no dtype"));
  CHECK(contains(rule(R"({"a":{"dtype":"U8"}})", 0), "tensor \"a\": it has no shape"));
  CHECK(contains(rule(R"({"a":{"dtype":"U8","shape":[]}})", 0), "tensor \"a\": it has no data_offsets"));
  CHECK(contains(rule(R"({"a":{"dtype":8}})", 0), "dtype is a number, where a text was expected"));
  CHECK(contains(rule(R"({"a":{"dtype":[]}})", 0), "dtype is a list, where a text was expected"));
  CHECK(contains(rule(R"({"a":{"dtype":"f32"}})", 0), "the dtype \"f32\" is unknown"));
  CHECK(contains(rule(R"({"a":{"shape":"1"}})", 0), "shape is a text, where a list was expected"));
  CHECK(contains(rule(R"({"a":{"shape":{}}})", 0), "shape is an object, where a list was expected"));
  CHECK(contains(rule(R"({"a":{"shape":[-1]}})", 0), "the shape holds a negative number, where a size was expected"));
  CHECK(contains(rule(R"({"a":{"shape":[1.0]}})", 0), "the shape holds a number that is no 64-bit integer"));
  CHECK(contains(rule(R"({"a":{"shape":[99999999999999999999]}})", 0), "the shape holds a number that is no 64-bit integer"));
  CHECK(contains(rule(R"({"a":{"shape":[[1]]}})", 0), "the shape holds a list"));
  CHECK(contains(rule(R"({"a":{"data_offsets":[0]}})", 0), "data_offsets has 1 numbers, where two were expected"));
  CHECK(contains(rule(R"({"a":{"data_offsets":[0,1,2]}})", 0), "data_offsets has more than two numbers"));
  CHECK(contains(rule(R"({"a":{"data_offsets":[0,null]}})", 0), "data_offsets holds null, where an offset was expected"));
  CHECK(contains(rule(R"({"__metadata__":[]})", 0), "\"__metadata__\" is a list, where an object was expected"));
  CHECK(contains(rule(R"({"__metadata__":{"a":1}})", 0), "the metadata entry \"a\" is a number, where a text was expected"));
  CHECK(contains(rule(R"({"__metadata__":{"a":{}}})", 0), "the metadata entry \"a\" is an object, where a text was expected"));
  std::string axes = "1";
  for (int i = 0; i < 64; ++i) axes += ",1";
  CHECK(contains(rule(R"({"a":{"shape":[)" + axes + "]}}", 0), "the shape has more than 64 axes"));
}

TEST_CASE("equal names are refused wherever they stand") {
  std::string a = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  std::string again = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]})";
  std::string escaped = R"("\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]})";
  CHECK(contains(rule("{" + a + "," + again + "}", 2), "it has the tensor \"a\" twice (InvalidHeaderDeserialization)"));
  CHECK(contains(rule("{" + a + "," + escaped + "}", 2), "it has the tensor \"a\" twice"));
  CHECK(contains(rule(R"({"__metadata__":{},"__metadata__":{}})", 0), "it has __metadata__ twice"));
  CHECK(contains(rule(R"({"__metadata__":{"k":"1","k":"1"}})", 0), "the metadata has the key \"k\" twice"));
  CHECK(contains(rule(R"({"a":{"shape":[],"shape":[]}})", 0), "tensor \"a\": it has shape twice"));
}

TEST_CASE("fields that are not of the format are passed over, however deep") {
  auto header = parse(file_of(R"({"a":{"x":{"y":[1,{"shape":[]}],"z":null},"dtype":"U8","w":[[[]]],"shape":[1],)"
                              R"("v":-1.5,"data_offsets":[0,1],"u":true}})",
                              1));
  CHECK(header.entries.at(0).bytes == 1);
  std::string deep = R"({"a":{"x":)" + std::string(100'000, '[') + std::string(100'000, ']') + "}}";
  CHECK(contains(rule(deep, 0), "it has no dtype"));
}

TEST_CASE("data with holes, overlaps, or bytes left over are refused") {
  auto two = [](const char* first, const char* second) {
    return fmt::format(
        R"({{"a":{{"dtype":"U8","shape":[2],"data_offsets":[{}]}},"b":{{"dtype":"U8","shape":[2],"data_offsets":[{}]}}}})", first,
        second);
  };
  CHECK(rule(two("0,2", "2,4"), 4) == "accepted");
  CHECK(rule(two("2,4", "0,2"), 4) == "accepted");
  CHECK(rule(two("0,2", "3,5"), 5) ==
        "tensor \"b\": its data are at [3, 5), where the previous tensor ended at 2: there is a hole (InvalidOffset)");
  CHECK(rule(two("0,2", "1,3"), 3) ==
        "tensor \"b\": its data are at [1, 3), where the previous tensor ended at 2: they overlap (InvalidOffset)");
  CHECK(rule(two("0,2", "0,2"), 2) ==
        "tensor \"b\": its data are at [0, 2), where the previous tensor ended at 2: they overlap (InvalidOffset)");
  CHECK(rule(two("1,3", "3,5"), 5) ==
        "tensor \"a\": its data are at [1, 3), where the previous tensor ended at 0: there is a hole (InvalidOffset)");
  CHECK(rule(two("0,2", "2,1"), 4) ==
        "tensor \"b\": its data are at [2, 1), where the previous tensor ended at 2 (InvalidOffset)");
  CHECK(rule(two("0,2", "2,4"), 5) == "1 bytes follow the last tensor (MetadataIncompleteBuffer)");
  CHECK(rule(two("0,2", "2,4"), 3) == "the tensors need 4 bytes, and the file has 3: it is cut short (MetadataIncompleteBuffer)");
  CHECK(rule("{}", 1) == "1 bytes follow the last tensor (MetadataIncompleteBuffer)");
}

TEST_CASE("shape and type must agree with the number of bytes, without overflow") {
  auto one = [](const char* dtype, const char* shape, const char* offsets) {
    return fmt::format(R"({{"t":{{"dtype":"{}","shape":[{}],"data_offsets":[{}]}}}})", dtype, shape, offsets);
  };
  CHECK(rule(one("F32", "2", "0,4"), 4) == "tensor \"t\": F32 [2] needs 8 bytes, and data_offsets give 4 (TensorInvalidInfo)");
  CHECK(rule(one("F32", "", "0,4"), 4) == "accepted");
  CHECK(rule(one("F32", "0", "0,4"), 4) == "tensor \"t\": F32 [0] needs 0 bytes, and data_offsets give 4 (TensorInvalidInfo)");
  CHECK(contains(rule(one("U8", "4294967296,4294967296", "0,0"), 0), "has more bits than can be counted (ValidationOverflow)"));
  CHECK(contains(rule(one("F64", "1152921504606846976", "0,0"), 0), "has more bits than can be counted (ValidationOverflow)"));
  CHECK(contains(rule(one("U8", "9223372036854775808", "0,0"), 0),
                 "the size 9223372036854775808 is too large (ValidationOverflow)"));
  CHECK(rule(one("F4", "3", "0,1"), 1) == "tensor \"t\": the shape [3] of F4 is no whole number of bytes (MisalignedSlice)");
  CHECK(contains(rule(one("U8", "18446744073709551615", "0,18446744073709551615"), 0), "(ValidationOverflow)"));
  CHECK(contains(rule(one("U8", "9223372036854775807", "0,9223372036854775807"), 0), "(ValidationOverflow)"));
  const std::pair<const char*, int> sizes[] = {
      {"BOOL", 64},        {"U8", 64},          {"I8", 64},      {"F8_E5M2", 64}, {"F8_E4M3", 64}, {"F8_E8M0", 64},
      {"F8_E4M3FNUZ", 64}, {"F8_E5M2FNUZ", 64}, {"I16", 128},    {"U16", 128},    {"F16", 128},    {"BF16", 128},
      {"I32", 256},        {"U32", 256},        {"F32", 256},    {"I64", 512},    {"U64", 512},    {"F64", 512},
      {"C64", 512},        {"F4", 32},          {"F6_E2M3", 48}, {"F6_E3M2", 48}};
  for (auto [type, bytes] : sizes) {
    CAPTURE(type);
    std::string offsets = fmt::format("0,{}", bytes), more = fmt::format("0,{}", bytes + 1);
    CHECK(rule(one(type, "8,8", offsets.c_str()), size_t(bytes)) == "accepted");
    CHECK(contains(rule(one(type, "8,8", more.c_str()), size_t(bytes + 1)), "(TensorInvalidInfo)"));
  }
}

TEST_CASE("files of other kinds are named for what they are") {
  auto said = [](std::string file) { return refusal([&] { parse(file + std::string(100, ' ')); }); };
  CHECK(contains(said("PK\x03\x04\x14" + std::string(3, '\0')),
                 "f.safetensors: not a safetensors file: this is a zip archive, most likely a PyTorch checkpoint; convert it"));
  CHECK(contains(said("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46"), "this is a Python pickle"));
  CHECK(contains(said("GGUF\x03" + std::string(3, '\0')), "this is a GGUF file"));
  CHECK(contains(said("<!DOCTYPE html><html>"), "this is an HTML or XML page"));
  CHECK(contains(said("\n <HTML>"), "this is an HTML or XML page"));
  CHECK(contains(said("version https://git-lfs.github.com/spec/v1\n"), "this is a Git LFS pointer"));
  CHECK(contains(said(R"({"error": "not found"})"), "this is JSON text"));
  CHECK(contains(refusal([] { parse(""); }), "this is an empty file; download it again"));
}

TEST_CASE("a small file cut anywhere, or with any byte changed, is read or refused and never read outside") {
  std::string whole = file_of(R"({"__metadata__":{"k":"v"},"a":{"dtype":"F16","shape":[2,1],"data_offsets":[0,4]},)"
                              R"("b":{"dtype":"U8","shape":[3],"data_offsets":[4,7]}})",
                              7);
  auto survives = [](const std::string& file) {
    // An own allocation of the exact size, so that a sanitizer sees any read behind it.
    auto all = std::as_bytes(std::span(file.data(), file.size()));
    std::vector<std::byte> bytes(all.begin(), all.end());
    try {
      for (auto& entry : parse_safetensors(bytes, "f").entries) REQUIRE(entry.offset + entry.bytes <= bytes.size());
      return true;
    } catch (const Error&) {
      return false;
    }
  };
  REQUIRE(survives(whole));
  for (size_t size = 0; size < whole.size(); ++size) REQUIRE(!survives(whole.substr(0, size)));
  for (size_t at = 0; at < whole.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = whole;
      changed[at] = char(value);
      survives(changed);
    }
  }
}

Tensor bytes_of(DType dtype, std::vector<int64_t> shape, unsigned start) {
  Tensor out(dtype, std::move(shape));
  for (int64_t i = 0; i < out.bytes(); ++i) out.data()[i] = std::byte(start + unsigned(i) * 31);
  return out;
}

bool same(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() && std::memcmp(a.data(), b.data(), size_t(a.bytes())) == 0;
}

TEST_CASE("what is written is read again, for every element type") {
  TemporaryFolder folder;
  std::map<std::string, Tensor> tensors;
  for (DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2, DType::f64, DType::i64, DType::i32,
                      DType::i16, DType::i8, DType::u64, DType::u32, DType::u16, DType::u8, DType::boolean})
    tensors["layer." + std::string(name(dtype))] = bytes_of(dtype, {3, 5}, unsigned(dtype));
  tensors["scalar"] = bytes_of(DType::f32, {}, 9);
  tensors["nothing"] = Tensor(DType::f16, {4, 0});
  tensors["\xe7\x8c\xab \"\\\n"] = bytes_of(DType::u8, {1}, 9);
  Metadata metadata{{"format", "pt"}, {"quote\"", "line\nbreak \xf0\x9f\x90\xb1"}};
  write_safetensors(folder / "a.safetensors", tensors, metadata);

  auto file = SafetensorsFile::open(folder / "a.safetensors");
  CHECK(file->metadata() == metadata);
  REQUIRE(file->entries().size() == tensors.size());
  for (auto& [name, tensor] : tensors) {
    CAPTURE(name);
    CHECK(same(file->tensor(name), tensor));
  }
  CHECK(std::is_sorted(file->entries().begin(), file->entries().end(), [](auto& a, auto& b) { return a.name < b.name; }));
  CHECK(!file->find("layer"));
  CHECK(contains(refusal([&] { file->tensor("layer"); }), "a.safetensors: there is no tensor \"layer\""));
}

TEST_CASE("the writer orders by element size and then name, and aligns the data to 8") {
  TemporaryFolder folder;
  write_safetensors(folder / "a", {{"a", bytes_of(DType::u8, {3}, 0)},
                                   {"z", bytes_of(DType::f32, {1}, 0)},
                                   {"b", bytes_of(DType::f32, {1}, 0)},
                                   {"h", bytes_of(DType::f16, {1}, 0)}});
  std::string text = read_file(folder / "a");
  auto at = [&](const char* name) { return text.find(fmt::format("\"{}\":", name)); };
  CHECK(at("b") < at("z"));
  CHECK(at("z") < at("h"));
  CHECK(at("h") < at("a"));
  auto file = SafetensorsFile::open(folder / "a");
  CHECK(file->find("b")->offset % 8 == 0);
  CHECK(file->find("a")->offset + 3 == text.size());
}

TEST_CASE("a tensor outlives its file object") {
  TemporaryFolder folder;
  write_safetensors(folder / "a", {{"t", Tensor::of({2}, std::vector<float>{1.5f, -2.0f})}});
  Tensor tensor = SafetensorsFile::open(folder / "a")->tensor("t");
  fs::remove(folder / "a");
  CHECK(tensor.to(DType::f64).dtype() == DType::f64);
  CHECK(tensor.f32()[1] == -2.0f);
}

TEST_CASE("types that we lack are listed, and their tensors refused") {
  TemporaryFolder folder;
  write_atomically(folder / "a", file_of(R"({"s":{"dtype":"F8_E8M0","shape":[4],"data_offsets":[0,4]}})", 4));
  auto file = SafetensorsFile::open(folder / "a");
  CHECK(file->entries().at(0).type == "F8_E8M0");
  CHECK(!file->entries().at(0).dtype);
  CHECK(contains(refusal([&] { file->tensor("s"); }), "the tensor \"s\" is of type F8_E8M0, which is not supported"));
}

TEST_CASE("no key is written with _orig_mod. in it, and names that become equal are refused") {
  TemporaryFolder folder;
  Tensor one = bytes_of(DType::u8, {1}, 1), two = bytes_of(DType::u8, {1}, 2);
  write_safetensors(folder / "a", {{"_orig_mod.x", one}, {"y._orig_mod.z", two}});
  auto file = SafetensorsFile::open(folder / "a");
  CHECK(same(file->tensor("x"), one));
  CHECK(same(file->tensor("y.z"), two));
  CHECK(without_compile_marks("_orig__orig_mod.mod.x") == "x");
  CHECK(contains(refusal([&] {
                   write_safetensors(folder / "b", {{"_orig_mod.x", one}, {"x", two}});
                 }),
                 "two tensors are called \"x\""));
  CHECK(contains(refusal([&] { write_safetensors(folder / "b", {{"__metadata__", one}}); }), "cannot be called __metadata__"));
  CHECK(contains(refusal([&] { write_safetensors(folder / "b", {{"\xff", one}}); }), "the name of a tensor is not UTF-8"));
  CHECK(contains(refusal([&] { write_safetensors(folder / "b", {{"x", Tensor()}}); }), "the tensor \"x\" has no data to write"));
  CHECK(!fs::exists(folder / "b"));
}

TEST_CASE("a name of a million _orig_mod. is cleaned in one pass") {
  std::string mark = "_orig_mod.", name;
  for (int i = 0; i < 1'000'000; ++i) name += mark;
  auto begin = std::clock();
  CHECK(without_compile_marks(name + "x") == "x");
  CHECK(double(std::clock() - begin) / CLOCKS_PER_SEC <
        10 * kPatience);  // with a search from the start for each it takes minutes
}

TEST_CASE("a file is written tensor by tensor, in pieces, and the number of bytes is watched") {
  TemporaryFolder folder;
  std::vector<TensorDeclaration> declarations{{"small", DType::u8, {5}}, {"large", DType::f32, {1000, 3}}};
  std::vector<std::string> order;
  write_safetensors(folder / "a", declarations, {}, [&](const TensorDeclaration& tensor, const TensorSink& sink) {
    order.push_back(tensor.name);
    for (int64_t left = element_count(tensor.shape) * byte_size(tensor.dtype); left > 0; left -= 500)
      sink(std::string(size_t(std::min<int64_t>(left, 500)), tensor.name[0]).data(), size_t(std::min<int64_t>(left, 500)));
  });
  CHECK(order == std::vector<std::string>{"large", "small"});
  Tensor small = SafetensorsFile::open(folder / "a")->tensor("small");
  CHECK(std::memcmp(small.data(), "sssss", 5) == 0);

  auto writing = [&](size_t bytes) {
    return refusal([&] {
      write_safetensors(folder / "b", {{"t", DType::u8, {4}}}, {},
                        [&](auto&, const TensorSink& sink) { sink("12345678", bytes); });
    });
  };
  CHECK(contains(writing(3), "the tensor \"t\" got 1 bytes too few\n  while writing "));
  CHECK(contains(writing(5), "the tensor \"t\" got 1 bytes too many"));
  CHECK(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()) == 1);
}

TEST_CASE("writing clears away what a killed writer left in the folder") {
  TemporaryFolder folder;
  write_atomically(folder / ".a.safetensors.sinter-abc123.tmp", "half");
  write_safetensors(folder / "a.safetensors", {{"x", bytes_of(DType::u8, {1}, 1)}});
  CHECK(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()) == 1);
}

TEST_CASE("golden files are read, and written again with the same content") {
  auto golden = golden_folder();
  if (!golden) {
    MESSAGE("skipped: golden data not found");
    return;
  }
  int files = 0;
  for (auto& at : fs::recursive_directory_iterator(*golden)) {
    if (at.path().extension() != ".safetensors") continue;
    CAPTURE(at.path().string());
    auto file = SafetensorsFile::open(at.path());
    ++files;
    if (file->file().size() > 20'000'000) continue;
    TemporaryFolder folder;
    std::map<std::string, Tensor> tensors;
    for (auto& entry : file->entries()) tensors[entry.name] = file->tensor(entry);
    write_safetensors(folder / "copy", tensors, file->metadata());
    auto copy = SafetensorsFile::open(folder / "copy");
    REQUIRE(copy->entries().size() == tensors.size());
    for (auto& [name, tensor] : tensors) REQUIRE(same(copy->tensor(name), tensor));
  }
  CHECK(files > 10);
}

TEST_CASE("a header of the size of SDXL's is read in full") {
  std::string json = "{";
  uint64_t at = 0;
  for (int i = 0; i < 2513; ++i) {
    json += fmt::format(R"({}"model.diffusion_model.output_blocks.{}.1.transformer_blocks.{}.attn2.to_out.0.weight.{}":)"
                        R"({{"dtype":"F16","shape":[1280,1280],"data_offsets":[{},{}]}})",
                        i ? "," : "", i % 12, i % 10, i, at, at + 2);
    json.replace(json.rfind("1280,1280"), 9, "1");
    at += 2;
  }
  std::string file = file_of(json + "}", at);
  auto start = std::chrono::steady_clock::now();
  CHECK(parse(file).entries.size() == 2513);
  std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  MESSAGE("read a header of " << json.size() << " bytes in " << took.count() << " ms");
}

}  // namespace
}  // namespace sinter
