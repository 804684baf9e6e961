#ifndef SHARDSTEP_RUNTIME_MANIFEST_FEATURES_H_
#define SHARDSTEP_RUNTIME_MANIFEST_FEATURES_H_

#include <cstdint>
#include <string>

#include "shardstep/comm/status.h"
#include "shardstep/runtime/manifest.h"

namespace shardstep {

/// The feature flags that a manifest's content takes: docs/checkpoint_format.md says which.
uint64_t FeaturesOf(const Manifest& manifest);

/// FailedPrecondition, naming them, unless this library knows all features of `flags`.
absl::Status CheckFeaturesKnown(uint64_t flags);

/// "bit 3 (frozen), bit 40"; "none".
std::string FeatureList(uint64_t flags);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_MANIFEST_FEATURES_H_
