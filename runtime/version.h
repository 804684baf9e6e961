#ifndef SHARDSTEP_RUNTIME_VERSION_H_
#define SHARDSTEP_RUNTIME_VERSION_H_

namespace shardstep {

/// Of the library; ranks must run the same one.
inline constexpr char kVersion[] = "0.1.0";

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_VERSION_H_
