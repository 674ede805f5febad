/* Executes one random program (see program.py) and logs what it does and what became of each touch.
 *
 * usage: actor PROGRAM DIRECTORY LOG ROLE HOW
 *
 * The log is outside of the file system under test. A record is written with one write(2) to an O_APPEND
 * descriptor, so records of several processes do not mix, and what was written survives the writer's death.
 *
 * The number of faults of one touch comes from the kernel's own accounting of this thread: getrusage(2) before
 * and after it (mm/memory.c:mm_account_fault counts a fault once, when it has succeeded). Nothing else may fault
 * in between, so everything that the bracket uses is touched beforehand (settle), and stacks of threads are left
 * out of forks, which would write-protect them.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* enum op comes from the command line: -include operations.h, which program.py writes. */

#define PAGE 4096
#define SLOTS 8
#define MAPS 6
#define CHILDREN 64
#define THREADS 8
#define ROLES 64
#define STEPS 512
#define STACK (256 << 10)
#define SETTLED (48 << 10)

struct record {
    uint64_t begin, end; /* ns, CLOCK_MONOTONIC */
    uint32_t pid, tid;
    uint32_t role;
    uint16_t step, op;
    int64_t a[6];
};
_Static_assert(sizeof(struct record) == 80, "what program.py reads");

struct step {
    int op;
    long a[6];
};

struct map {
    char *at;
    long pages, first, inode, writable, attached;
};

struct file {
    int fd;
    long inode;
};

struct context {
    struct file files[SLOTS];
    struct map maps[MAPS];
    sigjmp_buf *landing;
    volatile long nested_minor, nested_major;
    volatile long address;
    int role, step, is_thread;
    pid_t pid, tid;
    pthread_t threads[THREADS];
    void *stacks[THREADS];
    int thread_count;
    pid_t children[CHILDREN];
    int child_count;
    int handler_map, handler_page;
};

static struct step roles[ROLES][STEPS];
static int lengths[ROLES];
static const char *program_path, *directory, *log_path;
static int log_fd, pipe_fds[2], zero_fd;
static pid_t parent;
static __thread struct context *me;
static char scratch[4 * PAGE] __attribute__((aligned(PAGE)));
static char *forbidden; /* a touch of it is SIGSEGV */

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void emit(struct context *c, int op, uint64_t begin, long a0, long a1, long a2, long a3, long a4, long a5) {
    struct record r = {begin, now(), c->pid, c->tid, c->role, c->step, op, {a0, a1, a2, a3, a4, a5}};
    while (write(log_fd, &r, sizeof r) < 0 && errno == EINTR)
        ;
}

/* The faults of this thread without those of touches in handlers, which are counted by themselves. */
static void count(struct context *c, long *minor, long *major) {
    struct rusage now;
    long nested_minor, nested_major;
    do { /* a handler may come between the two */
        nested_minor = c->nested_minor;
        nested_major = c->nested_major;
        getrusage(RUSAGE_THREAD, &now);
    } while (nested_minor != c->nested_minor || nested_major != c->nested_major);
    *minor = now.ru_minflt - nested_minor;
    *major = now.ru_majflt - nested_major;
}

/* One touch, counted. Returns the signal that it ended in, or 0. */
static int bracket(struct context *c, volatile char *p, int store, long *minor, long *major, uint64_t *begin,
                   uint64_t *end) {
    long before_minor, before_major, after_minor, after_major;
    sigjmp_buf here, *outer = c->landing;
    int got = sigsetjmp(here, 0);
    if (!got) {
        c->landing = &here;
        count(c, &before_minor, &before_major);
        *begin = now();
        if (store)
            *p = 1;
        else
            (void)*p;
    }
    *end = now();
    count(c, &after_minor, &after_major);
    c->landing = outer;
    *minor = after_minor - before_minor;
    *major = after_major - before_major;
    return got;
}

