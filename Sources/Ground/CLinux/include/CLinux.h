#ifndef HOLDFAST_CLINUX_H
#define HOLDFAST_CLINUX_H

#include <stdint.h>
#include <sys/types.h>

// What Linux offers but Swift cannot express: code between fork and exec, and ioctls with variable arguments.
// Every function answers 0 or a positive value for success and a negated errno otherwise.

typedef struct {
    const char *path;        // resolved by the caller: no PATH search
    char *const *argv;
    char *const *envp;
    const char *cwd;         // null: inherited
    int stdin_fd;            // these three become 0, 1, 2; must be valid
    int stdout_fd;
    int stderr_fd;
    int new_session;         // setsid()
    int death_signal;        // sent to the child when the thread that made it ends; 0: none
    int change_user;         // then uid, gid and no supplementary groups
    uid_t uid;
    gid_t gid;
} clinux_spawn_request;

// Starts a process with default signal handling, an empty signal mask and no file descriptors but 0, 1, 2.
// Returns once the program runs (or could not be run); *pid and *pidfd (close-on-exec) are set on success.
int clinux_spawn(const clinux_spawn_request *request, pid_t *pid, int *pidfd);

int clinux_pidfd_open(pid_t pid);
int clinux_pidfd_send_signal(int pidfd, int signal);
// Reaps the child behind pidfd. 1: exited, *code is its status; 2: killed, *code is the signal; 0: still runs.
int clinux_wait_pidfd(int pidfd, int *code);

// Attaches backing_fd to a free loop device that detaches itself when its last user closes it (LO_FLAGS_AUTOCLEAR), with
// direct I/O on the backing file. Answers the device's number; *device_fd holds it open until closed by the caller.
int clinux_loop_attach(int backing_fd, const char *backing_path, uint32_t block_size, int read_only, int *device_fd);
int clinux_loop_detach(int device_fd);
// The number of the backing file's inode, whatever its path leads to now.
int clinux_loop_backing_inode(int device_fd, uint64_t *inode);
// Re-reads the size of the backing file.
int clinux_loop_resize(int device_fd);

// The size in bytes of the block device or regular file behind fd.
int64_t clinux_size(int fd);

// An epoll instance for descriptors that become readable once; the fds are their own keys.
int clinux_epoll_create(void);
int clinux_epoll_add(int epoll, int fd);
int clinux_epoll_remove(int epoll, int fd);
// Waits without limit; answers how many of ready were filled.
int clinux_epoll_wait(int epoll, int *ready, int count);

// Names the calling thread; 15 bytes are kept.
void clinux_name_thread(const char *name);

// sethostname(2).
int clinux_set_hostname(const char *name);

#endif
