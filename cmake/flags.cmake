# Flags of every target of this project.

add_library(shardstep_flags INTERFACE)
target_compile_options(shardstep_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Werror
  # Designated initializers name what differs from the defaults; the rest is no mistake.
  -Wno-missing-field-initializers
  # The numeric contract: no fused multiply-add, no reassociation; errno of sqrt is nobody's business.
  -ffp-contract=off -fno-math-errno)
if(SHARDSTEP_SANITIZE)
  target_compile_options(shardstep_flags INTERFACE -fsanitize=${SHARDSTEP_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(shardstep_flags INTERFACE -fsanitize=${SHARDSTEP_SANITIZE})
endif()

# shardstep_library(<target> <sources...>): a library of one room.
function(shardstep_library target)
  add_library(${target} STATIC ${ARGN})
  target_include_directories(${target} PUBLIC
    $<BUILD_INTERFACE:${SHARDSTEP_INCLUDE_DIR}> $<BUILD_INTERFACE:${SHARDSTEP_GENERATED_DIR}>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:shardstep_flags>)
endfunction()
