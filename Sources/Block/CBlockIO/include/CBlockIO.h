// What the block rooms need from the C library and the kernel's headers and Swift cannot import by itself:
// variadic calls, macros, control messages, and the CRC32C instructions. No logic lives here.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <linux/loop.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

// fuse.h of Debian 12 is 7.38; this came later (7.40).
#define CBIO_FUSE_NOTIFY_RESEND 7

static inline int cbio_open(const char *path, int flags, int mode) { return open(path, flags | O_CLOEXEC, mode); }
static inline int cbio_open_direct(const char *path, int flags, int mode) {
    return open(path, flags | O_CLOEXEC | __O_DIRECT, mode);
}
static inline void cbio_name_thread(const char *name) { prctl(PR_SET_NAME, name); }
// accept4 with SOCK_NONBLOCK and SOCK_CLOEXEC; the IPv4 address and port of the peer in host order, 0 for unix sockets.
int cbio_accept(int listener, uint32_t *address, uint16_t *port);
// Frees a range of a file, which then reads as zeros.
int cbio_punch(int fd, int64_t offset, int64_t length);
// pwrite, on stable media when it returns (RWF_DSYNC).
ssize_t cbio_write_through(int fd, const void *base, size_t length, off_t offset);
static inline int cbio_set_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}
static inline int cbio_ioctl(int fd, unsigned long request, unsigned long argument) {
    return ioctl(fd, request, argument);
}
static inline int cbio_ioctl_pointer(int fd, unsigned long request, void *argument) {
    return ioctl(fd, request, argument);
}
// Whether the file system or device took the set-up; the block size of a raw device in bytes through `size`.
static inline int cbio_block_device_size(int fd, uint64_t *size) { return ioctl(fd, 0x80081272ul, size); }

// Small messages at once, silent peers noticed, and no pacing: where the host prefers BBR, its model of the path makes requests
// and answers over short round trips two to three times slower. Kernels without CUBIC keep what they have.
static inline int cbio_set_tcp_options(int fd, int user_timeout_ms) {
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0) return -1;
    return setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof user_timeout_ms);
}
static inline int cbio_reuse_address(int fd) {
    int one = 1;
    return setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
}
static inline int cbio_socket_error(int fd) {
    int error = 0;
    socklen_t length = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0 ? errno : error;
}
static inline int cbio_bind_unix(int fd, const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) { errno = ENAMETOOLONG; return -1; }
    strcpy(address.sun_path, path);
    return bind(fd, (struct sockaddr *)&address, sizeof address);
}
static inline int cbio_connect_unix(int fd, const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) { errno = ENAMETOOLONG; return -1; }
    strcpy(address.sun_path, path);
    return connect(fd, (struct sockaddr *)&address, sizeof address);
}
static inline int cbio_bind_inet(int fd, uint32_t address_be, uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = address_be};
    return bind(fd, (struct sockaddr *)&address, sizeof address);
}
static inline int cbio_connect_inet(int fd, uint32_t address_be, uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = address_be};
    return connect(fd, (struct sockaddr *)&address, sizeof address);
}
static inline int cbio_local_port(int fd) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    return getsockname(fd, (struct sockaddr *)&address, &length) < 0 ? -1 : ntohs(address.sin_port);
}

// A socket of generic netlink whose answers are waited for so long, or -1 with errno.
static inline int cbio_open_generic_netlink(int patience_ms) {
    struct timeval patience = {.tv_sec = patience_ms / 1000, .tv_usec = patience_ms % 1000 * 1000};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
    if (fd >= 0) (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}
// The beginning of a file or device as memory, or NULL with errno.
static inline void *cbio_map_read_only(int fd, size_t length) {
    void *memory = mmap(NULL, length, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}
// A pair of connected unix stream sockets, the first one non-blocking. 0, or -1 with errno.
static inline int cbio_socket_pair(int pair[2]) {
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) return -1;
    return fcntl(pair[0], F_SETFL, O_NONBLOCK);
}

// Sends `count` (1...16) descriptors with `length` bytes of data over a unix socket.
ssize_t cbio_send_descriptors(int socket, const int *descriptors, int count, const void *data, size_t length);
// Receives up to `capacity` (<= 16) descriptors (close-on-exec); `*count` tells how many came.
ssize_t cbio_receive_descriptors(int socket, int *descriptors, int capacity, int *count, void *data, size_t length);

// Starts a process that outlives its starter and keeps descriptors for it: listens on the SEQPACKET unix socket `path`, takes
// 'P' + state (with descriptors: replaces what is kept), 'G' (answers "S" + state with the descriptors), 'H' + number (holds one
// descriptor open under that number, in the place of an earlier one, of CBIO_HELD_MAX numbers at most: more are not held), 'R' +
// number (closes it) and 'Q' (ends). Numbers have 4 bytes in the host's order. Ends by itself when nobody is connected for
// `orphan_seconds`. Runs no code but its own after fork. 0, or -1 with errno.
#define CBIO_HELD_MAX 4096
int cbio_start_keeper(const char *path, int orphan_seconds);
// A connection to such a process, or -1 with errno.
int cbio_connect_keeper(const char *path);

// CRC32C (Castagnoli) of `length` bytes, continuing from `crc` (0 to begin), as iSCSI and ext4 have it.
uint32_t cbio_crc32c(uint32_t crc, const void *data, size_t length);
// The CRC32C of each of `blocks` blocks of 4096 bytes.
void cbio_crc32c_blocks(const void *data, size_t blocks, uint32_t *crcs);
