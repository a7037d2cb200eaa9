#include "codegen/microkernel_assembly.h"

#include <iterator>

#include "base/error.h"
#include "compiler/kernel/microkernels.h"

namespace sinter {
namespace {

constexpr int kUnroll = 4;            // steps of k (bf16_dot: pairs) in one round of the main loop
constexpr int kPrefetchBytes = 2048;  // how far ahead of its use a panel is fetched

/// Where a row of A is: a base register and how often the row stride (rsi) is added to it. Four bases reach fourteen rows.
struct RowAddress {
  const char* base;
  int strides;
};
constexpr RowAddress kRows[] = {{"rdi", 0}, {"rdi", 1}, {"rdi", 2}, {"rax", 0}, {"rdi", 4}, {"r10", 0}, {"r10", 1},
                                {"rax", 4}, {"rdi", 8}, {"r10", 4}, {"r11", 0}, {"rax", 8}, {"r11", 2}, {"r10", 8}};
struct Base {
  const char* name;
  int row;
};
constexpr Base kBases[] = {{"rdi", 0}, {"rax", 3}, {"r10", 5}, {"r11", 10}};

/// Registers: rdi, rax, r10, r11 rows of A; rsi its stride; rdx the panel; rcx steps left; r8, r9 C and its stride.
/// Vector registers, from the top: panel row, broadcast element of A, mask of the odd elements (bf16 alone); then accumulators.
class KernelWriter {
 public:
  KernelWriter(std::string& out, PanelType type, int vectors, int rows, int vector_floats)
      : out_(out), type_(type), vectors_(vectors), rows_(rows), wide_(vector_floats == 16), floats_(vector_floats) {
    // A kernel of few rows has too few independent sums to hide the latency of a multiply-add: it keeps several of each.
    int sums = rows * vectors;
    copies_ = sums >= 8 ? 1 : sums >= 3 ? 2 : 4;
  }

  void write() {
    std::string symbol = microkernel_symbol(type_, vectors_, rows_);
    line(".globl {0}\n.type {0},@function\n.p2align 5\n{0}:", symbol);
    begin();
    line("sub rcx, {}\njl {}", kUnroll, label("rest"));
    line(".p2align 5\n{}:", label("main"));
    for (int u = 0; u < kUnroll; ++u) step(u);
    advance(kUnroll);
    line("sub rcx, {}\njge {}", kUnroll, label("main"));
    line("{}:\nadd rcx, {}\njz {}", label("rest"), kUnroll, label("sum"));
    if (type_ == PanelType::bf16) {
      // Pairs: two steps at a time, then a lone even element.
      line("test ecx, 2\njz {}", label("single"));
      step(0), step(1), advance(2);
      line("{}:\ntest ecx, 1\njz {}", label("single"), label("sum"));
      step(0);
    } else {
      line("{}:", label("one"));
      step(0), advance(1);
      line("dec rcx\njnz {}", label("one"));
    }
    line("{}:", label("sum"));
    add_copies();
    line("cmp qword ptr [rsp + 8], 0\njz {}", label("store"));
    for (int r = 0; r < rows_; ++r) {
      for (int j = 0; j < vectors_; ++j) line("vaddps {0}, {0}, [r8 + {1}]", sum(r, j, 0), j * floats_ * 4);
      if (r + 1 < rows_) line("add r8, r9");
    }
    if (rows_ > 1) line("mov r8, rdi");
    line("{}:", label("store"));
    for (int r = 0; r < rows_; ++r) {
      for (int j = 0; j < vectors_; ++j) line("vmovups [r8 + {}], {}", j * floats_ * 4, sum(r, j, 0));
      if (r + 1 < rows_) line("add r8, r9");
    }
    line("vzeroupper\nret\n.size {0}, . - {0}", symbol);
  }

 private:
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
    out_ += '\n';
  }

  std::string label(const char* what) const { return fmt::format(".L{}_{}", microkernel_symbol(type_, vectors_, rows_), what); }
  std::string vector(int number) const { return fmt::format("{}mm{}", wide_ ? 'z' : 'y', number); }
  int top() const { return wide_ ? 31 : 15; }
  std::string panel(int j) const { return vector(top() - j); }
  std::string element() const { return vector(top() - vectors_); }
  std::string odd_mask() const { return vector(top() - vectors_ - 1); }
  std::string sum(int r, int j, int copy) const { return vector((copy * rows_ + r) * vectors_ + j); }

  int panel_step_bytes() const {  // of one step: bf16 takes two steps for one row of pairs
    switch (type_) {
      case PanelType::f32:
      case PanelType::bf16_dot:
        return vectors_ * floats_ * 4;
      case PanelType::f16:
      case PanelType::bf16:
        return vectors_ * floats_ * 2;
    }
    return 0;
  }

  /// Sets the bases of all rows that begin at `first`, `stride` apart.
  void set_bases(const char* first, const char* stride) {
    if (rows_ > 3) line("lea rax, [{0} + 2*{0}]\nadd rax, {1}", stride, first);
    if (rows_ > 5) line("lea r10, [rax + 2*{0}]", stride);
    if (rows_ > 10) line("lea r11, [r10 + 4*{0}]\nadd r11, {0}", stride);
  }

