#include "io/checkpoint.h"

#include <doctest/doctest.h>

#include <cstring>

#include "base/error.h"
#include "golden.h"
#include "refusal.h"
#include "temporary_folder.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;

Tensor number(float value) { return Tensor::of({1}, std::vector<float>{value}); }

/// A file with tensors of the given names, holding 0, 1, 2, ...
void put(const fs::path& path, const std::vector<std::string>& names, const Metadata& metadata = {}) {
  std::map<std::string, Tensor> tensors;
  for (size_t i = 0; i < names.size(); ++i) tensors[names[i]] = number(float(i));
  write_safetensors(path, tensors, metadata);
}

float value(const Checkpoint& checkpoint, const char* name) { return checkpoint.tensor(name).to(DType::f32).f32()[0]; }

/// Raw bytes of a file whose keys our writer would not write.
void put_marked(const fs::path& path, const std::vector<std::string>& names) {
  std::string json = "{";
  for (size_t i = 0; i < names.size(); ++i)
    json += fmt::format(R"({}"{}":{{"dtype":"U8","shape":[1],"data_offsets":[{},{}]}})", i ? "," : "", names[i], i, i + 1);
  json += "}";
  std::string length;
  for (int i = 0; i < 8; ++i) length += char(json.size() >> (8 * i));
  write_atomically(path, length + json + std::string(names.size(), 'x'));
}

using Names = std::vector<std::string>;

TEST_CASE("one file is one checkpoint") {
  TemporaryFolder folder;
  put(folder / "a.safetensors", {"model.x", "model.y", "vae.x"}, {{"format", "pt"}});
  Checkpoint checkpoint = Checkpoint::open(folder / "a.safetensors");
  CHECK(checkpoint.names() == Names{"model.x", "model.y", "vae.x"});
  CHECK(checkpoint.metadata().at("format") == "pt");
  CHECK(checkpoint.path() == folder / "a.safetensors");
  auto info = checkpoint.find("model.y");
  REQUIRE(info);
  CHECK(info->dtype == DType::f32);
  CHECK(info->shape == std::vector<int64_t>{1});
  CHECK(info->bytes == 4);
  CHECK(info->file == (folder / "a.safetensors").string());
  CHECK(!checkpoint.find("model"));
  CHECK(value(checkpoint, "model.y") == 1);
  checkpoint.will_need("model.y");
  checkpoint.drop("model.y");
  CHECK(value(checkpoint, "model.y") == 1);
  CHECK(contains(refusal([&] { checkpoint.tensor("z"); }), "a.safetensors: there is no tensor \"z\""));
}

TEST_CASE("a prefix view holds exactly the names that start with it, without it, and lives on its own") {
  TemporaryFolder folder;
  put(folder / "a.safetensors", {"model.x", "model.y.z", "models", "vae.x"});
  Checkpoint model = Checkpoint::open(folder / "a.safetensors").prefix("model.");
  CHECK(model.names() == Names{"x", "y.z"});
  CHECK(value(model, "y.z") == 1);
  CHECK(model.prefix("y.").names() == Names{"z"});
  CHECK(model.prefix("none.").names().empty());
}

TEST_CASE("keys are presented without _orig_mod.") {
  TemporaryFolder folder;
  put_marked(folder / "a.safetensors", {"_orig_mod.b.x", "a._orig_mod.y"});
  Checkpoint checkpoint = Checkpoint::open(folder / "a.safetensors");
  CHECK(checkpoint.names() == Names{"a.y", "b.x"});
  CHECK(checkpoint.tensor("b.x").bytes() == 1);
  put_marked(folder / "b.safetensors", {"_orig_mod.x", "x"});
  CHECK(contains(refusal([&] { Checkpoint::open(folder / "b.safetensors"); }),
                 "have the same name when \"_orig_mod.\" is left out"));
}

