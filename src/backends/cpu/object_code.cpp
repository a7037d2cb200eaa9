#include "backends/cpu/object_code.h"

#include <elf.h>
#include <sys/mman.h>

#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "base/error.h"

namespace sinter {
namespace {

constexpr size_t kPage = 4096;
// Ours are a dozen letters; names that are long, and parts of one another, would multiply the memory that a file asks for.
constexpr size_t kLongestName = 1024;
constexpr size_t kNowhere = std::numeric_limits<size_t>::max();
size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

[[noreturn]] void corrupt(const std::string& what) {
  fail(Code::Corrupt, "object code: {}; delete the cache entry to have it compiled again", what);
}

/// An object's bytes, read only through checks.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {
    header_ = at<Elf64_Ehdr>(0, "header");
    if (std::memcmp(header_.e_ident, ELFMAG, SELFMAG) != 0 || header_.e_ident[EI_CLASS] != ELFCLASS64 ||
        header_.e_ident[EI_DATA] != ELFDATA2LSB || header_.e_type != ET_REL || header_.e_machine != EM_X86_64)
      corrupt("not a relocatable ELF object for x86-64");
    if (header_.e_shentsize != sizeof(Elf64_Shdr)) corrupt(fmt::format("section headers of {} bytes", header_.e_shentsize));
    for (size_t i = 0; i < header_.e_shnum; ++i)
      sections_.push_back(at<Elf64_Shdr>(add(header_.e_shoff, i * sizeof(Elf64_Shdr)), "section header"));
    size_t total = 0;
    for (const Elf64_Shdr& s : sections_)
      if (s.sh_type != SHT_NOBITS && s.sh_type != SHT_NULL) total += range(s.sh_offset, s.sh_size, "section").size();
    // Sections that share their bytes would let a small file fill any memory.
    if (total > bytes.size()) corrupt(fmt::format("sections of {} bytes in all do not fit in {} bytes", total, bytes.size()));
    read_symbols();
  }

  const std::vector<Elf64_Shdr>& sections() const { return sections_; }
  const Elf64_Shdr& section(size_t i) const {
    if (i >= sections_.size()) corrupt(fmt::format("section {} of {}", i, sections_.size()));
    return sections_[i];
  }
  /// Of the one symbol table that there may be, which is section `symbol_table()`.
  const std::vector<Elf64_Sym>& symbols() const { return symbols_; }
  size_t symbol_table() const { return symbol_table_; }
  std::span<const std::byte> content(const Elf64_Shdr& s) const { return range(s.sh_offset, s.sh_size, "section"); }

  template <class T>
  std::vector<T> table(const Elf64_Shdr& s) const {
    if (s.sh_entsize != sizeof(T) || s.sh_size % sizeof(T) != 0) corrupt("a table whose size is no multiple of its entries");
    std::vector<T> entries(s.sh_size / sizeof(T));
    auto bytes = content(s);
    if (!entries.empty()) std::memcpy(entries.data(), bytes.data(), bytes.size());
    return entries;
  }

  std::string name(const Elf64_Shdr& strings, size_t offset) const {
    if (strings.sh_type != SHT_STRTAB) corrupt("names are not in a string table");
    auto bytes = content(strings);
    for (size_t end = offset; end < bytes.size() && end - offset <= kLongestName; ++end)
      if (bytes[end] == std::byte(0)) return {reinterpret_cast<const char*>(bytes.data()) + offset, end - offset};
    corrupt("a name without an end");
  }