static void touch(struct context *c, int slot, long index, int store, int nested) {
    struct map *m = &c->maps[slot];
    long minor, major, page = m->first + index;
    uint64_t begin = now(), end;
    if (!m->at || index >= m->pages || (store && !m->writable))
        return;
    emit(c, OP_BEGIN, begin, m->inode, page, store, nested, slot, 0);
    int got = bracket(c, m->at + index * PAGE, store, &minor, &major, &begin, &end);
    long where = got ? (c->address - (long)m->at) / PAGE + m->first : -1;
    struct record r = {begin,  end,    c->pid, c->tid, c->role, c->step, OP_TOUCHED,
                       {m->inode, page, store | nested << 1, minor << 32 | major, got, where}};
    while (write(log_fd, &r, sizeof r) < 0 && errno == EINTR)
        ;
    if (nested) {
        c->nested_minor += minor;
        c->nested_major += major;
    }
}

/* Touches what the bracket will use: stack, code, the context, the handlers; after a fork all of it faults again. */
static void __attribute__((noinline)) settle(struct context *c) {
    volatile char stack[SETTLED];
    long minor, major;
    uint64_t begin, end;
    for (int i = 0; i < SETTLED; i += 512)
        stack[i] = 1;
    (void)stack[0];
    errno = EAGAIN;
    int wanted = c->handler_map;
    c->handler_map = -1;
    for (int i = 0; i < 3; i++) {
        raise(SIGUSR1);
        bracket(c, forbidden, 0, &minor, &major, &begin, &end);
        bracket(c, scratch + i * PAGE, 1, &minor, &major, &begin, &end);
        emit(c, OP_SETTLED, begin, minor, major, 0, 0, 0, 0);
    }
    c->handler_map = wanted;
}

static void on_tick(int number) {
    int saved = errno;
    struct context *c = me;
    (void)number;
    if (c && c->handler_map >= 0)
        touch(c, c->handler_map, c->handler_page++ % (c->maps[c->handler_map].pages + 1), 1, 1);
    errno = saved;
}

static void on_bus(int number, siginfo_t *info, void *unused) {
    struct context *c = me;
    (void)unused;
    if (!c || !c->landing || info->si_code <= 0) { /* not a touch: die of it */
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    c->address = (long)info->si_addr;
    siglongjmp(*c->landing, number);
}

static void handle(int number, void *handler, int flags) {
    struct sigaction action = {.sa_flags = flags};
    action.sa_handler = handler;
    sigaction(number, &action, 0);
}

static void name_of(char *path, long name) {
    snprintf(path, 256, name >= 6 ? "%s/d/s%ld" : "%s/s%ld", directory, name);
}

static void run(struct context *c);

static void *thread_main(void *argument) {
    struct context *given = argument, c = *given;
    free(given);
    c.is_thread = 1;
    c.thread_count = c.child_count = 0;
    c.landing = 0;
    c.tid = syscall(SYS_gettid);
    me = &c;
    settle(&c);
    emit(&c, OP_START, now(), 2, c.pid, 0, 0, 0, 0);
    run(&c);
    emit(&c, OP_THREAD_END, now(), 0, 0, 0, 0, 0, 0);
    me = 0;
    return 0;
}

static void start_thread(struct context *c, int role) {
    pthread_attr_t attributes;
    if (c->is_thread || c->thread_count == THREADS)
        return;
    char *stack = mmap(0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED)
        return;
    madvise(stack, STACK, MADV_DONTFORK);
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stack, STACK);
    struct context *copy = malloc(sizeof *copy);
    *copy = *c;
    copy->role = role;
    copy->step = 0;
    int failed = pthread_create(&c->threads[c->thread_count], &attributes, thread_main, copy);
    emit(c, OP_THREAD, now(), failed ? -failed : role, 0, 0, 0, 0, 0);
    if (failed)
        munmap(stack, STACK);
    else
        c->stacks[c->thread_count++] = stack;
}

static void join(struct context *c) {
    for (; c->thread_count; c->thread_count--) {
        pthread_join(c->threads[c->thread_count - 1], 0);
        munmap(c->stacks[c->thread_count - 1], STACK);
    }
}