TEST_CASE("the identity changes with the files") {
  TemporaryFolder folder;
  put(folder / "a.safetensors", {"x"});
  Digest first = Checkpoint::open(folder / "a.safetensors").identity();
  CHECK(Checkpoint::open(folder / "a.safetensors").identity() == first);
  put(folder / "a.safetensors", {"x", "y"});
  CHECK(Checkpoint::open(folder / "a.safetensors").identity() != first);
}

struct Sharded {
  TemporaryFolder folder;
  fs::path index = folder / "model.safetensors.index.json";
  Sharded() {
    put(folder / "model-00001-of-00002.safetensors", {"a", "b"}, {{"format", "pt"}, {"shard", "1"}});
    put(folder / "model-00002-of-00002.safetensors", {"c"}, {{"shard", "2"}});
  }
  Checkpoint open(const std::string& json) {
    write_atomically(index, json);
    return Checkpoint::open(index);
  }
  std::string refused(const std::string& json) {
    return refusal([&] { open(json); });
  }
};

const char* const kIndex = R"({"metadata":{"total_size":12},"weight_map":{"a":"model-00001-of-00002.safetensors",
  "b":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}})";

TEST_CASE("shards are one table") {
  Sharded files;
  Checkpoint checkpoint = files.open(kIndex);
  CHECK(checkpoint.names() == Names{"a", "b", "c"});
  CHECK(value(checkpoint, "b") == 1);
  CHECK(value(checkpoint, "c") == 0);
  CHECK(checkpoint.metadata() == Metadata{{"format", "pt"}, {"shard", "1"}});
  CHECK(checkpoint.files().size() == 2);
  CHECK(checkpoint.path() == files.index);
}

