#ifndef SHARDSTEP_COMM_SHM_HOST_ID_H_
#define SHARDSTEP_COMM_SHM_HOST_ID_H_

#include <string>

namespace shardstep {

/// Equal for processes that can share memory: the kernel's boot id and the inode of this process's network namespace,
/// which keeps hosts that are emulated on one machine apart. What cannot be read is replaced by the host's name.
std::string DefaultHostId();

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_SHM_HOST_ID_H_
