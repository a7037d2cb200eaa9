#pragma once
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "io/safetensors_types.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace sinter {

/// Gives the tensors of a header the places that their shapes and types ask for, and `data` as many bytes. Leaves alone what
/// cannot be understood, or is too large to be of use.
inline void lay_out_again(std::string& header, std::string& data) {
  constexpr uint64_t kMost = 4096;
  auto json = nlohmann::ordered_json::parse(header, nullptr, false);
  if (!json.is_object()) return;
  uint64_t at = 0;
  for (auto& [name, entry] : json.items()) {
    if (name == kSafetensorsMetadataKey || !entry.is_object()) continue;
    uint64_t bits = 8;
    for (auto& type : kSafetensorsTypes)
      if (entry.contains("dtype") && entry["dtype"] == std::string(type.name)) bits = type.bits;
    if (entry.contains("shape") && entry["shape"].is_array())
      for (auto& size : entry["shape"])
        if (!size.is_number_unsigned() || __builtin_mul_overflow(bits, size.get<uint64_t>(), &bits)) return;
    if (bits % 8 != 0 || bits / 8 > kMost) return;
    entry["data_offsets"] = {at, at + bits / 8};
    at += bits / 8;
  }
  if (at > kMost) return;
  header = json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  data.resize(at, '\x3c');
}

/// A custom mutator for files whose header says its own length and every tensor's place: changed byte by byte, nearly all of them
/// would be refused for that alone, and nothing behind it be reached.
inline size_t mutate_safetensors(uint8_t* file, size_t size, size_t max_size, unsigned seed) {
  constexpr size_t kRoom = 64;
  uint64_t length;
  if (size < sizeof length || seed % 4 == 0) return LLVMFuzzerMutate(file, size, max_size);
  std::memcpy(&length, file, sizeof length);
  length = std::min<uint64_t>(length, size - sizeof length);
  auto* text = reinterpret_cast<const char*>(file) + sizeof length;
  std::string header(text, length), data(text + length, size - sizeof length - length);
  std::string& changed = seed / 4 % 8 == 0 ? data : header;
  size_t before = changed.size();
  changed.resize(before + kRoom);
  changed.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(changed.data()), before, changed.size()));
  lay_out_again(header, data);
  length = header.size();
  if (sizeof length + header.size() + data.size() > max_size) return LLVMFuzzerMutate(file, size, max_size);
  std::memcpy(file, &length, sizeof length);
  std::memcpy(file + sizeof length, header.data(), header.size());
  std::memcpy(file + sizeof length + header.size(), data.data(), data.size());
  return sizeof length + header.size() + data.size();
}

}  // namespace sinter
