#include "shardstep/optimizer/shard_state.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

namespace shardstep {
namespace {

TEST(ShardStateTest, ArraysAreZeroPageAlignedAndApart) {
  const auto layout = ShardLayout::Create({{.name = "a", .shape = {5000}}, {.name = "b", .shape = {3}}}, 4096, 2);
  const auto state = ShardState::Create(*layout, /*with_accumulator=*/true);
  ASSERT_TRUE(state.ok()) << state.status();
  float* const arrays[] = {state->master(), state->first_moment(), state->second_moment(), state->accumulator()};
  const int64_t elements = layout->state_elements();
  for (float* array : arrays) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(array) % 4096, 0u);
    EXPECT_EQ(std::count(array, array + elements, 0.0f), elements);
    std::fill_n(array, elements, static_cast<float>(1 + (std::find(arrays, arrays + 4, array) - arrays)));
  }
  for (int i = 0; i < 4; ++i) EXPECT_EQ(std::count(arrays[i], arrays[i] + elements, 1.0f + i), elements);
}

TEST(ShardStateTest, NoAccumulatorAndNothingOwned) {
  const auto layout = ShardLayout::Create({{.name = "empty", .shape = {0}}}, 4096, 2);
  const auto state = ShardState::Create(*layout, /*with_accumulator=*/false);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->accumulator(), nullptr);
}

}  // namespace
}  // namespace shardstep
