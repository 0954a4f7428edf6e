#define _GNU_SOURCE
#include "CBlockIO.h"

#include <poll.h>
#include <signal.h>
#include <sys/uio.h>
#include <sys/wait.h>

int cbio_accept(int listener, uint32_t *address, uint16_t *port) {
    struct sockaddr_in peer = {0};
    socklen_t length = sizeof peer;
    int connection = accept4(listener, (struct sockaddr *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    *address = peer.sin_family == AF_INET ? ntohl(peer.sin_addr.s_addr) : 0;
    *port = peer.sin_family == AF_INET ? ntohs(peer.sin_port) : 0;
    return connection;
}

int cbio_punch(int fd, int64_t offset, int64_t length) {
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}

ssize_t cbio_write_through(int fd, const void *base, size_t length, off_t offset) {
    struct iovec part = {.iov_base = (void *)base, .iov_len = length};
    return pwritev2(fd, &part, 1, offset, RWF_DSYNC);
}

ssize_t cbio_send_descriptors(int socket, const int *descriptors, int count, const void *data, size_t length) {
    union { char bytes[CMSG_SPACE(16 * sizeof(int))]; struct cmsghdr align; } control = {0};
    struct iovec part = {.iov_base = (void *)data, .iov_len = length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count < 0 || count > 16) { errno = EINVAL; return -1; }
    if (count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(header), descriptors, count * sizeof(int));
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}

ssize_t cbio_receive_descriptors(int socket, int *descriptors, int capacity, int *count, void *data, size_t length) {
    union { char bytes[CMSG_SPACE(16 * sizeof(int))]; struct cmsghdr align; } control = {0};
    struct iovec part = {.iov_base = data, .iov_len = length};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    *count = 0;
    ssize_t received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (received < 0) return received;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        int arrived = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        int *first = (int *)CMSG_DATA(header);
        for (int index = 0; index < arrived; index++) {
            if (*count < capacity) descriptors[(*count)++] = first[index];
            else close(first[index]);
        }
    }
    return received;
}

#define KEPT_MAX 16
#define STATE_MAX (128 << 10)

static int keeper_socket(void) { return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0); }

int cbio_connect_keeper(const char *path) {
    int connection = keeper_socket();
    if (connection < 0) return -1;
    if (cbio_connect_unix(connection, path) == 0) return connection;
    int error = errno;
    close(connection);
    errno = error;
    return -1;
}

static char keeper_state[STATE_MAX], keeper_message[STATE_MAX];
static int keeper_kept[KEPT_MAX];
static struct { uint32_t number; int descriptor; } keeper_held[CBIO_HELD_MAX];
static int keeper_held_count;

static void keeper_release(uint32_t number) {
    for (int index = 0; index < keeper_held_count; index++) {
        if (keeper_held[index].number != number) continue;
        close(keeper_held[index].descriptor);
        keeper_held[index] = keeper_held[--keeper_held_count];
        return;
    }
}

// The number follows the message's letter in the order of this host's bytes. Returns whether the descriptor was taken.
static int keeper_hold(uint32_t number, int descriptor) {
    keeper_release(number);
    if (keeper_held_count == CBIO_HELD_MAX) return 0;
    keeper_held[keeper_held_count].number = number;
    keeper_held[keeper_held_count++].descriptor = descriptor;
    return 1;
}

// Another keeper may have its socket at the path by now. The inode of this one's is not used again while it listens.
static void keeper_unlink(const char *path, const struct stat *bound) {
    struct stat present;
    if (lstat(path, &present) == 0 && present.st_dev == bound->st_dev && present.st_ino == bound->st_ino) unlink(path);
}

static void keep(int listener, const char *path, const struct stat *bound, int orphan_seconds) {
    int client = -1, kept_count = 0;
    size_t state_length = 0;
    for (;;) {
        struct pollfd watched[2] = {{.fd = listener, .events = POLLIN}, {.fd = client, .events = POLLIN}};
        int ready = poll(watched, client >= 0 ? 2 : 1, client >= 0 ? -1 : orphan_seconds * 1000);
        if (ready == 0) break;
        if (ready < 0) {
            if (errno == EINTR) continue;
            break;
        }
        if (client >= 0 && watched[1].revents) {
            int arrived[KEPT_MAX], count = 0;
            ssize_t length =
                cbio_receive_descriptors(client, arrived, KEPT_MAX, &count, keeper_message, sizeof keeper_message);
            int taken = 0;
            uint32_t number = 0;
            if (length == 1 + (ssize_t)sizeof number) memcpy(&number, keeper_message + 1, sizeof number);
            if (length <= 0) {
                close(client);
                client = -1;
            } else if (keeper_message[0] == 'H' && length == 1 + (ssize_t)sizeof number && count >= 1) {
                taken = keeper_hold(number, arrived[0]);
            } else if (keeper_message[0] == 'R' && length == 1 + (ssize_t)sizeof number) {
                keeper_release(number);
            } else if (keeper_message[0] == 'P') {
                for (int index = 0; index < kept_count; index++) close(keeper_kept[index]);
                memcpy(keeper_kept, arrived, sizeof(int) * (size_t)count);
                kept_count = taken = count;
                state_length = (size_t)length - 1;
                memcpy(keeper_state, keeper_message + 1, state_length);
            } else if (keeper_message[0] == 'G') {
                keeper_message[0] = 'S';
                memcpy(keeper_message + 1, keeper_state, state_length);
                cbio_send_descriptors(client, keeper_kept, kept_count, keeper_message, state_length + 1);
            } else if (keeper_message[0] == 'Q') {
                break;
            }
            for (int index = taken; index < count; index++) close(arrived[index]);
        }
        // The newest connection is the one that counts: its predecessor is dead or about to be. First all that it has said.
        if (watched[0].revents && !(client >= 0 && watched[1].revents)) {
            int next = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            if (next >= 0) {
                if (client >= 0) close(client);
                client = next;
            }
        }
    }
    keeper_unlink(path, bound);
}

