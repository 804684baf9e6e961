#ifndef SHARDSTEP_RUNTIME_FILE_SYSTEM_H_
#define SHARDSTEP_RUNTIME_FILE_SYSTEM_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>

namespace shardstep {

/// The system calls of a checkpoint, one each, as in their manual pages: -1 and errno on failure. `directory` is an
/// open directory or AT_FDCWD. This class is the real thing; a test overrides calls to make them fail, stop short or
/// count. Any thread.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  virtual int Open(int directory, const char* path, int flags, mode_t mode);
  virtual ssize_t Write(int file, const void* data, size_t size);
  virtual ssize_t Read(int file, void* data, size_t size, off_t offset);
  virtual int Stat(int file, struct stat* result);
  virtual int Sync(int file);
  virtual int Close(int file);
  virtual int MakeDirectory(int directory, const char* path);
  virtual int Rename(int directory, const char* from, const char* to);
  /// renameat2 with RENAME_EXCHANGE.
  virtual int Exchange(int directory, const char* one, const char* other);
  /// unlinkat; `flags` 0 or AT_REMOVEDIR.
  virtual int Remove(int directory, const char* name, int flags);
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_FILE_SYSTEM_H_
