# sinter_device_code(target source...)
#
# Compiles freestanding C++ for NVIDIA GPUs to PTX text and embeds it in the target: kernels/NAME.device.cpp gives
#   extern const std::string_view NAME_ptx;   // in namespace sinter::cuda, for sm_80 and newer
# and, with DEVICE_VARIANTS sm_89 for example, NAME_ptx_sm_89 too. Inside the device code SINTER_DEVICE_ARCH is 80 (or 89 ...).
# DEVICE_ONLY sm_90a instead makes that one alone, for devices of exactly that architecture.
# ENTRY_DIRECTIVES are lines for the head of every kernel that clang has no words for.
# OPTIONS are for the compiler.
# No toolkit of the vendor is needed: clang knows the target, and nothing of CUDA is included.
#
# Functions and inline assembly count as convergent: what lanes do together must not be moved behind a branch.
# The PTX version decides the oldest driver that takes it, so each target asks for the oldest that has what it needs.

find_program(SINTER_DEVICE_CLANG NAMES clang++-19 HINTS /usr/lib/llvm-19/bin)
set(SINTER_EMBED_SCRIPT ${CMAKE_CURRENT_LIST_DIR}/EmbedText.cmake)
set(SINTER_PTX_OF_sm_80 ptx71)  # CUDA 11.1
set(SINTER_PTX_OF_sm_89 ptx81)  # CUDA 12.1
set(SINTER_PTX_OF_sm_90 ptx81)  # CUDA 12.1
set(SINTER_PTX_OF_sm_90a ptx80)  # CUDA 12.0

function(sinter_device_code target)
  cmake_parse_arguments(ARG "" "DEVICE_ONLY" "DEVICE_VARIANTS;OPTIONS;ENTRY_DIRECTIVES" ${ARGN})
  set(architectures sm_80 ${ARG_DEVICE_VARIANTS})
  if(ARG_DEVICE_ONLY)
    set(architectures ${ARG_DEVICE_ONLY})
  endif()
  if(NOT SINTER_DEVICE_CLANG)
    message(FATAL_ERROR "clang++-19 was not found; it compiles the GPU kernels. Install the package clang-19 (./dev build does).")
  endif()
  foreach(source ${ARG_UNPARSED_ARGUMENTS})
    get_filename_component(name ${source} NAME)
    string(REPLACE ".device.cpp" "" name ${name})
    get_filename_component(input ${source} ABSOLUTE)
    foreach(architecture ${architectures})
      set(symbol ${name}_ptx)
      if(NOT architecture STREQUAL "sm_80")
        set(symbol ${name}_ptx_${architecture})
      endif()
      string(REGEX REPLACE "[^0-9]" "" number ${architecture})
      set(ptx ${CMAKE_BINARY_DIR}/device_code/${name}.${architecture}.ptx)
      set(embedded ${CMAKE_BINARY_DIR}/device_code/${symbol}.cpp)
      add_custom_command(
        OUTPUT ${ptx}
        COMMAND ${SINTER_DEVICE_CLANG} --target=nvptx64-nvidia-cuda -march=${architecture}
                --cuda-feature=+${SINTER_PTX_OF_${architecture}} -std=c++20 -x c++ -ffreestanding -nostdinc++ -nogpulib -O3
                -fno-exceptions -fno-rtti -fconvergent-functions -ffp-contract=fast -Wall -Wextra -Werror -I${CMAKE_SOURCE_DIR}/src
                -DSINTER_DEVICE_ARCH=${number} ${ARG_OPTIONS} -MD -MF ${ptx}.d -MT ${ptx} -S -o ${ptx} ${input}
        DEPENDS ${input}
        DEPFILE ${ptx}.d
        COMMENT "Compiling ${name} for ${architecture}"
        VERBATIM)
      add_custom_command(
        OUTPUT ${embedded}
        COMMAND ${CMAKE_COMMAND} -DINPUT=${ptx} -DOUTPUT=${embedded} -DSYMBOL=${symbol}
                "-DENTRY_DIRECTIVES=${ARG_ENTRY_DIRECTIVES}" -P ${SINTER_EMBED_SCRIPT}
        DEPENDS ${ptx} ${SINTER_EMBED_SCRIPT}
        COMMENT "Embedding ${symbol}"
        VERBATIM)
      target_sources(${target} PRIVATE ${embedded})
      set_property(GLOBAL APPEND PROPERTY SINTER_DEVICE_PTX ${ptx})
    endforeach()
  endforeach()
endfunction()