static void start_child(struct context *c, int role, int daemonised) {
    pid_t above = c->pid, middle = 0;
    if (c->is_thread || c->child_count == CHILDREN)
        return;
    uint64_t begin = now();
    int wanted = c->handler_map;
    c->handler_map = -1; /* no handler touches a page before all is settled */
    pid_t child = fork();
    if (child == 0 && daemonised) {
        setsid();
        middle = getpid();
        if (fork())
            _exit(0);
    }
    if (child == 0) {
        c->thread_count = c->child_count = 0;
        c->pid = c->tid = getpid();
        c->role = role;
        c->step = 0;
        parent = daemonised ? 0 : above;
        settle(c);
        c->handler_map = wanted;
        emit(c, OP_START, begin, 1 + 2 * daemonised, daemonised ? middle : above, 0, 0, 0, 0);
        run(c);
        join(c);
        emit(c, OP_EXIT, now(), 0, 0, 0, 0, 0, 0);
        _exit(0);
    }
    settle(c);
    c->handler_map = wanted;
    emit(c, OP_FORK, begin, child < 0 ? -errno : child, role, daemonised, 0, 0, 0);
    if (child > 0)
        c->children[c->child_count++] = child;
}

static void wait_all(struct context *c) {
    int status;
    while (c->child_count) {
        uint64_t begin = now();
        pid_t child = waitpid(-1, &status, 0);
        if (child < 0 && errno == EINTR)
            continue;
        if (child < 0)
            break;
        emit(c, OP_WAIT, begin, child, status, 0, 0, 0, 0);
        for (int i = 0; i < c->child_count; i++)
            if (c->children[i] == child) {
                c->children[i] = c->children[--c->child_count];
                break;
            }
    }
    c->child_count = 0;
}

/* Sizes of everything in the directory, and what statfs has no name for is not here. */
static void census(struct context *c) {
    for (long name = 0; name < 8; name++) {
        char path[256];
        struct stat s;
        name_of(path, name);
        uint64_t begin = now();
        if (stat(path, &s) == 0)
            emit(c, OP_CENSUS, begin, s.st_ino, name, s.st_size, s.st_blocks / 8, s.st_nlink, 0);
    }
    for (int i = 0; i < SLOTS; i++) {
        struct stat s;
        uint64_t begin = now();
        if (c->files[i].fd >= 0 && fstat(c->files[i].fd, &s) == 0)
            emit(c, OP_CENSUS, begin, s.st_ino, -1, s.st_size, s.st_blocks / 8, s.st_nlink, 0);
    }
}

static void do_open(struct context *c, int op, long slot, long name, long how) {
    char path[256];
    struct stat s = {0};
    int flags = how & 8 ? O_RDONLY : O_RDWR;
    flags |= (how & 1 ? O_CREAT : 0) | (how & 2 ? O_EXCL : 0) | (how & 4 ? O_TRUNC : 0) | O_CLOEXEC;
    name_of(path, name);
    uint64_t begin = now();
    int fd = op == OP_TMPFILE ? open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : open(path, flags, 0600);
    if (fd < 0) {
        emit(c, op, begin, -errno, 0, 0, name, how, slot);
        return;
    }
    if (c->files[slot].fd >= 0)
        close(c->files[slot].fd);
    fstat(fd, &s);
    c->files[slot].fd = fd;
    c->files[slot].inode = s.st_ino;
    emit(c, op, begin, fd, s.st_ino, s.st_dev, name, how, slot);
}

static void do_mmap(struct context *c, long slot, long file, long first, long pages, long how) {
    struct map *m = &c->maps[slot];
    struct file *f = &c->files[file];
    if (m->at || f->fd < 0)
        return;
    uint64_t begin = now();
    int flags = (how & 1 ? MAP_PRIVATE : MAP_SHARED) | (how & 2 ? MAP_POPULATE : 0);
    int protection = how & 4 ? PROT_READ : PROT_READ | PROT_WRITE;
    char *at = mmap(0, pages * PAGE, protection, flags, f->fd, first * PAGE);
    if (at != MAP_FAILED)
        *m = (struct map){at, pages, first, f->inode, protection & PROT_WRITE, 0};
    emit(c, OP_MMAP, begin, at == MAP_FAILED ? -errno : 0, f->inode, (long)at, pages, first, how | slot << 8);
}

