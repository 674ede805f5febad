/*
 * Preloaded into programs: System V and shared anonymous memory from a mount of shmfs.
 *
 * POSIX shared memory are files of /dev/shm by itself. shmget(2) and mmap(MAP_SHARED|MAP_ANONYMOUS) never reach
 * a file system: this library has them ask for files of the mount instead, in its hidden directory `.shmfs`.
 *
 *   shmget, shmctl   an ioctl(2) on that directory; the daemon keeps keys, ids, rights, times and limits
 *   shmat            open(2) of the segment's file there, mmap(2), close(2)
 *   shmdt            munmap(2) of the pieces that /proc/self/maps says are left of the attach
 *   mmap             open(2) with O_TMPFILE, fallocate(2) (the kernel charges such memory at mmap time too), mmap(2)
 *
 * All state is one descriptor of the directory and what tells whether it still is that: what is attached is known
 * by the kernel alone, and therefore right after fork, vfork, exec, mremap and munmap. Nothing is allocated, locked
 * or printed: every function may be called by a signal handler, before the constructors have run, by an allocator.
 * Nothing of libc is used but errno, the environment and getauxval(3), so any libc will do. Calls go to the kernel
 * by themselves, not through libc, whose functions others may have replaced too.
 *
 * Who answers: where the mount is reached, every System V call is its own and none is the kernel's, as ids of the
 * two could be mistaken for each other. Where it never was (another mount namespace, a chroot, no such mount) all
 * are the kernel's. Where it was and is no more, shmget fails with ENOSYS and what takes an id with EIDRM. Anonymous
 * mappings that cannot be had exactly so from the mount are the kernel's; the daemon is told why, once per process.
 *
 * Out of reach: programs that are static, set-user-ID, or make system calls without libc.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#if !defined(__linux__) || !defined(__LP64__)
#error "for Linux with 64 bits only"
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns") /* no call of strlen or memcpy in place of a loop */
#endif

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define EXPORT __attribute__((visibility("default")))
#define HIGH 900 /* the lowest number that our descriptor gets where it can: small ones are the program's */

extern char **environ;
extern char **__libc_stack_end __attribute__((weak)); /* where glibc finds argc, argv and the environment */

/* ---- the protocol; shmfs/ipc has the other end */

enum { VERSION = 1 };
enum { OP_SHMGET = 1, OP_SHMCTL = 2, OP_DETACH = 3, OP_NAME = 5, OP_NOTE = 6 };

struct shmfs_ipc {
    uint32_t version, op;
    int32_t id, cmd, key;
    uint32_t flags;
    uint64_t size;
    uint32_t uid, gid, cuid, cgid, mode, seq;
    int32_t cpid, lpid;
    int64_t atime, dtime, ctime;
    uint64_t nattch;
    uint64_t info[5];
};
_Static_assert(sizeof(struct shmfs_ipc) == 136, "both ends count the same");

#define SHMFS_IOC _IOWR('M', 0x53, struct shmfs_ipc)

/* Why a call was left to the kernel; shmfs/ipc/notes.py has the sentences. */
enum reason { HUGE_PAGES = 1, FILE_LIMIT = 2, NO_DESCRIPTOR = 3, NO_EXEC = 4, UNREACHABLE = 5 };

/* ---- system calls: the result, or a negative errno */