  /// The results are written at the end: fetching their lines now hides that they may be far away.
  void fetch_results() {
    set_bases("r8", "r9");
    for (int r = 0; r < rows_; ++r) {
      std::string row = kRows[r].base == std::string("rdi") ? "r8" : kRows[r].base;
      if (kRows[r].strides) row += fmt::format(" + {}*r9", kRows[r].strides);
      for (int at = 0; at < vectors_ * floats_ * 4; at += 64) line("prefetcht0 [{} + {}]", row, at);
    }
  }

  void begin() {
    fetch_results();
    set_bases("rdi", "rsi");
    for (int i = 0; i < rows_ * vectors_ * copies_; ++i) zero(vector(i));
    if (type_ == PanelType::bf16) {
      if (wide_)
        line("vpternlogd {0}, {0}, {0}, 255", odd_mask());
      else
        line("vpcmpeqd {0}, {0}, {0}", odd_mask());
      line("vpslld {0}, {0}, 16", odd_mask());
    }
  }

  void zero(const std::string& v) {
    if (wide_)
      line("vpxord {0}, {0}, {0}", v);
    else
      line("vxorps {0}, {0}, {0}", v);
  }

  std::string a_address(int r, int step) const {
    const RowAddress& row = kRows[r];
    std::string at = row.base;
    if (row.strides) at += fmt::format(" + {}*rsi", row.strides);
    return fmt::format("[{} + {}]", at, step * 4);
  }

  void load_panel(int j, int step) {
    int vector_bytes = floats_ * 4;
    switch (type_) {
      case PanelType::f32:
      case PanelType::bf16_dot:
        line("vmovups {}, [rdx + {}]", panel(j), step * panel_step_bytes() + j * vector_bytes);
        break;
      case PanelType::f16:
        line("vcvtph2ps {}, {} ptr [rdx + {}]", panel(j), wide_ ? "ymmword" : "xmmword",
             step * panel_step_bytes() + j * vector_bytes / 2);
        break;
      case PanelType::bf16: {
        int at = step / 2 * 2 * panel_step_bytes() + j * vector_bytes;
        if (step % 2) {
          line("{} {}, {}, [rdx + {}]", wide_ ? "vpandd" : "vpand", panel(j), odd_mask(), at);
        } else if (wide_) {
          line("vpslld {}, [rdx + {}], 16", panel(j), at);
        } else {
          line("vmovdqu {}, [rdx + {}]\nvpslld {}, {}, 16", panel(j), at, panel(j), panel(j));
        }
        break;
      }
    }
  }

  void step(int u) {
    for (int j = 0; j < vectors_; ++j) load_panel(j, u);
    prefetch(u);
    const bool dot = type_ == PanelType::bf16_dot;
    for (int r = 0; r < rows_; ++r) {
      line("{} {}, dword ptr {}", dot ? "vpbroadcastd" : "vbroadcastss", element(), a_address(r, u));
      for (int j = 0; j < vectors_; ++j)
        line("{} {}, {}, {}", dot ? "vdpbf16ps" : "vfmadd231ps", sum(r, j, u % copies_), panel(j), element());
    }
  }

  void prefetch(int u) {
    // Lines of the panel that begin within this step.
    int bytes = panel_step_bytes();
    for (int at = u * bytes; at < (u + 1) * bytes; at += 64)
      if (at % 64 == 0) line("prefetcht0 [rdx + {}]", kPrefetchBytes + at);
  }

  void advance(int steps) {
    for (const Base& base : kBases)
      if (base.row < rows_) line("add {}, {}", base.name, steps * 4);
    line("add rdx, {}", steps * panel_step_bytes());
  }

  void add_copies() {
    if (rows_ > 1) line("mov rdi, r8");  // A is done with: rdi keeps the first row of C
    for (int half = copies_ / 2; half; half /= 2)
      for (int c = 0; c < half; ++c)
        for (int r = 0; r < rows_; ++r)
          for (int j = 0; j < vectors_; ++j) line("vaddps {0}, {0}, {1}", sum(r, j, c), sum(r, j, c + half));
  }

  std::string& out_;
  PanelType type_;
  int vectors_, rows_;
  bool wide_;
  int floats_, copies_;
};

}  // namespace

std::string microkernel_assembly(const CpuTarget& target) {
  if (target.vector_floats < 8 || !target.f16c)
    fail(Code::Unsupported, "matrix products on the CPU need AVX2, FMA and F16C; this target is {}", target.text());
  std::string out = ".intel_syntax noprefix\n.text\n";
  for (int type = 0; type < kPanelTypes; ++type) {
    if (PanelType(type) == PanelType::bf16_dot && !(target.bf16_dot && target.vector_floats == 16)) continue;
    for (int vectors = 1; vectors <= kPanelVectors; ++vectors)
      for (int rows = 1; rows <= microkernel_rows(target.vector_floats); ++rows)
        KernelWriter(out, PanelType(type), vectors, rows, target.vector_floats).write();
  }
  return out + ".att_syntax prefix\n";
}

}  // namespace sinter
