#pragma once
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <fstream>
#include <string>

// When this process began, and where results go.

namespace sinter {

/// Since the process was started, loading its libraries included; the system counts in hundredths.
inline double seconds_since_process_start() {
  std::ifstream file("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  // The second field is the program's name in brackets, which may hold anything; the start is the 22nd.
  size_t at = text.rfind(')');
  for (int field = 2; field < 22 && at != text.npos; ++field) at = text.find(' ', at + 1);
  timespec time{};
  clock_gettime(CLOCK_BOOTTIME, &time);
  if (at == text.npos) return 0;
  return double(time.tv_sec) + double(time.tv_nsec) * 1e-9 -
         double(std::stoull(text.substr(at + 1))) / double(sysconf(_SC_CLK_TCK));
}

/// Appends a line in one write, so that several programs may share a file. An empty path: nowhere.
inline void append_line(const std::string& path, std::string line) {
  if (path.empty()) return;
  line += '\n';
  std::ofstream file(path, std::ios::app);
  file.write(line.data(), std::streamsize(line.size())).flush();
  if (!file) std::fprintf(stderr, "cannot write to %s\n", path.c_str());
}

}  // namespace sinter