#if defined(__x86_64__)
static long sys6(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static long sys6(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
extern long syscall(long number, ...);
static long sys6(long number, long a, long b, long c, long d, long e, long f)
{
    int before = errno;
    long result = syscall(number, a, b, c, d, e, f);
    if (result == -1)
        result = -errno;
    errno = before;
    return result;
}
#endif

#define SYS6(name, a, b, c, d, e, f, ...) \
    sys6(SYS_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define sys(...) SYS6(__VA_ARGS__, 0, 0, 0, 0, 0, 0)

static bool failed(long result)
{
    return (unsigned long)result > -4096UL;
}

/* What a function of libc returns. */
static long told(long result)
{
    if (!failed(result))
        return result;
    errno = (int)-result;
    return -1;
}

static void close_fd(int fd)
{
    sys(close, fd);
}

/* ---- settings, from the environment as it was when the program started */

static struct {
    int read; /* atomic */
    bool sysv, anon, debug;
    unsigned long page;
    char path[PATH_MAX]; /* of the hidden directory */
} settings;

static size_t length_of(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

static bool starts(const char *text, const char *with)
{
    while (*with)
        if (*text++ != *with++)
            return false;
    return true;
}

/* The environment, also while libc itself has not started yet. */
static char **variables(void)
{
    if (environ || !&__libc_stack_end || !__libc_stack_end)
        return environ;
    return __libc_stack_end + *(long *)(void *)__libc_stack_end + 2;
}

static const char *variable(const char *name)
{
    for (char **entry = variables(); entry && *entry; entry++)
        if (starts(*entry, name) && (*entry)[length_of(name)] == '=')
            return *entry + length_of(name) + 1;
    return NULL;
}

/* Whether a list with commas has a word. */
static bool among(const char *list, const char *word)
{
    for (const char *at = list; at && *at; at++)
        if ((at == list || at[-1] == ',') && starts(at, word)) {
            char end = at[length_of(word)];
            if (end == '\0' || end == ',')
                return true;
        }
    return false;
}

/* Two threads that do this at once write the same. */
static void read_settings(void)
{
    static const char hidden[] = "/.shmfs";
    const char *where = variable("SHMFS_DIR"), *what = variable("SHMFS_PRELOAD");
    size_t length = where ? length_of(where) : 0;

    if (!variables())
        return; /* not known yet */
    if (length && where[0] == '/' && length + sizeof hidden <= sizeof settings.path) {
        for (size_t i = 0; i < length; i++)
            settings.path[i] = where[i];
        for (size_t i = 0; i < sizeof hidden; i++)
            settings.path[length + i] = hidden[i];
        settings.page = getauxval(AT_PAGESZ);
        settings.debug = variable("SHMFS_PRELOAD_DEBUG") != NULL;
        settings.sysv = among(what, "sysv");
        settings.anon = among(what, "anon");
    }
    __atomic_store_n(&settings.read, 1, __ATOMIC_RELEASE);
}

__attribute__((constructor)) static void start(void)
{
    read_settings();
}

static bool serves_sysv(void)
{
    if (!__atomic_load_n(&settings.read, __ATOMIC_ACQUIRE))
        read_settings();
    return settings.sysv;
}

static bool serves_anon(void)
{
    if (!__atomic_load_n(&settings.read, __ATOMIC_ACQUIRE))
        read_settings();
    return settings.anon;
}

/* ---- the directory */

static struct {
    int fd;         /* atomic; in a child of vfork(2) or after a close of all it may be none, or another's */
    uint64_t dev;   /* atomic; with the type of the file system looked at; 0: never reached */
    uint64_t inode; /* atomic */
    int served;     /* atomic; whether the daemon has answered a request: then every id is one of its own */
} directory = {.fd = -1};

/* Without a request: only what does not change is asked for. */
static long look(int fd, unsigned mask, struct statx *seen)
{
    return sys(statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, mask, seen);
}

static uint64_t device(const struct statx *seen)
{
    return (uint64_t)seen->stx_dev_major << 32 | seen->stx_dev_minor;
}

static bool is_directory(int fd)
{
    struct statx seen;
    return fd >= 0 && !look(fd, STATX_INO, &seen) && seen.stx_ino == __atomic_load_n(&directory.inode, __ATOMIC_ACQUIRE) &&
           device(&seen) == __atomic_load_n(&directory.dev, __ATOMIC_ACQUIRE);
}

/* Look at what was opened in the mount, and remember which that is; -ENOENT where it is no FUSE. */
static long recognise(int fd, struct statx *seen)
{
    struct statfs figures;
    long result = look(fd, STATX_INO, seen);

    if (failed(result) || device(seen) == __atomic_load_n(&directory.dev, __ATOMIC_ACQUIRE))
        return result;
    result = sys(fstatfs, fd, &figures);
    if (failed(result))
        return result;
    if (figures.f_type != FUSE_SUPER_MAGIC)
        return -ENOENT;
    __atomic_store_n(&directory.dev, device(seen), __ATOMIC_RELEASE);
    return 0;
}

/* Our descriptor, opened anew where the program has closed it or put something else in its place. */
static long directory_fd(void)
{
    int before = __atomic_load_n(&directory.fd, __ATOMIC_ACQUIRE);
    struct statx seen;
    long fd, high, result;

    if (is_directory(before))
        return before;
    fd = sys(openat, AT_FDCWD, settings.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (failed(fd))
        return fd;
    result = recognise((int)fd, &seen);
    if (failed(result)) {
        close_fd((int)fd);
        return result;
    }
    __atomic_store_n(&directory.inode, seen.stx_ino, __ATOMIC_RELEASE);
    high = sys(fcntl, fd, F_DUPFD_CLOEXEC, HIGH);
    if (!failed(high)) {
        close_fd((int)fd);
        fd = high;
    }
    if (!__atomic_compare_exchange_n(&directory.fd, &before, (int)fd, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) &&
        is_directory(before)) {
        close_fd((int)fd); /* another thread was faster */
        return before;
    }
    return fd;
}

/* Whether an errno tells of a daemon that has ended. */
static bool is_gone(long result)
{
    return result == -ENOTCONN || result == -ECONNABORTED || result == -ENODEV;
}

/* Whether an errno tells of nothing but that there is no room for another descriptor. */
static bool is_full(long result)
{
    return result == -EMFILE || result == -ENFILE || result == -ENOMEM;
}

static bool was_served(void)
{
    return __atomic_load_n(&directory.served, __ATOMIC_ACQUIRE);
}

/* ---- requests */

enum { KERNEL = -5000 }; /* no errno: the mount does not serve this, let the kernel do it */

/* The answer of the daemon, `gone` where there is none any more, KERNEL where there never was. */
static long request(struct shmfs_ipc *about, uint32_t op, int gone)
{
    long result, fd = directory_fd();

    if (is_full(fd))
        return -ENOMEM;
    if (failed(fd))
        return is_gone(fd) || was_served() ? gone : KERNEL;
    about->version = VERSION;
    about->op = op;
    result = sys(ioctl, fd, SHMFS_IOC, about);
    if (is_gone(result))
        return gone;
    if (result == -ENOTTY || result == -EPROTO || result == -ENOSYS)
        return was_served() ? gone : KERNEL;
    __atomic_store_n(&directory.served, 1, __ATOMIC_RELEASE);
    return result;
}

static void say(enum reason reason)
{
    static const char head[] = "shmfs: left to the kernel, reason ";
    char line[sizeof head + 1];
    struct iovec whole = {line, sizeof line};

    for (size_t i = 0; i < sizeof head - 1; i++)
        line[i] = head[i];
    line[sizeof head - 1] = (char)('0' + reason);
    line[sizeof head] = '\n';
    sys(writev, 2, &whole, 1);
}

/* Tell the daemon, and who debugs, why a call is left to the kernel; each reason once in a process. */
static void note(enum reason reason)
{
    static unsigned said;
    struct shmfs_ipc about = {.cmd = reason};

    if (__atomic_fetch_or(&said, 1U << reason, __ATOMIC_RELAXED) & 1U << reason)
        return;
    if (settings.debug)
        say(reason);
    if (reason != UNREACHABLE)
        request(&about, OP_NOTE, -ENOSYS);
}

/* ---- copies to and from the program, for EFAULT instead of a signal */

static long copied(long number, void *ours, void *theirs, size_t size)
{
    struct iovec local = {ours, size}, remote = {theirs, size};
    long result = sys6(number, sys(getpid), (long)&local, 1, (long)&remote, 1, 0);

    if (result == -EFAULT || (result >= 0 && (size_t)result != size))
        return -EFAULT;
    if (!failed(result))
        return 0;
    /* Not permitted here: then as libc's own functions do it. */
    char *to = number == SYS_process_vm_writev ? theirs : ours, *from = to == ours ? theirs : ours;
    for (size_t i = 0; i < size; i++)
        to[i] = from[i];
    return 0;
}

static long give(void *to, void *from, size_t size)
{
    return copied(SYS_process_vm_writev, from, to, size);
}

static long take(void *to, const void *from, size_t size)
{
    return copied(SYS_process_vm_readv, to, (void *)from, size);
}

/* ---- shmget, shmctl */

/* The keys of some ids, which are part of the names of their files: id + 1 << 32 | key. No id comes again soon. */
static uint64_t keys[64];

static void remember(int id, int key)
{
    __atomic_store_n(&keys[id % 64], ((uint64_t)id + 1) << 32 | (uint32_t)key, __ATOMIC_RELAXED);
}

/* The key of an id; a negative errno as shmat(2) has it where there is no such segment. */
static long key_of(int id, uint32_t *key, bool ask)
{
    uint64_t known = __atomic_load_n(&keys[id % 64], __ATOMIC_RELAXED);
    struct shmfs_ipc about = {.id = id};
    long result;

    if (!ask && known >> 32 == (uint64_t)id + 1) {
        *key = (uint32_t)known;
        return 0;
    }
    result = request(&about, OP_NAME, -EIDRM);
    if (result < 0)
        return result;
    remember(id, about.key);
    *key = (uint32_t)about.key;
    return 0;
}

EXPORT int shmget(key_t key, size_t size, int flags)
{
    struct shmfs_ipc about = {.key = key, .size = size, .flags = (uint32_t)flags};
    long result = serves_sysv() ? request(&about, OP_SHMGET, -ENOSYS) : KERNEL;

    if (result == KERNEL) {
        if (settings.sysv)
            note(UNREACHABLE);
        return (int)told(sys(shmget, key, size, flags));
    }
    if (result >= 0)
        remember((int)result, about.key);
    return (int)told(result);
}

static long give_status(struct shmid_ds *buffer, const struct shmfs_ipc *about)
{
    struct shmid_ds status = {
        .shm_perm = {
            .__key = about->key, .uid = about->uid, .gid = about->gid, .cuid = about->cuid, .cgid = about->cgid,
            .mode = (unsigned short)about->mode, .__seq = (unsigned short)about->seq,
        },
        .shm_segsz = about->size, .shm_atime = about->atime, .shm_dtime = about->dtime, .shm_ctime = about->ctime,
        .shm_cpid = about->cpid, .shm_lpid = about->lpid, .shm_nattch = about->nattch,
    };
    return give(buffer, &status, sizeof status);
}

static long give_info(int cmd, void *buffer, const uint64_t *info)
{
    struct shminfo limits = {
        .shmmax = info[0], .shmmin = info[1], .shmmni = info[2], .shmseg = info[3], .shmall = info[4],
    };
    struct shm_info used = {
        .used_ids = (int)info[0], .shm_tot = info[1], .shm_rss = info[2], .shm_swp = info[3],
    };
    return cmd == IPC_INFO ? give(buffer, &limits, sizeof limits) : give(buffer, &used, sizeof used);
}

static long control(int id, int cmd, struct shmid_ds *buffer)
{
    struct shmfs_ipc about = {.id = id, .cmd = cmd};
    struct shmid_ds wanted;
    long result;

    if (id < 0 || cmd < 0)
        return -EINVAL;
    if (cmd == IPC_SET) {
        if (failed(take(&wanted, buffer, sizeof wanted)))
            return -EFAULT;
        about.uid = wanted.shm_perm.uid;
        about.gid = wanted.shm_perm.gid;
        about.mode = wanted.shm_perm.mode;
    }
    result = request(&about, OP_SHMCTL, -EIDRM);
    if (result < 0)
        return result;
    long given = cmd == IPC_STAT || cmd == SHM_STAT || cmd == SHM_STAT_ANY ? give_status(buffer, &about)
                 : cmd == IPC_INFO || cmd == SHM_INFO                        ? give_info(cmd, buffer, about.info)
                                                                             : 0;
    return given ? given : result;
}

EXPORT int shmctl(int id, int cmd, struct shmid_ds *buffer)
{
    long result = serves_sysv() ? control(id, cmd, buffer) : KERNEL;

    return (int)told(result == KERNEL ? sys(shmctl, id, cmd, buffer) : result);
}

/* ---- shmat */

enum { NAME_SIZE = 32 };

/* "SYSV%08x.%d" */
static void write_name(char *name, uint32_t key, int id)
{
    char digits[12];
    int count = 0;

    for (const char *head = "SYSV"; *head; head++)
        *name++ = *head;
    for (int shift = 28; shift >= 0; shift -= 4)
        *name++ = "0123456789abcdef"[key >> shift & 15];
    *name++ = '.';
    do
        digits[count++] = (char)('0' + id % 10);
    while (id /= 10);
    while (count)
        *name++ = digits[--count];
    *name = '\0';
}

/* Where no descriptor is left, ours is lent for the moment. */
static long open_without_room(const char *name, int mode)
{
    char path[PATH_MAX + NAME_SIZE];
    size_t length = length_of(settings.path);
    int ours = __atomic_exchange_n(&directory.fd, -1, __ATOMIC_ACQ_REL);

    if (ours < 0)
        return -ENOMEM;
    for (size_t i = 0; i < length; i++)
        path[i] = settings.path[i];
    path[length] = '/';
    for (size_t i = 0; i <= length_of(name); i++)
        path[length + 1 + i] = name[i];
    close_fd(ours);
    long fd = sys(openat, AT_FDCWD, path, mode);
    return is_full(fd) ? -ENOMEM : fd;
}

/* A descriptor of a segment; errno as of shmat(2). */
static long open_segment(int id, int flags)
{
    int mode = (flags & SHM_RDONLY ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOFOLLOW;
    char name[NAME_SIZE];
    uint32_t key;
    long fd = 0, where, result = key_of(id, &key, false);

    if (result < 0)
        return result;
    write_name(name, key, id);
    where = directory_fd();
    if (failed(where))
        return is_full(where) ? -ENOMEM : -EIDRM;
    fd = sys(openat, where, name, mode);
    if (is_full(fd))
        fd = open_without_room(name, mode);
    if (fd == -EROFS)
        return -EACCES;
    if (is_gone(fd))
        return -EIDRM;
    if (fd == -ENOENT) { /* removed, or never there: the daemon knows */
        result = key_of(id, &key, true);
        return result < 0 ? result : -EIDRM;
    }
    return fd;
}

/* Who is not root needs x for SHM_EXEC, as the kernel's ipcperms() has it; not every kernel can ask so. */
static bool may_execute(int fd)
{
#ifdef SYS_faccessat2
    return !sys(geteuid) || sys(faccessat2, fd, "", 1, AT_EMPTY_PATH | AT_EACCESS) != -EACCES;
#else
    return true;
#endif
}

static long map_segment(int fd, uintptr_t address, bool given, int flags)
{
    int protection = PROT_READ | (flags & SHM_RDONLY ? 0 : PROT_WRITE) | (flags & SHM_EXEC ? PROT_EXEC : 0);
    int how = !given ? 0 : flags & SHM_REMAP ? MAP_FIXED : MAP_FIXED_NOREPLACE;
    struct statx seen;
    long result;

    if (flags & SHM_EXEC && !may_execute(fd))
        return -EACCES;
    result = look(fd, STATX_SIZE, &seen);
    if (failed(result))
        return is_gone(result) ? -EIDRM : result;
    if (how == MAP_FIXED_NOREPLACE && address + seen.stx_size < address)
        return -EINVAL;
    result = sys(mmap, address, seen.stx_size, protection, MAP_SHARED | how, fd, 0);
    if (result == -EEXIST)
        return -EINVAL;
    if (!failed(result) && how == MAP_FIXED_NOREPLACE && (uintptr_t)result != address) { /* before Linux 4.17 */
        sys(munmap, result, seen.stx_size);
        return -EINVAL;
    }
    return result;
}

/* Compare ipc/shm.c:do_shmat. */
static long attach(int id, uintptr_t address, int flags)
{
    bool given = address != 0;
    long fd, result;

    if (id < 0)
        return -EINVAL;
    if (given && address % settings.page) {
        if (!(flags & SHM_RND))
            return -EINVAL;
        address -= address % settings.page;
        if (!address && flags & SHM_REMAP)
            return -EINVAL;
    } else if (!given && flags & SHM_REMAP)
        return -EINVAL;
    fd = open_segment(id, flags);
    if (fd < 0)
        return fd;
    result = map_segment((int)fd, address, given, flags);
    close_fd((int)fd);
    return result;
}

EXPORT void *shmat(int id, const void *address, int flags)
{
    long result = serves_sysv() ? attach(id, (uintptr_t)address, flags) : KERNEL;

    return (void *)told(result == KERNEL ? sys(shmat, id, address, flags) : result);
}

/* ---- shmdt: what the kernel has mapped */

struct area {
    uintptr_t start, end;
    uint64_t offset, inode;
    int id; /* of a segment; -1 of anything else */
};

struct areas {
    int fd;
    bool as_text; /* before Linux 6.11 */
    uintptr_t next;
    size_t at, filled;
    char text[PATH_MAX + 256];
};

/* PROCMAP_QUERY of linux/fs.h, which may be older. */
struct procmap_query {
    uint64_t size, query_flags, query_addr;
    uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
    uint32_t dev_major, dev_minor, vma_name_size, build_id_size;
    uint64_t vma_name_addr, build_id_addr;
};
#define QUERY _IOWR('f', 17, struct procmap_query)
#define COVERING_OR_NEXT 0x10
#define FILE_BACKED 0x20

/* The id in ".../.shmfs/SYSV00001234.65538", perhaps with " (deleted)" behind it; -1 in any other path. */
static int id_in(const char *path)
{
    const char *name = NULL;
    int id = 0;

    for (const char *at = path; *at && *at != '\n'; at++)
        if (*at == '/' && starts(at, "/.shmfs/SYSV"))
            name = at + 12;
    if (!name)
        return -1;
    for (int i = 0; i < 8; i++, name++)
        if (!(*name >= '0' && *name <= '9') && !(*name >= 'a' && *name <= 'f'))
            return -1;
    if (*name++ != '.')
        return -1;
    for (; *name >= '0' && *name <= '9'; name++)
        id = id * 10 + (*name - '0');
    return id;
}

static bool query(struct areas *areas, struct area *area)
{
    struct procmap_query asked = {
        .size = sizeof asked, .query_flags = COVERING_OR_NEXT | FILE_BACKED, .query_addr = areas->next,
        .vma_name_addr = (uint64_t)(uintptr_t)areas->text, .vma_name_size = sizeof areas->text,
    };
    long result = sys(ioctl, areas->fd, QUERY, &asked);

    if (failed(result)) {
        areas->as_text = result == -ENOTTY;
        return false;
    }
    *area = (struct area){asked.vma_start, asked.vma_end, asked.vma_offset, asked.inode,
                          asked.vma_name_size ? id_in(areas->text) : -1};
    areas->next = asked.vma_end;
    return true;
}

static uint64_t number(const char **at, unsigned base)
{
    uint64_t value = 0;

    for (;; (*at)++) {
        unsigned digit = **at >= '0' && **at <= '9' ? (unsigned)(**at - '0')
                         : **at >= 'a' && **at <= 'f' ? (unsigned)(**at - 'a') + 10 : base;
        if (digit >= base)
            break;
        value = value * base + digit;
    }
    (*at)++; /* what stands between */
    return value;
}

/* A whole line of /proc/self/maps, without its end; NULL behind the last. */
static const char *line(struct areas *areas)
{
    for (size_t looked = areas->at;;) {
        for (; looked < areas->filled; looked++)
            if (areas->text[looked] == '\n') {
                const char *found = areas->text + areas->at;
                areas->text[looked] = '\0';
                areas->at = looked + 1;
                return found;
            }
        for (size_t i = areas->at; i < areas->filled; i++)
            areas->text[i - areas->at] = areas->text[i];
        areas->filled -= areas->at;
        looked -= areas->at;
        areas->at = 0;
        long got = sys(read, areas->fd, areas->text + areas->filled, sizeof areas->text - areas->filled);
        if (got <= 0)
            return NULL;
        areas->filled += (size_t)got;
    }
}

/* The next mapping of a file; false behind the last. */
static bool next_area(struct areas *areas, struct area *area)
{
    if (!areas->as_text && query(areas, area))
        return true;
    while (areas->as_text) {
        const char *at = line(areas);
        if (!at)
            return false;
        area->start = number(&at, 16);
        area->end = number(&at, 16);
        at += 5; /* rights */
        area->offset = number(&at, 16);
        number(&at, 16);
        number(&at, 16);
        area->inode = number(&at, 10);
        area->id = id_in(at);
        if (area->inode && area->end > areas->next)
            return true;
    }
    return false;
}

/* Compare ipc/shm.c:ksys_shmdt: the pieces of an attach lie where they were attached, whatever is between them. */
static long detach(uintptr_t address)
{
    struct areas areas = {.next = address};
    struct area area;
    struct shmfs_ipc about = {.id = -1};
    uint64_t inode = 0, size = UINT64_MAX;
    long fd;

    if (address % settings.page)
        return -EINVAL;
    if (!was_served())
        return KERNEL;
    fd = sys(openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (failed(fd))
        return -EINVAL;
    areas.fd = (int)fd;
    while (next_area(&areas, &area) && area.end - address <= size) {
        if (area.id < 0 || area.start < address || area.start - address != area.offset)
            continue;
        if (about.id >= 0 && area.inode != inode)
            continue;
        sys(munmap, area.start, area.end - area.start);
        if (about.id >= 0)
            continue;
        inode = area.inode;
        about.id = area.id;
        if (request(&about, OP_DETACH, -EIDRM) == 0)
            size = (about.size + settings.page - 1) / settings.page * settings.page;
        about.id = area.id;
    }
    close_fd((int)fd);
    return about.id >= 0 ? 0 : -EINVAL;
}

EXPORT int shmdt(const void *address)
{
    long result = serves_sysv() ? detach((uintptr_t)address) : KERNEL;

    return (int)told(result == KERNEL ? sys(shmdt, address) : result);
}

/* ---- mmap */

/* Whether a descriptor is /dev/zero, for reading and writing: only then a shared mapping of it is shared memory. */
static bool is_zero(int fd)
{
    struct statx seen;

    return !look(fd, STATX_TYPE, &seen) && S_ISCHR(seen.stx_mode) && seen.stx_rdev_major == 1 &&
           seen.stx_rdev_minor == 5 && (sys(fcntl, fd, F_GETFL) & O_ACCMODE) == O_RDWR;
}

/* A limit that the kernel's own anonymous memory does not know, and whose signal would kill the program. */
static bool is_below_file_limit(size_t size)
{
    struct rlimit limit;

    return failed(sys(prlimit64, 0, RLIMIT_FSIZE, NULL, &limit)) || size <= limit.rlim_cur;
}

/* An open file without a name in the hidden directory of the mount; KERNEL where there is none to be had. */
static long open_anonymous(void)
{
    struct statx seen;
    long fd = sys(openat, AT_FDCWD, settings.path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd == -ENOSPC)
        return -ENOMEM;
    if (failed(fd)) {
        note(is_full(fd) ? NO_DESCRIPTOR : UNREACHABLE);
        return KERNEL;
    }
    if (failed(recognise((int)fd, &seen))) {
        close_fd((int)fd);
        return KERNEL;
    }
    return fd;
}

static long map_anonymous(void *address, size_t length, int protection, int flags, off_t offset)
{
    size_t size = (length + settings.page - 1) & -settings.page;
    long fd, result;

    if (!length || size < length || size > SIZE_MAX / 4 || (unsigned long)offset % settings.page)
        return KERNEL; /* which refuses it */
    if (flags & MAP_ANONYMOUS)
        offset = 0;
    if (!is_below_file_limit(size)) {
        note(FILE_LIMIT);
        return KERNEL;
    }
    fd = open_anonymous();
    if (fd < 0)
        return fd;
    if (flags & MAP_NORESERVE)
        result = sys(ftruncate, fd, size);
    else
        result = sys(fallocate, fd, 0, 0, size);
    if (!failed(result))
        result = sys(mmap, address, length, protection, flags & ~MAP_ANONYMOUS, fd, offset);
    else
        result = result == -ENOSPC || result == -EFBIG ? -ENOMEM : KERNEL;
    close_fd((int)fd);
    if (result == -EPERM && protection & PROT_EXEC) {
        note(NO_EXEC);
        return KERNEL;
    }
    return result;
}

static long map(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    long result = KERNEL;

    if ((flags & MAP_TYPE) == MAP_SHARED && serves_anon() && !(flags & MAP_GROWSDOWN)) {
        if (!(flags & MAP_ANONYMOUS))
            result = is_zero(fd) ? map_anonymous(address, length, protection, flags, offset) : KERNEL;
        else if (flags & MAP_HUGETLB)
            note(HUGE_PAGES);
        else
            result = map_anonymous(address, length, protection, flags, offset);
    }
    return result == KERNEL ? sys(mmap, address, length, protection, flags, fd, offset) : result;
}

EXPORT void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return (void *)told(map(address, length, protection, flags, fd, offset));
}

EXPORT void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset)
{
    return (void *)told(map(address, length, protection, flags, fd, offset));
}