/* The inode of what is mapped at an address, if that is on the file system under test; else 0. */
static long inode_at(char *at) {
    static char text[1 << 16];
    char wanted[32];
    unsigned long offset, inode = 0;
    unsigned int major, minor, length = 0;
    struct stat s;
    ssize_t got;
    int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    while ((got = read(maps, text + length, sizeof text - 1 - length)) > 0)
        length += got;
    close(maps);
    text[length] = 0;
    snprintf(wanted, sizeof wanted, "%lx-", (long)at);
    char *line = strstr(text, wanted);
    if (!line || stat(directory, &s) || sscanf(line, "%*s %*s %lx %x:%x %lu", &offset, &major, &minor, &inode) != 4)
        return 0;
    return major << 8 == (s.st_dev & 0xfff00) && minor == (s.st_dev & 0xff) ? (long)inode : 0;
}

/* System V memory of a key (0: IPC_PRIVATE), or shared anonymous memory. */
static void attach(struct context *c, int op, long slot, long key, long pages) {
    struct map *m = &c->maps[slot];
    if (m->at)
        return;
    uint64_t begin = now();
    char *at = MAP_FAILED;
    int id = -1;
    if (op == OP_ANONYMOUS) {
        at = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    } else {
        id = shmget(key ? 0x5e00 + key : IPC_PRIVATE, pages * PAGE, IPC_CREAT | 0600);
        if (id >= 0)
            at = shmat(id, 0, 0);
        if (id >= 0 && !key)
            shmctl(id, IPC_RMID, 0);
    }
    int error = at == MAP_FAILED ? errno : 0;
    long inode = error ? 0 : inode_at(at);
    if (inode)
        *m = (struct map){at, pages, 0, inode, 1, op == OP_ATTACH};
    emit(c, op, begin, -error, inode, pages, key ? 0x5e00 + key : 0, id, slot);
}

static void set_timer(long us) {
    struct itimerval t = {{us / 1000000, us % 1000000}, {us / 1000000, us % 1000000}};
    setitimer(ITIMER_REAL, &t, 0);
}

/* A fault that the kernel takes for the program, in read(2) into the page or write(2) from it. */
static void kernel_touch(struct context *c, long slot, long index, int store) {
    long before_minor, before_major, minor, major;
    struct map *m = &c->maps[slot];
    char byte;
    if (!m->at || index >= m->pages || (store && !m->writable))
        return;
    long page = m->first + index;
    emit(c, OP_BEGIN, now(), m->inode, page, store, 4, slot, 0);
    count(c, &before_minor, &before_major);
    uint64_t begin = now();
    ssize_t got = store ? read(zero_fd, m->at + index * PAGE, 8) : write(pipe_fds[1], m->at + index * PAGE, 1);
    int error = got < 0 ? errno : 0;
    uint64_t end = now();
    count(c, &minor, &major);
    minor -= before_minor;
    major -= before_major;
    if (!store && got > 0)
        (void)!read(pipe_fds[0], &byte, 1);
    struct record r = {begin,  end,    c->pid, c->tid, c->role, c->step, OP_TOUCHED,
                       {m->inode, page, store | 4, minor << 32 | major, error ? -error : 0, -1}};
    (void)!write(log_fd, &r, sizeof r);
}

static pid_t target_of(struct context *c, long which) {
    if (which == 0)
        return c->pid;
    if (which == 1)
        return parent > 1 && getppid() == parent ? parent : 0;
    return which - 2 < c->child_count ? c->children[which - 2] : 0;
}

