#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

// Moves fd out of 0..2 so that installing one standard stream cannot overwrite another.
static int lift(int fd) { return fd > 2 ? fd : fcntl(fd, F_DUPFD, 3); }

struct child {
    const clinux_spawn_request *request;
    int error;
};

// Runs in the child, in the parent's memory (CLONE_VM) while the parent's thread waits: nothing but system calls here.
// Identity is changed by raw calls because glibc's wrappers would change all threads of the parent as well.
static int run_child(void *argument) {
    struct child *child = argument;
    const clinux_spawn_request *request = child->request;

    struct sigaction standard;
    memset(&standard, 0, sizeof standard);
    standard.sa_handler = SIG_DFL;
    for (int number = 1; number < NSIG; number++)
        if (number != SIGKILL && number != SIGSTOP) sigaction(number, &standard, NULL);

    if (request->new_session && setsid() < 0) goto failed;
    if (request->death_signal && prctl(PR_SET_PDEATHSIG, request->death_signal) < 0) goto failed;

    int in = lift(request->stdin_fd), out = lift(request->stdout_fd), err = lift(request->stderr_fd);
    if (in < 0 || out < 0 || err < 0) goto failed;
    if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0) goto failed;
    if (syscall(SYS_close_range, 3, ~0U, 0) < 0) goto failed;

    if (request->cwd && chdir(request->cwd) < 0) goto failed;
    if (request->change_user) {
        if (syscall(SYS_setgroups, 0, NULL) < 0) goto failed;
        if (syscall(SYS_setresgid, request->gid, request->gid, request->gid) < 0) goto failed;
        if (syscall(SYS_setresuid, request->uid, request->uid, request->uid) < 0) goto failed;
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);

    execve(request->path, request->argv, request->envp);
failed:
    child->error = errno;
    _exit(127);
}

int clinux_spawn(const clinux_spawn_request *request, pid_t *pid, int *pidfd) {
    const size_t stack_size = 64 * 1024;
    char *stack = mmap(NULL, stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED) return -errno;

    // No handler of the parent may run in the child while it shares the parent's memory.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    struct child child = {.request = request, .error = 0};
    int made = clone(run_child, stack + stack_size, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &child, pidfd);
    int error = made < 0 ? errno : child.error;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    munmap(stack, stack_size);

    if (made < 0) return -error;
    if (error) {
        waitpid(made, NULL, 0);
        close(*pidfd);
        return -error;
    }
    *pid = made;
    return 0;
}

int clinux_pidfd_open(pid_t pid) {
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    return fd < 0 ? -errno : fd;
}

int clinux_pidfd_send_signal(int pidfd, int number) {
    return syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0) < 0 ? -errno : 0;
}

int clinux_wait_pidfd(int pidfd, int *code) {
    siginfo_t info;
    memset(&info, 0, sizeof info);
    // P_PIDFD is 3; older glibc headers lack the name.
    while (waitid((idtype_t)3, (id_t)pidfd, &info, WEXITED | WNOHANG) < 0)
        if (errno != EINTR) return -errno;
    if (info.si_pid == 0) return 0;
    *code = info.si_status;
    return info.si_code == CLD_EXITED ? 1 : 2;
}

static int open_loop(int number, int read_only) {
    char path[32];
    snprintf(path, sizeof path, "/dev/loop%d", number);
    int flags = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC;
    int fd = open(path, flags);
    if (fd < 0 && errno == ENOENT) {
        // A /dev that is no devtmpfs does not grow with the kernel's devices.
        if (mknod(path, S_IFBLK | 0660, makedev(7, number)) < 0 && errno != EEXIST) return -errno;
        fd = open(path, flags);
    }
    return fd < 0 ? -errno : fd;
}

int clinux_loop_attach(int backing_fd, const char *backing_path, uint32_t block_size, int read_only, int *device_fd) {
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0) return -errno;
    int result = -EBUSY;
    // Others may take the free device between the question and the answer; each round asks for another.
    for (int attempt = 0; attempt < 64 && result == -EBUSY; attempt++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        if (number < 0) {
            result = -errno;
            break;
        }
        int fd = open_loop(number, read_only);
        if (fd < 0) {
            result = fd;
            break;
        }
        struct loop_config config;
        memset(&config, 0, sizeof config);
        config.fd = (uint32_t)backing_fd;
        config.block_size = block_size;
        config.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO | (read_only ? LO_FLAGS_READ_ONLY : 0);
        strncpy((char *)config.info.lo_file_name, backing_path, LO_NAME_SIZE - 1);
        if (ioctl(fd, LOOP_CONFIGURE, &config) < 0) {
            result = -errno;
            close(fd);
        } else {
            *device_fd = fd;
            result = number;
        }
    }
    close(control);
    return result;
}

int clinux_loop_detach(int device_fd) { return ioctl(device_fd, LOOP_CLR_FD, 0) < 0 ? -errno : 0; }

int clinux_loop_backing_inode(int device_fd, uint64_t *inode) {
    struct loop_info64 info;
    if (ioctl(device_fd, LOOP_GET_STATUS64, &info) < 0) return -errno;
    *inode = info.lo_inode;
    return 0;
}

int clinux_loop_resize(int device_fd) { return ioctl(device_fd, LOOP_SET_CAPACITY, 0) < 0 ? -errno : 0; }

int64_t clinux_size(int fd) {
    struct stat status;
    if (fstat(fd, &status) < 0) return -errno;
    if (!S_ISBLK(status.st_mode)) return status.st_size;
    uint64_t size = 0;
    return ioctl(fd, BLKGETSIZE64, &size) < 0 ? -errno : (int64_t)size;
}

int clinux_epoll_create(void) {
    int fd = epoll_create1(EPOLL_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int clinux_epoll_add(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int clinux_epoll_remove(int epoll, int fd) { return epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL) < 0 ? -errno : 0; }

int clinux_epoll_wait(int epoll, int *ready, int count) {
    struct epoll_event events[64];
    int found = epoll_wait(epoll, events, count < 64 ? count : 64, -1);
    if (found < 0) return -errno;
    for (int index = 0; index < found; index++) ready[index] = events[index].data.fd;
    return found;
}

void clinux_name_thread(const char *name) {
    char short_name[16];
    strncpy(short_name, name, sizeof short_name - 1);
    short_name[sizeof short_name - 1] = 0;
    pthread_setname_np(pthread_self(), short_name);
}

int clinux_set_hostname(const char *name) { return sethostname(name, strlen(name)) < 0 ? -errno : 0; }
