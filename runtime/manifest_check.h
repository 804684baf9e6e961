#ifndef SHARDSTEP_RUNTIME_MANIFEST_CHECK_H_
#define SHARDSTEP_RUNTIME_MANIFEST_CHECK_H_

#include "shardstep/runtime/manifest.h"

namespace shardstep {

/// Whether a manifest is consistent in itself; DataLoss names the first field, parameter or file that is not. Fills in
/// the parameters' element counts and owners. Time and memory follow the size of the manifest, not the numbers in it.
absl::Status CheckManifest(Manifest* manifest);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_MANIFEST_CHECK_H_