static void execute(struct context *c, struct step *s) {
    long *a = s->a;
    char path[256], other[256];
    uint64_t begin = now();
    struct map *m = &c->maps[a[0] >= 0 && a[0] < MAPS ? a[0] : 0];
    struct file *f = &c->files[a[0] >= 0 && a[0] < SLOTS ? a[0] : 0];
    long got = 0;
    switch (s->op) {
    case OP_OPEN:
    case OP_TMPFILE:
        do_open(c, s->op, a[0], a[1], a[2]);
        return;
    case OP_CLOSE:
        if (f->fd >= 0)
            close(f->fd);
        f->fd = -1;
        break;
    case OP_FTRUNCATE:
        got = ftruncate(f->fd, a[1]) ? -errno : 0;
        emit(c, s->op, begin, got, f->inode, a[1], 0, 0, 0);
        return;
    case OP_FALLOCATE:
        do
            got = fallocate(f->fd, a[1], a[2], a[3]) ? -errno : 0;
        while (got == -EINTR);
        emit(c, s->op, begin, got, f->inode, a[1], a[2], a[3], 0);
        return;
    case OP_WRITE:
    case OP_READ: {
        char *buffer = malloc(a[2]);
        memset(buffer, 1, a[2]);
        got = s->op == OP_WRITE ? pwrite(f->fd, buffer, a[2], a[1]) : pread(f->fd, buffer, a[2], a[1]);
        emit(c, s->op, begin, got < 0 ? -errno : got, f->inode, a[1], a[2], 0, 0);
        free(buffer);
        return;
    }
    case OP_UNLINK:
        name_of(path, a[0]);
        got = unlink(path) ? -errno : 0;
        break;
    case OP_RENAME:
        name_of(path, a[0]);
        name_of(other, a[1]);
        got = rename(path, other) ? -errno : 0;
        break;
    case OP_MMAP:
        do_mmap(c, a[0], a[1], a[2], a[3], a[4]);
        return;
    case OP_ATTACH:
    case OP_ANONYMOUS:
        attach(c, s->op, a[0], s->op == OP_ATTACH ? a[1] : 0, s->op == OP_ATTACH ? a[2] : a[1]);
        return;
    case OP_REMOVE: {
        int id = shmget(0x5e00 + a[0], 1, 0);
        got = id < 0 || shmctl(id, IPC_RMID, 0) ? -errno : 0;
        break;
    }
    case OP_MUNMAP:
        if (m->at && m->attached)
            shmdt(m->at);
        else if (m->at)
            munmap(m->at, m->pages * PAGE);
        emit(c, s->op, begin, a[0], m->inode, 0, 0, 0, 0);
        *m = (struct map){0};
        return;
    case OP_MREMAP: {
        if (!m->at)
            return;
        char *at = mremap(m->at, m->pages * PAGE, a[1] * PAGE, MREMAP_MAYMOVE);
        emit(c, s->op, begin, at == MAP_FAILED ? -errno : 0, m->inode, (long)m->at, (long)at, a[1], a[0]);
        if (at != MAP_FAILED) {
            m->at = at;
            m->pages = a[1];
        }
        return;
    }
    case OP_MADVISE:
        if (m->at && a[1] + a[2] <= m->pages)
            got = madvise(m->at + a[1] * PAGE, a[2] * PAGE, a[3]) ? -errno : 0;
        emit(c, s->op, begin, got, m->inode, m->first + a[1], a[2], a[3], 0);
        return;
    case OP_MLOCK:
        if (m->at && a[1] + a[2] <= m->pages)
            got = mlock(m->at + a[1] * PAGE, a[2] * PAGE) ? -errno : 0;
        emit(c, s->op, begin, got, m->inode, m->first + a[1], a[2], 0, 0);
        return;
    case OP_MUNLOCK:
        if (m->at)
            munlock(m->at, m->pages * PAGE);
        break;
    case OP_MPROTECT:
        if (m->at) {
            got = mprotect(m->at, m->pages * PAGE, a[1] ? PROT_READ | PROT_WRITE : PROT_READ) ? -errno : 0;
            if (!got)
                m->writable = a[1];
        }
        break;
    case OP_TOUCH:
        for (long i = 0; i < a[2] && m->at; i++)
            touch(c, a[0], (a[1] + i * a[3]) % m->pages, a[4], 0);
        return;
    case OP_KERNEL_TOUCH:
        kernel_touch(c, a[0], a[1], a[2]);
        return;
    case OP_TIMER:
        c->handler_map = a[1];
        c->handler_page = 0;
        set_timer(a[0]);
        break;
    case OP_FORK:
    case OP_DAEMON:
        start_child(c, a[0], s->op == OP_DAEMON);
        return;
    case OP_THREAD:
        start_thread(c, a[0]);
        return;
    case OP_JOIN:
        join(c);
        return;
    case OP_WAIT:
        wait_all(c);
        return;
    case OP_EXEC: {
        char role[16];
        snprintf(role, sizeof role, "%ld", a[0]);
        set_timer(0);
        emit(c, s->op, begin, a[0], 0, 0, 0, 0, 0);
        execl("/proc/self/exe", a[1] ? "actor" : "other", program_path, directory, log_path, role, "exec", (char *)0);
        _exit(99);
    }
    case OP_KILL: {
        pid_t target = target_of(c, a[0]);
        if (target <= 1)
            return;
        emit(c, s->op, begin, target, a[1], 0, 0, 0, 0);
        kill(target, a[1]);
        return;
    }
    case OP_BUS: {
        struct sigaction action = {.sa_flags = SA_SIGINFO | SA_NODEFER};
        action.sa_sigaction = on_bus;
        if (a[0])
            sigaction(SIGBUS, &action, 0);
        else
            signal(SIGBUS, SIG_DFL);
        break;
    }
    case OP_EXIT:
        emit(c, s->op, begin, a[0], 0, 0, 0, 0, 0);
        _exit(a[0]);
    case OP_SLEEP:
        usleep(a[0]);
        return;
    case OP_FSIZE: {
        struct rlimit limit = {a[0], a[0]};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        break;
    }
    case OP_CENSUS:
        census(c);
        return;
    case OP_GATE: /* what comes now is recorded: the search makes the file */
        emit(c, s->op, begin, 0, 0, 0, 0, 0, 0);
        snprintf(path, sizeof path, "%s.gate", log_path);
        for (int i = 0; access(path, F_OK) && i < 30000; i++) /* a minute: the search may have been killed */
            usleep(2000);
        break;
    }
    emit(c, s->op, begin, got, a[0], a[1], a[2], a[3], 0);
}

