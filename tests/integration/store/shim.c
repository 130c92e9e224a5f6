/* Loaded before the C library: calls below one folder fail, end the process, or are slow, as a
 * shared page says. Page: eight u64: calls of the kinds seen, calls that were met, the kinds (a bit
 * set), the first call to meet, the last, and what becomes of them. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OPEN = 1, WRITE = 2, SYNC = 4, RENAME = 8, TRUNCATE = 16, MKDIR = 32, UNLINK = 64 };
enum { SEEN, MET, KINDS, FIRST, LAST, HOW };
enum { EXIT = 1000, SLEEP = 2000, HANG = 3000 };
#define FDS 65536

static volatile uint64_t *page;
static const char *root;
static size_t root_len;
static volatile unsigned char ours[FDS];

__attribute__((constructor)) static void begin(void) {
  const char *name = getenv("SHIM_PAGE");
  root = getenv("SHIM_ROOT");
  if (!name || !root) return;
  root_len = strlen(root);
  int fd = syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) _exit(99);
  void *mapped = mmap(NULL, 64, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  syscall(SYS_close, fd);
  if (mapped == MAP_FAILED) _exit(99);
  page = mapped;
}

/* The state folder itself, the store in it, and the key files. */
static int is_ours(int dir, const char *path) {
  if (!page || !path) return 0;
  if (path[0] != '/') return dir >= 0 && dir < FDS && ours[dir];
  if (strncmp(path, root, root_len)) return 0;
  const char *rest = path + root_len;
  return !*rest || !strcmp(rest, "/") || !strncmp(rest, "/store", 6) || !strncmp(rest, "/foretoken.key", 14);
}

static int is_open(int fd) { return page && fd >= 0 && fd < FDS && ours[fd]; }

/* Whether the call is to fail, with errno set. */
static int meets(int kind) {
  if (!(page[KINDS] & kind)) return 0;
  uint64_t n = __atomic_add_fetch(&page[SEEN], 1, __ATOMIC_SEQ_CST);
  if (n < page[FIRST] || n > page[LAST]) return 0;
  uint64_t how = page[HOW];
  __atomic_add_fetch(&page[MET], 1, __ATOMIC_SEQ_CST);
  if (how == EXIT) _exit(77);
  if (how >= SLEEP) {
    struct timespec step = {0, 20000000};
    /* Until its time is over, or the page says that all is well again. */
    for (int i = 0; page[HOW] == how && n <= page[LAST] && (how == HANG || i < 250); i++) nanosleep(&step, NULL);
    return 0;
  }
  errno = (int)how;
  return 1;
}

#define NEXT(type, name) \
  static type next; \
  if (!next) next = (type)dlsym(RTLD_NEXT, name)

static int opened(int mine, int fd) {
  if (fd >= 0 && fd < FDS) ours[fd] = (unsigned char)mine;
  return fd;
}

/* What is opened to be read is not counted as a change, but it can fail too. */
#define OPENS(name) \
  int name(const char *path, int flags, ...) { \
    typedef int (*type)(const char *, int, ...); \
    NEXT(type, #name); \
    va_list list; va_start(list, flags); mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(list, mode_t) : 0; va_end(list); \
    int mine = is_ours(-1, path); \
    if (mine && meets(OPEN)) return -1; \
    return opened(mine, next(path, flags, mode)); \
  }
#define OPENS_AT(name) \
  int name(int dir, const char *path, int flags, ...) { \
    typedef int (*type)(int, const char *, int, ...); \
    NEXT(type, #name); \
    va_list list; va_start(list, flags); mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(list, mode_t) : 0; va_end(list); \
    int mine = is_ours(dir, path); \
    if (mine && meets(OPEN)) return -1; \
    return opened(mine, next(dir, path, flags, mode)); \
  }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

#define CALL(kind, result, name, parameters, mine, ...) \
  result name parameters { \
    typedef result (*type) parameters; \
    NEXT(type, #name); \
    if (page && (mine) && meets(kind)) return -1; \
    return next(__VA_ARGS__); \
  }
CALL(WRITE, ssize_t, write, (int fd, const void *b, size_t n), is_open(fd), fd, b, n)
CALL(WRITE, ssize_t, pwrite, (int fd, const void *b, size_t n, off_t at), is_open(fd), fd, b, n, at)
CALL(WRITE, ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t at), is_open(fd), fd, b, n, at)
CALL(WRITE, ssize_t, writev, (int fd, const struct iovec *v, int n), is_open(fd), fd, v, n)
CALL(WRITE, ssize_t, pwritev, (int fd, const struct iovec *v, int n, off_t at), is_open(fd), fd, v, n, at)
CALL(WRITE, ssize_t, pwritev64, (int fd, const struct iovec *v, int n, off64_t at), is_open(fd), fd, v, n, at)
CALL(SYNC, int, fsync, (int fd), is_open(fd), fd)
CALL(SYNC, int, fdatasync, (int fd), is_open(fd), fd)
CALL(SYNC, int, sync_file_range, (int fd, off64_t at, off64_t n, unsigned f), is_open(fd), fd, at, n, f)
CALL(RENAME, int, rename, (const char *a, const char *b), is_ours(-1, b), a, b)
CALL(RENAME, int, renameat, (int d, const char *a, int e, const char *b), is_ours(e, b), d, a, e, b)
CALL(RENAME, int, renameat2, (int d, const char *a, int e, const char *b, unsigned f), is_ours(e, b), d, a, e, b, f)
CALL(TRUNCATE, int, ftruncate, (int fd, off_t n), is_open(fd), fd, n)
CALL(TRUNCATE, int, ftruncate64, (int fd, off64_t n), is_open(fd), fd, n)
/* The state folder is made by others, too. */
CALL(MKDIR, int, mkdir, (const char *p, mode_t m), is_ours(-1, p) && strcmp(p, root), p, m)
CALL(MKDIR, int, mkdirat, (int d, const char *p, mode_t m), is_ours(d, p), d, p, m)
CALL(UNLINK, int, unlink, (const char *p), is_ours(-1, p), p)
CALL(UNLINK, int, unlinkat, (int d, const char *p, int f), is_ours(d, p), d, p, f)

int close(int fd) {
  typedef int (*type)(int);
  NEXT(type, "close");
  if (fd >= 0 && fd < FDS) ours[fd] = 0;
  return next(fd);
}

/* It closes without `close`: the number may be a socket's next. */
int closedir(DIR *dir) {
  typedef int (*type)(DIR *);
  NEXT(type, "closedir");
  int fd = dirfd(dir);
  if (fd >= 0 && fd < FDS) ours[fd] = 0;
  return next(dir);
}
