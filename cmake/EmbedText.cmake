# Writes OUTPUT, a C++ file that defines sinter::cuda::SYMBOL as the text of INPUT.
# Raw strings of one compiler may be limited to 64 KiB; pieces next to each other are one literal.
file(READ ${INPUT} text)
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
