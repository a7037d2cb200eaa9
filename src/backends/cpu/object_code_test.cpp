#include "backends/cpu/object_code.h"

#include <doctest/doctest.h>
#include <elf.h>

#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "backends/cpu/host.h"
#include "base/error.h"

namespace sinter {
namespace {

/// A kernel with constants in memory, so that the object has relocations: y = exp(x).
std::vector<std::byte> object() {
  RowKernel k;
  k.operands = {{}, {.written = true}};
  k.body = {{.kind = KernelStep::load, .operand = 0},
            {.kind = KernelStep::primitive, .prim = Prim::exp, .a = 0},
            {.kind = KernelStep::store, .a = 1, .operand = 1}};
  return code_generator().row_kernels(std::vector<NamedKernel>{{"exp_kernel", k}}, host_target());
}

template <class T>
T get(const std::vector<std::byte>& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}
template <class T>
void put(std::vector<std::byte>& bytes, size_t at, const T& value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

void for_each_section(std::vector<std::byte>& bytes, const std::function<bool(Elf64_Shdr&)>& change) {
  auto header = get<Elf64_Ehdr>(bytes, 0);
  for (size_t i = 0; i < header.e_shnum; ++i) {
    size_t at = header.e_shoff + i * sizeof(Elf64_Shdr);
    auto section = get<Elf64_Shdr>(bytes, at);
    if (change(section)) put(bytes, at, section);
  }
}

template <class Entry>
void for_each_entry(std::vector<std::byte>& bytes, uint32_t type, const std::function<void(Entry&)>& change) {
  for_each_section(bytes, [&](Elf64_Shdr& s) {
    if (s.sh_type == type)
      for (size_t at = s.sh_offset; at < s.sh_offset + s.sh_size; at += sizeof(Entry)) {
        auto entry = get<Entry>(bytes, at);
        change(entry);
        put(bytes, at, entry);
      }
    return false;
  });
}

void check_refused(const std::vector<std::byte>& bytes, const char* words) {
  try {
    ObjectCode code(bytes);
    FAIL("loaded, but expected: " << words);
  } catch (const Error& e) {
    CHECK(e.code() == Code::Corrupt);
    CHECK_MESSAGE(e.message().find(words) != std::string::npos, e.message());
  }
}

TEST_CASE("loaded code computes, wherever it lies") {
  std::vector<std::byte> bytes = object();
  ObjectCode first(bytes);
  ObjectCode second(bytes), moved(std::move(first));
  for (const ObjectCode* code : {&moved, &second}) {
    float x[3] = {0, 1, -INFINITY}, y[3] = {};
    char* operands[] = {reinterpret_cast<char*>(x), reinterpret_cast<char*>(y)};
    int64_t params[] = {3, 1, 0, 1, 0, 1};
    code->function<RowKernelFunction>("exp_kernel")(operands, params, 0, 1, 0, 3);
    CHECK(y[0] == 1);
    CHECK(y[1] == doctest::Approx(2.718281828));
    CHECK(y[2] == 0);
  }
}

TEST_CASE("the generator opens once it is asked for") { CHECK((object(), code_generator_loaded())); }

TEST_CASE("every truncation of an object is refused") {
  std::vector<std::byte> bytes = object();
  for (size_t size = 0; size < bytes.size(); ++size) {
    // A vector of exactly this size: reading past it is found by the sanitizers.
    std::vector<std::byte> part(bytes.begin(), bytes.begin() + long(size));
    CHECK_THROWS_AS(ObjectCode{part}, Error);
  }
}

TEST_CASE("a damaged object is refused by name of what is wrong") {
  const std::vector<std::byte> good = object();
  auto damaged = [&](const std::function<void(std::vector<std::byte>&)>& damage) {
    std::vector<std::byte> bytes = good;
    damage(bytes);
    CHECK(bytes != good);
    return bytes;
  };
  check_refused({}, "does not fit");
  check_refused(damaged([](auto& b) { b[0] = std::byte(0); }), "not a relocatable ELF object");
  check_refused(damaged([](auto& b) { put<uint16_t>(b, offsetof(Elf64_Ehdr, e_machine), EM_AARCH64); }), "x86-64");
  check_refused(damaged([](auto& b) { put<uint64_t>(b, offsetof(Elf64_Ehdr, e_shoff), ~uint64_t(0) - 10); }), "does not fit");
  check_refused(damaged([](auto& b) { put<uint16_t>(b, offsetof(Elf64_Ehdr, e_shnum), 60000); }), "does not fit");

  auto sections = [&](const std::function<bool(Elf64_Shdr&)>& change) {
    return damaged([&](auto& b) { for_each_section(b, change); });
  };
  check_refused(
      sections([](Elf64_Shdr& s) { return s.sh_size = s.sh_type == SHT_PROGBITS ? ~uint64_t(0) - 3 : s.sh_size, true; }),
      "does not fit");
  check_refused(sections([](Elf64_Shdr& s) { return s.sh_flags &= ~uint64_t(SHF_EXECINSTR), true; }), "no code");
  check_refused(sections([](Elf64_Shdr& s) { return s.sh_flags |= SHF_WRITE, true; }), "memory of its own");
  check_refused(sections([](Elf64_Shdr& s) { return s.sh_addralign = 24, true; }), "aligned to 24");
  check_refused(sections([](Elf64_Shdr& s) { return s.sh_entsize = 7, true; }), "multiple of its entries");
  check_refused(sections([](Elf64_Shdr& s) { return s.sh_type == SHT_RELA && (s.sh_info = 999); }), "section 999");
  check_refused(sections([](Elf64_Shdr& s) { return s.sh_type == SHT_RELA && (s.sh_link = 1); }), "symbol table");
  check_refused(sections([](Elf64_Shdr& s) { return s.sh_type == SHT_SYMTAB && (s.sh_link = 999); }), "section 999");

  check_refused(sections([](Elf64_Shdr& s) { return s.sh_type == SHT_STRTAB && (s.sh_type = SHT_SYMTAB); }),
                "multiple of its entries");
  check_refused(sections([](Elf64_Shdr& s) { return s.sh_type == SHT_SYMTAB && (s.sh_type = SHT_PROGBITS); }), "symbol table");
  uint64_t most = good.size();
  check_refused(sections([&](Elf64_Shdr& s) { return s.sh_type == SHT_PROGBITS && (s.sh_offset = 0, (s.sh_size = most)); }),
                "sections of");

  auto relocations = [&](const std::function<void(Elf64_Rela&)>& change) {
    return damaged([&](auto& b) { for_each_entry<Elf64_Rela>(b, SHT_RELA, change); });
  };
  check_refused(relocations([](Elf64_Rela& r) { r.r_offset = ~uint64_t(0) - 1; }), "outside of its section");
  check_refused(relocations([](Elf64_Rela& r) { r.r_info = ELF64_R_INFO(77777, R_X86_64_PC32); }), "unknown symbol");
  check_refused(relocations([](Elf64_Rela& r) { r.r_info = ELF64_R_INFO(ELF64_R_SYM(r.r_info), R_X86_64_GOTPCREL); }),
                "of kind 9");
  check_refused(relocations([](Elf64_Rela& r) { r.r_addend = int64_t(1) << 40; }), "does not fit in 4 bytes");

  auto symbols = [&](const std::function<void(Elf64_Sym&)>& change) {
    return damaged([&](auto& b) { for_each_entry<Elf64_Sym>(b, SHT_SYMTAB, change); });
  };
  check_refused(symbols([](Elf64_Sym& s) { s.st_shndx = SHN_UNDEF; }), "defined nowhere");
  check_refused(symbols([](Elf64_Sym& s) { s.st_value = uint64_t(1) << 50; }), "outside of its section");
  check_refused(symbols([](Elf64_Sym& s) { s.st_name = 1 << 30; }), "a name without an end");
}

TEST_CASE("no flipped byte of an object's tables makes loading crash") {
  const std::vector<std::byte> good = object();
  std::mt19937_64 random(7);
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::vector<std::byte> bytes = good;
    for (uint64_t flips = 1 + random() % 4; flips > 0; --flips) bytes[random() % bytes.size()] ^= std::byte(1 + random() % 255);
    try {
      ObjectCode code(bytes);
    } catch (const Error&) {
      ++refused;
    }
  }
  CHECK(refused > 1000);
}

}  // namespace
}  // namespace sinter
