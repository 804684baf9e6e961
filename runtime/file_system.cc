#include "shardstep/runtime/file_system.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

namespace shardstep {

int FileSystem::Open(int directory, const char* path, int flags, mode_t mode) {
  return openat(directory, path, flags, mode);
}
ssize_t FileSystem::Write(int file, const void* data, size_t size) { return write(file, data, size); }
ssize_t FileSystem::Read(int file, void* data, size_t size, off_t offset) { return pread(file, data, size, offset); }
int FileSystem::Stat(int file, struct stat* result) { return fstat(file, result); }
int FileSystem::Sync(int file) { return fsync(file); }
int FileSystem::Close(int file) { return close(file); }
int FileSystem::MakeDirectory(int directory, const char* path) { return mkdirat(directory, path, 0777); }
int FileSystem::Rename(int directory, const char* from, const char* to) {
  return renameat(directory, from, directory, to);
}
int FileSystem::Exchange(int directory, const char* one, const char* other) {
  return renameat2(directory, one, directory, other, RENAME_EXCHANGE);
}
int FileSystem::Remove(int directory, const char* name, int flags) { return unlinkat(directory, name, flags); }

}  // namespace shardstep
