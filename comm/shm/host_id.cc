#include "shardstep/comm/shm/host_id.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"

namespace shardstep {

std::string DefaultHostId() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  if (id.empty()) {
    char name[256] = "";
    gethostname(name, sizeof(name) - 1);
    id = name;
  }
  struct stat network {};
  if (stat("/proc/self/ns/net", &network) == 0) absl::StrAppend(&id, "/net:", network.st_ino);
  return id;
}

}  // namespace shardstep
