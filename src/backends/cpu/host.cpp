#include "backends/cpu/host.h"

#include <cpuid.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/settings.h"
#include "base/thread_pool.h"

namespace sinter {
namespace {

struct Registers {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};
Registers cpuid(uint32_t leaf, uint32_t part = 0) {
  Registers r;
  if (uint32_t(__get_cpuid_max(leaf & 0x80000000u, nullptr)) >= leaf) __cpuid_count(leaf, part, r.a, r.b, r.c, r.d);
  return r;
}
bool bit(uint32_t word, int at) { return word >> at & 1; }

/// Which register files the system saves on a context switch; a feature without this must not be used.
uint64_t saved_state() {
  if (!bit(cpuid(1).c, 27)) return 0;
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t(high) << 32 | low;
}

std::string model_name() {
  char name[49] = {};
  for (uint32_t i = 0; i < 3; ++i) {
    Registers r = cpuid(0x80000002u + i);
    std::memcpy(name + 16 * i, &r, 16);
  }
  std::string text = name;
  size_t begin = text.find_first_not_of(' '), end = text.find_last_not_of(' ');
  return begin == std::string::npos ? "unknown x86-64" : text.substr(begin, end - begin + 1);
}

int64_t cache_bytes(int level) {
  for (int i = 0; i < 8; ++i) {
    std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i);
    int at = 0;
    int64_t size = 0;
    std::string type;
    char unit = 0;
    if (!(std::ifstream(folder + "/level") >> at)) break;
    std::ifstream(folder + "/type") >> type;
    std::ifstream(folder + "/size") >> size >> unit;
    if (at == level && type != "Instruction") return size * (unit == 'M' ? 1 << 20 : unit == 'K' ? 1 << 10 : 1);
  }
  long size = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE);
  return size > 0 ? size : 0;
}

CpuFacts probe() {
  CpuFacts f;
  f.model = model_name();
  f.cores = available_cores();
  f.l1d_bytes = cache_bytes(1);
  f.l2_bytes = cache_bytes(2);
  f.l3_bytes = cache_bytes(3);
  Registers basic = cpuid(1), extended = cpuid(7), more = cpuid(7, 1);
  uint64_t saved = saved_state();
  bool ymm = (saved & 0x6) == 0x6, zmm = ymm && (saved & 0xe0) == 0xe0, tiles = (saved & 0x60000) == 0x60000;
  f.fma = ymm && bit(basic.c, 12);
  f.f16c = ymm && bit(basic.c, 29);
  f.avx2 = ymm && bit(extended.b, 5);
  f.avx512f = zmm && bit(extended.b, 16);
  f.avx512dq = zmm && bit(extended.b, 17);
  f.avx512bw = zmm && bit(extended.b, 30);
  f.avx512vl = zmm && bit(extended.b, 31);
  f.avx512_vnni = zmm && bit(extended.c, 11);
  f.avx512_bf16 = zmm && bit(more.a, 5);
  f.amx_bf16 = tiles && bit(extended.d, 22);
  f.amx_tile = tiles && bit(extended.d, 24);
  return f;
}

}  // namespace

const CpuFacts& host_cpu() {
  static const CpuFacts facts = probe();
  return facts;
}

CpuTarget cpu_target(const std::string& level, const CpuFacts& facts) {
  CpuTarget target;
  target.f16c = true;
  if (level == "avx2") {
    if (!facts.level_avx2()) fail(Code::Unsupported, "{} lacks AVX2, FMA or F16C, which the CPU backend needs", facts.model);
    target.cpu = "x86-64-v3";
    target.features = "+avx2,+fma,+f16c,+bmi2";
    target.vector_floats = 8;
  } else if (level == "avx512") {
    if (!facts.level_avx512()) fail(Code::Unsupported, "{} lacks AVX-512 (F, BW, DQ, VL); use the target avx2", facts.model);
    target.cpu = "x86-64-v4";
    target.features = "+avx2,+fma,+f16c,+bmi2,+avx512f,+avx512bw,+avx512dq,+avx512vl";
    if (facts.avx512_bf16) target.features += ",+avx512bf16";
    target.vector_floats = 16;
    target.bf16_dot = facts.avx512_bf16;
  } else {
    fail(Code::InvalidArgument, "SINTER_CPU_TARGET is avx2 or avx512, not \"{}\"", level);
  }
  return target;
}

CpuTarget host_target() {
  if (auto forced = setting("SINTER_CPU_TARGET")) return cpu_target(*forced, host_cpu());
  return cpu_target(host_cpu().level_avx512() ? "avx512" : "avx2", host_cpu());
}

}  // namespace sinter