 private:
  void read_symbols() {
    for (size_t i = 0; i < sections_.size(); ++i) {
      if (sections_[i].sh_type != SHT_SYMTAB) continue;
      if (symbol_table_ != kNowhere) corrupt("two symbol tables");
      symbol_table_ = i;
      symbols_ = table<Elf64_Sym>(sections_[i]);
    }
  }
  static size_t add(size_t a, size_t b) {
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) corrupt("an offset past the end");
    return sum;
  }
  std::span<const std::byte> range(size_t offset, size_t size, const char* what) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset)
      corrupt(fmt::format("a {} at {}, {} bytes, does not fit in {} bytes", what, offset, size, bytes_.size()));
    return bytes_.subspan(offset, size);
  }
  template <class T>
  T at(size_t offset, const char* what) const {
    T value;
    std::memcpy(&value, range(offset, sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::span<const std::byte> bytes_;
  Elf64_Ehdr header_;
  std::vector<Elf64_Shdr> sections_;
  std::vector<Elf64_Sym> symbols_;
  size_t symbol_table_ = kNowhere;
};

bool is_mapped(const Elf64_Shdr& s) { return (s.sh_flags & SHF_ALLOC) && s.sh_size > 0 && s.sh_type != SHT_X86_64_UNWIND; }

/// Where each section goes: code first, constants from the next page on.
struct Layout {
  std::vector<size_t> offset;
  size_t code_bytes = 0, bytes = 0;
};
Layout lay_out(const Reader& reader) {
  Layout layout;
  layout.offset.assign(reader.sections().size(), kNowhere);
  for (bool code : {true, false}) {
    for (size_t i = 0; i < reader.sections().size(); ++i) {
      const Elf64_Shdr& s = reader.sections()[i];
      if (!is_mapped(s) || bool(s.sh_flags & SHF_EXECINSTR) != code) continue;
      if (s.sh_type != SHT_PROGBITS || (s.sh_flags & (SHF_WRITE | SHF_TLS))) corrupt("it wants memory of its own to write to");
      size_t alignment = std::max<size_t>(s.sh_addralign, 1);
      if (alignment > kPage || (alignment & (alignment - 1))) corrupt(fmt::format("a section aligned to {} bytes", alignment));
      layout.offset[i] = round_up(layout.bytes, alignment);
      layout.bytes = layout.offset[i] + s.sh_size;
    }
    layout.bytes = round_up(layout.bytes, kPage);
    if (code) layout.code_bytes = layout.bytes;
  }
  if (layout.code_bytes == 0) corrupt("it holds no code");
  return layout;
}

/// The place of a symbol as an offset from the base.
size_t place(const Reader& reader, const Layout& layout, const Elf64_Sym& symbol) {
  if (symbol.st_shndx == SHN_UNDEF || symbol.st_shndx >= SHN_LORESERVE) corrupt("a symbol that is defined nowhere in it");
  const Elf64_Shdr& home = reader.section(symbol.st_shndx);
  if (layout.offset[symbol.st_shndx] == kNowhere || symbol.st_value > home.sh_size) corrupt("a symbol outside of its section");
  return layout.offset[symbol.st_shndx] + symbol.st_value;
}

template <class T>
void put(char* at, int64_t value) {
  T narrow = T(value);
  if (int64_t(narrow) != value) corrupt(fmt::format("a relocation to {}, which does not fit in {} bytes", value, sizeof(T)));
  std::memcpy(at, &narrow, sizeof narrow);
}

void relocate(const Reader& reader, const Layout& layout, const Elf64_Shdr& relocations, char* base) {
  size_t target = relocations.sh_info;
  const Elf64_Shdr& home = reader.section(target);
  if (layout.offset[target] == kNowhere) return;  // debug information
  if (relocations.sh_link != reader.symbol_table()) corrupt("relocations without a symbol table");
  const std::vector<Elf64_Sym>& symbols = reader.symbols();
  for (const Elf64_Rela& r : reader.table<Elf64_Rela>(relocations)) {
    uint32_t type = ELF64_R_TYPE(r.r_info);
    size_t width = type == R_X86_64_64 || type == R_X86_64_PC64 ? 8 : 4;
    if (r.r_offset > home.sh_size || home.sh_size - r.r_offset < width) corrupt("a relocation outside of its section");
    if (ELF64_R_SYM(r.r_info) >= symbols.size()) corrupt("a relocation to an unknown symbol");
    char* at = base + layout.offset[target] + r.r_offset;
    // Modulo 2^64, as addresses are: a wild addend must be refused by put, not overflow here.
    uint64_t value = uint64_t(base) + place(reader, layout, symbols[ELF64_R_SYM(r.r_info)]) + uint64_t(r.r_addend);
    uint64_t relative = value - uint64_t(at);
    switch (type) {
      case R_X86_64_PC32:
      case R_X86_64_PLT32:
        put<int32_t>(at, int64_t(relative));
        break;
      case R_X86_64_PC64:
        put<int64_t>(at, int64_t(relative));
        break;
      case R_X86_64_64:
        put<int64_t>(at, int64_t(value));
        break;
      case R_X86_64_32S:
        put<int32_t>(at, int64_t(value));
        break;
      default:
        corrupt(fmt::format("a relocation of kind {}, which position-independent code does not have", type));
    }
  }
}

}  // namespace

ObjectCode::ObjectCode(std::span<const std::byte> object) {
  Reader reader(object);
  Layout layout = lay_out(reader);
  void* memory = mmap(nullptr, layout.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail(Code::OutOfMemory, "no {} bytes of memory for generated code", layout.bytes);
  ObjectCode owner(static_cast<char*>(memory), layout.bytes);
  for (size_t i = 0; i < reader.sections().size(); ++i)
    if (layout.offset[i] != kNowhere) {
      auto bytes = reader.content(reader.sections()[i]);
      std::memcpy(owner.base_ + layout.offset[i], bytes.data(), bytes.size());
    }
  for (const Elf64_Shdr& s : reader.sections())
    if (s.sh_type == SHT_RELA) relocate(reader, layout, s, owner.base_);
  for (const Elf64_Sym& symbol : reader.symbols())
    if (ELF64_ST_BIND(symbol.st_info) == STB_GLOBAL && ELF64_ST_TYPE(symbol.st_info) == STT_FUNC) {
      size_t at = place(reader, layout, symbol);
      if (at >= layout.code_bytes) corrupt("a function outside of the code");
      const Elf64_Shdr& names = reader.section(reader.section(reader.symbol_table()).sh_link);
      owner.symbols_[reader.name(names, symbol.st_name)] = at;
    }
  if (mprotect(owner.base_, layout.code_bytes, PROT_READ | PROT_EXEC) != 0 ||
      (layout.bytes > layout.code_bytes &&
       mprotect(owner.base_ + layout.code_bytes, layout.bytes - layout.code_bytes, PROT_READ) != 0))
    fail(Code::Unsupported, "this system does not let generated code run: {}", std::strerror(errno));
  swap(owner);
}

ObjectCode::~ObjectCode() {
  if (base_) munmap(base_, size_);
}

ObjectCode::ObjectCode(ObjectCode&& other) noexcept { swap(other); }

void ObjectCode::swap(ObjectCode& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(size_, other.size_);
  symbols_.swap(other.symbols_);
}

void* ObjectCode::symbol(std::string_view name) const {
  auto at = symbols_.find(name);
  if (at == symbols_.end()) fail(Code::NotFound, "object code: no function \"{}\" among its {}", name, symbols_.size());
  return base_ + at->second;
}

}  // namespace sinter