TEST_CASE("shards that do not fit their index are refused") {
  Sharded files;
  CHECK(contains(files.refused(R"({"weight_map":{"c":"model-00001-of-00002.safetensors"}})"),
                 "the tensor \"c\" is not in model-00001-of-00002.safetensors, where the index says it is"));
  CHECK(contains(files.refused(R"({"weight_map":{"z":"model-00001-of-00002.safetensors"}})"), "the tensor \"z\" is not in "));
  CHECK(contains(files.refused(R"({"weight_map":{"a":"model-00003-of-00003.safetensors"}})"),
                 "the shard model-00003-of-00003.safetensors is missing"));
  CHECK(
      contains(files.refused(R"({"weight_map":{"a":"x.safetensors","a":"y.safetensors"}})"), "the key \"a\" stands there twice"));
  CHECK(contains(files.refused(R"({"weight_map":{"a":7}})"), "the weight_map gives the tensor \"a\" no file name"));
  CHECK(contains(files.refused(R"({"weight_map":{}})"), "the weight_map is empty"));
  CHECK(contains(files.refused(R"({"weights":{}})"), "an object with a \"weight_map\" object was expected"));
  CHECK(contains(files.refused(R"([])"), "an object with a \"weight_map\" object was expected"));
  CHECK(contains(files.refused(R"({"weight_map":)"), "model.safetensors.index.json: not JSON: "));
  CHECK(contains(files.refused(std::string(100'000, '[')), "nested too deep"));
  CHECK(contains(files.refused(R"({"weight_map":{"a":"pytorch_model-1.bin"}})"), "is no safetensors file; convert it"));
  put(files.folder / "model-00002-of-00002.safetensors", {"c", "a"});
  CHECK(contains(files.refused(kIndex),
                 "the tensor \"a\" is in both model-00001-of-00002.safetensors and model-00002-of-00002.safetensors"));
}

TEST_CASE("shards outside the index's folder are refused") {
  Sharded files;
  for (std::string shard : {"../a.safetensors", "/etc/a.safetensors", "x/../../a.safetensors", "", "..\\\\a.safetensors"}) {
    CAPTURE(shard);
    CHECK(contains(files.refused(R"({"weight_map":{"a":")" + shard + "\"}}"),
                   "where a file inside the index's folder was expected"));
  }
}

TEST_CASE("a shard may be a link, as model caches have them") {
  Sharded files;
  fs::create_directory(files.folder / "blobs");
  fs::rename(files.folder / "model-00002-of-00002.safetensors", files.folder / "blobs" / "0123abcd");
  fs::create_symlink("blobs/0123abcd", files.folder / "model-00002-of-00002.safetensors");
  CHECK(value(files.open(kIndex), "c") == 0);
}

TEST_CASE("a component folder opens the preferred file of those that are there") {
  TemporaryFolder folder;
  auto names = [&](const char* variant = "") { return Checkpoint::open(folder.path(), variant).names(); };
  CHECK(contains(refusal(names),
                 "the folder has no weights; expected one of diffusion_pytorch_model.safetensors, model.safetensors"));
  write_atomically(folder / "pytorch_model.bin", "PK");
  CHECK(contains(refusal(names), "the weights are in pytorch_model.bin, which is not supported; convert it to safetensors"));
  put(folder / "model.fp16.safetensors", {"half"});
  CHECK(names() == Names{"half"});
  put(folder / "part.safetensors", {"shard"});
  write_atomically(folder / "model.safetensors.index.json", R"({"weight_map":{"shard":"part.safetensors"}})");
  CHECK(names() == Names{"shard"});
  CHECK(names("fp16") == Names{"half"});
  put(folder / "model.safetensors", {"text"});
  CHECK(names() == Names{"text"});
  put(folder / "diffusion_pytorch_model.safetensors", {"unet"});
  CHECK(names() == Names{"unet"});
  CHECK(Checkpoint::open(folder.path()).path() == folder.path());
  CHECK(contains(refusal([&] { names("bf16"); }), "there are no weights of the variant \"bf16\", only plain ones"));
}

TEST_CASE("an index of a variant is found under both of its spellings") {
  for (const char* name : {"model.safetensors.index.fp16.json", "model.fp16.safetensors.index.json"}) {
    TemporaryFolder folder;
    put(folder / "model.fp16-00001-of-00001.safetensors", {"x"});
    write_atomically(folder / name, R"({"weight_map":{"x":"model.fp16-00001-of-00001.safetensors"}})");
    CHECK(Checkpoint::open(folder.path(), "fp16").names() == Names{"x"});
  }
}

TEST_CASE("a whole pipeline is no checkpoint") {
  TemporaryFolder folder;
  write_atomically(folder / "model_index.json", "{}");
  CHECK(contains(refusal([&] { Checkpoint::open(folder.path()); }), "open one of its component folders"));
}

TEST_CASE("other formats are refused by extension and by content") {
  TemporaryFolder folder;
  for (const char* name : {"a.ckpt", "a.pt", "a.PTH", "a.bin", "a.gguf"}) {
    write_atomically(folder / name, "x");
    CHECK(contains(refusal([&] { Checkpoint::open(folder / name); }), "files are not supported; convert it to safetensors"));
  }
  write_atomically(folder / "a.safetensors", "PK\x03\x04 and so on");
  CHECK(contains(refusal([&] { Checkpoint::open(folder / "a.safetensors"); }), "this is a zip archive"));
  CHECK(contains(refusal([&] { Checkpoint::open(folder / "none.safetensors"); }), "cannot open: No such file or directory"));
  CHECK(contains(refusal([&] { Checkpoint::open(folder / "config.json"); }), "of JSON files only an index"));
}

TEST_CASE("golden checkpoints have the parts of their families") {
  auto golden = golden_folder();
  if (!golden || !fs::exists(*golden / "checkpoints" / "tiny_sd15.safetensors")) {
    MESSAGE("skipped: golden checkpoints not found");
    return;
  }
  Checkpoint sd15 = Checkpoint::open(*golden / "checkpoints" / "tiny_sd15.safetensors");
  CHECK(sd15.prefix("model.diffusion_model.").has("input_blocks.0.0.weight"));
  CHECK(sd15.prefix("first_stage_model.").has("decoder.conv_in.weight"));
}

}  // namespace
}  // namespace sinter
