#include "shardstep/tools/bench/emulated_compute.h"

#include <chrono>

namespace shardstep {
namespace {

constexpr int64_t kProbeRounds = int64_t{1} << 26;

// Each round waits for the one before.
void Burn(int64_t rounds) {
  volatile uint64_t sink = 1;
  uint64_t x = sink;
  for (int64_t i = 0; i < rounds; ++i) x = x * 0x5851f42d4c957f2du + 0x14057b7ef767814fu;
  sink = x;
}

}  // namespace

EmulatedCompute::EmulatedCompute(MpiWorld& world) {
  world.Barrier();
  const auto begin = std::chrono::steady_clock::now();
  shardstep::Burn(kProbeRounds);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  rounds_per_ms_ = static_cast<double>(kProbeRounds) / world.Max(took.count());
}

void EmulatedCompute::Burn(double milliseconds) const {
  shardstep::Burn(static_cast<int64_t>(milliseconds * rounds_per_ms_));
}

}  // namespace shardstep
