#!/usr/bin/env bash
# Usage: tests/run.sh
# Every check, from a clean clone: dependencies, format, unit tests under AddressSanitizer with UBSan and under
# ThreadSanitizer, the Python wheel, then all tests of the release build. Runs everything even when something failed,
# names at the end what did, and exits with 0 only when all passed. Safe to repeat.
# Environment: BUILD_DIR (default build), one folder per preset below it; RANKS (default 2), of the end-to-end run.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 70

BUILD_DIR=${BUILD_DIR:-build}
export RANKS=${RANKS:-2}
failed=()

# check NAME COMMAND...: a failure is remembered and reported at the end.
check() {
  local name=$1
  shift
  echo "== $name"
  "$@" || failed+=("$name")
}

format() {
  git ls-files -z '*.h' '*.c' '*.cc' '*.cu' '*.cuh' | xargs -0 clang-format --dry-run --Werror
}

# build PRESET
build() {
  cmake --preset "$1" -B "$BUILD_DIR/$1" &&
    cmake --build "$BUILD_DIR/$1" --parallel "$(nproc)"
}

unit_tests() {
  TSAN_OPTIONS="suppressions=$PWD/tests/tsan.supp" \
    ctest --test-dir "$BUILD_DIR/$1" --label-regex unit --output-on-failure --no-tests=error
}

deploy/install_dependencies.sh || exit
check "format" format
for preset in asan tsan; do
  check "build $preset" build "$preset"
  check "unit tests, $preset" unit_tests "$preset"
done
check "build release" build release
check "python" tests/python/run.sh
check "release tests" ctest --test-dir "$BUILD_DIR/release" --parallel "$(nproc)" --output-on-failure --no-tests=error
for name in "${failed[@]+"${failed[@]}"}"; do
  echo "FAILED: $name"
done
[ ${#failed[@]} -eq 0 ]
