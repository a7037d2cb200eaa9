# Writes OUTPUT, a C++ file that defines sinter::cuda::SYMBOL as the text of INPUT, PTX, with ENTRY_DIRECTIVES in the head of
# every kernel.
# Raw strings of one compiler may be limited to 64 KiB; pieces next to each other are one literal.
file(READ ${INPUT} text)
if(ENTRY_DIRECTIVES)
  string(REPLACE ";" "\n" directives "${ENTRY_DIRECTIVES}")
  string(REGEX REPLACE "(\\.entry [^)]*\\))[^\n]*\n" "\\1\n${directives}\n" text "${text}")
endif()
string(LENGTH "${text}" length)
set(pieces "")
set(at 0)
while(at LESS length)
  string(SUBSTRING "${text}" ${at} 8000 piece)
  string(APPEND pieces "R\"PTX(${piece})PTX\"\n")
  math(EXPR at "${at} + 8000")
endwhile()
file(WRITE ${OUTPUT} "#include <string_view>
namespace sinter::cuda {
static constexpr char text[] =
${pieces};
extern const std::string_view ${SYMBOL};
constinit const std::string_view ${SYMBOL}(text, sizeof text - 1);
}  // namespace sinter::cuda
")