static void run(struct context *c) {
    for (c->step = 0; c->step < lengths[c->role]; c->step++)
        execute(c, &roles[c->role][c->step]);
}

static void load(void) {
    FILE *file = fopen(program_path, "re");
    int role = -1, op;
    struct step s;
    while (file && fscanf(file, "%d %ld %ld %ld %ld %ld %ld", &op, &s.a[0], &s.a[1], &s.a[2], &s.a[3], &s.a[4],
                          &s.a[5]) == 7) {
        s.op = op;
        if (op == OP_ROLE)
            role = s.a[0];
        else if (role >= 0 && role < ROLES && lengths[role] < STEPS)
            roles[role][lengths[role]++] = s;
    }
    if (file)
        fclose(file);
}

int main(int argc, char **argv) {
    static struct context c __attribute__((aligned(PAGE))); /* in one page, which settle() touches */
    if (argc != 6)
        return 98;
    program_path = argv[1];
    directory = argv[2];
    log_path = argv[3];
    log_fd = open(log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    zero_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    if (log_fd < 0 || zero_fd < 0 || pipe2(pipe_fds, O_CLOEXEC))
        return 97;
    load();
    int is_exec = !strcmp(argv[5], "exec");
    c.pid = c.tid = getpid();
    c.role = atoi(argv[4]);
    c.handler_map = -1;
    for (int i = 0; i < SLOTS; i++)
        c.files[i].fd = -1;
    me = &c;
    handle(SIGALRM, on_tick, SA_RESTART);
    handle(SIGUSR1, on_tick, SA_RESTART);
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_NODEFER};
    action.sa_sigaction = on_bus;
    sigaction(SIGSEGV, &action, 0);
    forbidden = mmap(0, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    settle(&c);
    emit(&c, OP_START, now(), is_exec ? 4 : 0, getppid(), 0, 0, 0, 0);
    run(&c);
    join(&c);
    wait_all(&c);
    emit(&c, OP_EXIT, now(), 0, 0, 0, 0, 0, 0);
    return 0;
}
