#ifndef SHARDSTEP_OPTIMIZER_FLOAT_ENVIRONMENT_H_
#define SHARDSTEP_OPTIMIZER_FLOAT_ENVIRONMENT_H_

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace shardstep {

/// The calling thread's floating-point mode, set to IEEE defaults for this object's life (round to nearest even,
/// denormals kept, nothing trapped) and put back afterwards. Arithmetic must sit in a function that is not inlined
/// beside it, or the compiler may move it out.
class FloatEnvironment {
 public:
  FloatEnvironment() : saved_(Read()) { Write(kDefault); }
  ~FloatEnvironment() { Write(saved_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
#if defined(__x86_64__)
  static constexpr uint32_t kDefault = 0x1f80;
  static uint32_t Read() { return _mm_getcsr(); }
  static void Write(uint32_t mode) { _mm_setcsr(mode); }
  uint32_t saved_;
#elif defined(__aarch64__)
  static constexpr uint64_t kDefault = 0;
  static uint64_t Read() {
    uint64_t mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void Write(uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
  uint64_t saved_;
#else
#error "no floating-point mode known for this architecture"
#endif
};

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_FLOAT_ENVIRONMENT_H_