int cbio_start_keeper(const char *path, int orphan_seconds) {
    int listener = keeper_socket();
    if (listener < 0) return -1;
    unlink(path);
    struct stat bound;
    if (cbio_bind_unix(listener, path) < 0 || lstat(path, &bound) < 0 || listen(listener, 4) < 0) {
        int error = errno;
        close(listener);
        errno = error;
        return -1;
    }
    pid_t child = fork();
    if (child < 0) {
        close(listener);
        return -1;
    }
    if (child == 0) {
        // Twice, so that nobody has to wait for the keeper; a session of its own, so that no terminal or group takes it along.
        if (setsid() < 0 || fork() != 0) _exit(0);
        prctl(PR_SET_NAME, "sdc-keeper");
        sigset_t none;
        sigemptyset(&none);
        for (int number = 1; number < 32; number++) signal(number, number == SIGPIPE ? SIG_IGN : SIG_DFL);
        sigprocmask(SIG_SETMASK, &none, NULL);
        int null = open("/dev/null", O_RDWR);
        for (int standard = 0; standard < 3; standard++) dup2(null, standard);
        dup2(listener, 3);
        close_range(4, ~0u, 0);
        if (chdir("/") < 0) _exit(1);
        keep(3, path, &bound, orphan_seconds);
        _exit(0);
    }
    close(listener);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
    return 0;
}

static uint32_t crc_table[8][256];

__attribute__((constructor)) static void fill_crc_table(void) {
    for (uint32_t index = 0; index < 256; index++) {
        uint32_t value = index;
        for (int bit = 0; bit < 8; bit++) value = (value & 1) ? (value >> 1) ^ 0x82F63B78u : value >> 1;
        crc_table[0][index] = value;
    }
    for (uint32_t index = 0; index < 256; index++)
        for (int slice = 1; slice < 8; slice++)
            crc_table[slice][index] =
                (crc_table[slice - 1][index] >> 8) ^ crc_table[0][crc_table[slice - 1][index] & 0xFF];
}

static uint32_t crc_by_table(uint32_t crc, const uint8_t *data, size_t length) {
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        word ^= crc;
        crc = crc_table[7][word & 0xFF] ^ crc_table[6][(word >> 8) & 0xFF] ^ crc_table[5][(word >> 16) & 0xFF]
            ^ crc_table[4][(word >> 24) & 0xFF] ^ crc_table[3][(word >> 32) & 0xFF]
            ^ crc_table[2][(word >> 40) & 0xFF] ^ crc_table[1][(word >> 48) & 0xFF] ^ crc_table[0][word >> 56];
    }
    while (length--) crc = (crc >> 8) ^ crc_table[0][(crc ^ *data++) & 0xFF];
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_by_instruction(uint32_t crc, const uint8_t *data, size_t length) {
    uint64_t wide = crc;
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    while (length--) crc = __builtin_ia32_crc32qi(crc, *data++);
    return crc;
}

// The instruction takes three cycles and one can begin in each: three blocks at a time.
__attribute__((target("sse4.2"))) static void crc_of_three(const uint8_t *data, size_t length, uint32_t *crcs) {
    uint64_t first = 0xFFFFFFFFu, second = first, third = first;
    for (size_t position = 0; position < length; position += 8) {
        uint64_t words[3];
        memcpy(&words[0], data + position, 8);
        memcpy(&words[1], data + length + position, 8);
        memcpy(&words[2], data + 2 * length + position, 8);
        first = __builtin_ia32_crc32di(first, words[0]);
        second = __builtin_ia32_crc32di(second, words[1]);
        third = __builtin_ia32_crc32di(third, words[2]);
    }
    crcs[0] = ~(uint32_t)first;
    crcs[1] = ~(uint32_t)second;
    crcs[2] = ~(uint32_t)third;
}
#endif

uint32_t cbio_crc32c(uint32_t crc, const void *data, size_t length) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return ~crc_by_instruction(~crc, data, length);
#endif
    return ~crc_by_table(~crc, data, length);
}

void cbio_crc32c_blocks(const void *data, size_t blocks, uint32_t *crcs) {
    const size_t length = 4096;
    const uint8_t *block = data;
    size_t done = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        for (; done + 3 <= blocks; done += 3) crc_of_three(block + done * length, length, crcs + done);
#endif
    for (; done < blocks; done++) crcs[done] = cbio_crc32c(0, block + done * length, length);
}
