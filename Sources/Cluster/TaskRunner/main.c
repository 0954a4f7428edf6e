// The keeper of one command task: a small process that outlives the agent, so that restarting the agent neither disturbs the
// task nor loses its exit status.
//
//   holdfast-task --state DIR --directory DIR --stdout FILE --stderr FILE [--user NAME] [--program FILE] -- ARGUMENTS...
//
// It starts the program (the first argument unless named apart from it) in a session of its own, waits for it, ends whatever descendants are left, and writes into the state directory
//   pid   "<keeper> <its start time> <task> <its start time>\n"       before the program runs
//   exit  "exited <status>\n" | "signaled <signal>\n" | "failed <reason>\n"
// each written whole (temporary file, fsync, rename). The command itself returns 0 once `pid` is there, and the keeper lives on as
// a child of init. Start times are field 22 of /proc/<pid>/stat: with them a reused process id is never mistaken for the task.
//
// SIGTERM to the keeper ends the task gently (SIGTERM to all descendants), SIGUSR1 at once (SIGKILL to all).
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *state_directory, *work_directory, *stdout_path, *stderr_path, *user_name, *program;

static void die(const char *what) {
    fprintf(stderr, "holdfast-task: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static int write_file(const char *name, const char *format, ...) {
    char path[PATH_MAX], temporary[PATH_MAX], text[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0 || length >= (int)sizeof text) return -1;
    if (snprintf(path, sizeof path, "%s/%s", state_directory, name) >= (int)sizeof path) return -1;
    if (snprintf(temporary, sizeof temporary, "%s/%s.new", state_directory, name) >= (int)sizeof temporary) return -1;
    int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0) return -1;
    if (write(file, text, (size_t)length) != length || fsync(file) != 0) {
        close(file);
        return -1;
    }
    close(file);
    if (rename(temporary, path) != 0) return -1;
    int directory = open(state_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return -1;
    int result = fsync(directory);
    close(directory);
    return result;
}

// Parent and start time of a process; -1 when there is none.
static int process_stat(pid_t pid, pid_t *parent, unsigned long long *start_time) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return -1;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0) return -1;
    text[length] = 0;
    char *rest = strrchr(text, ')');
    int parsed_parent;
    unsigned long long parsed_start;
    if (rest == NULL
        || sscanf(rest + 1, " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &parsed_parent, &parsed_start) != 2)
        return -1;
    if (parent != NULL) *parent = parsed_parent;
    if (start_time != NULL) *start_time = parsed_start;
    return 0;
}

// As a subreaper the keeper is an ancestor of everything that the task ever started.
static int descends_from_me(pid_t pid) {
    pid_t me = getpid();
    for (int depth = 0; depth < 4096 && pid > 1; depth++) {
        pid_t parent;
        if (process_stat(pid, &parent, NULL) != 0) return 0;
        if (parent == me) return 1;
        pid = parent;
    }
    return 0;
}

static int signal_descendants(int number) {
    DIR *processes = opendir("/proc");
    if (processes == NULL) return 0;
    int count = 0;
    struct dirent *entry;
    while ((entry = readdir(processes)) != NULL) {
        pid_t pid = (pid_t)atoi(entry->d_name);
        if (pid <= 1 || !descends_from_me(pid)) continue;
        if (kill(pid, number) == 0) count++;
    }
    closedir(processes);
    return count;
}

static void pause_milliseconds(long milliseconds) {
    struct timespec duration = {milliseconds / 1000, (milliseconds % 1000) * 1000000};
    nanosleep(&duration, NULL);
}

// Ends what the task left behind. Processes that even SIGKILL does not end (blocked in the kernel on a fenced device, say) are
// given up after two seconds: the task itself is over and has to be reported.
static void end_descendants(void) {
    for (int round = 0; round < 40; round++) {
        signal_descendants(SIGKILL);
        pid_t ended;
        while ((ended = waitpid(-1, NULL, WNOHANG)) > 0) {}
        if (ended < 0 && errno == ECHILD) return;
        pause_milliseconds(50);
    }
}

static void become_user(void) {
    if (user_name == NULL || *user_name == 0) return;
    struct passwd *user = getpwnam(user_name);
    if (user == NULL) {
        fprintf(stderr, "Failed to find the user '%s'\n", user_name);
        _exit(127);
    }
    if (user->pw_uid == getuid()) return;
    if (initgroups(user->pw_name, user->pw_gid) != 0 || setgid(user->pw_gid) != 0 || setuid(user->pw_uid) != 0) {
        fprintf(stderr, "Failed to become the user '%s': %s\n", user_name, strerror(errno));
        _exit(127);
    }
}

static void open_output(const char *path, int descriptor) {
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0 || dup2(file, descriptor) < 0) _exit(127);
}

static void run_task(int gate, int failure, char **command) {
    char byte;
    if (read(gate, &byte, 1) != 1) _exit(127);
    setsid();
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int input = open("/dev/null", O_RDONLY);
    if (input >= 0 && input != 0) {
        dup2(input, 0);
        close(input);
    }
    open_output(stdout_path, 1);
    open_output(stderr_path, 2);
    become_user();
    if (chdir(work_directory) == 0) execvp(program, command);
    int reason = errno;
    fprintf(stderr, "Failed to execute '%s': %s\n", program, strerror(reason));
    if (write(failure, &reason, sizeof reason) < 0) _exit(127);
    _exit(127);
}

// Waits for the task while forwarding requests to end it. Answers its wait status.
static int keep(pid_t task, const sigset_t *signals) {
    for (;;) {
        int status;
        pid_t ended;
        while ((ended = waitpid(-1, &status, WNOHANG)) > 0) {
            if (ended == task) return status;
        }
        int number = sigwaitinfo(signals, NULL);
        if (number == SIGTERM) signal_descendants(SIGTERM);
        if (number == SIGUSR1) signal_descendants(SIGKILL);
    }
}

static void keeper(int ready, char **command) {
    setsid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_NAME, "holdfast-task");
    sigset_t signals;
    sigfillset(&signals);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGUSR1);

    int gate[2], failure[2];
    if (pipe2(gate, O_CLOEXEC) != 0 || pipe2(failure, O_CLOEXEC) != 0) die("pipe");
    pid_t task = fork();
    if (task < 0) die("fork");
    if (task == 0) {
        close(gate[1]);
        close(failure[0]);
        run_task(gate[0], failure[1], command);
    }
    close(gate[0]);
    close(failure[1]);
    unsigned long long own_start = 0, task_start = 0;
    process_stat(getpid(), NULL, &own_start);
    process_stat(task, NULL, &task_start);
    if (write_file("pid", "%d %llu %d %llu\n", (int)getpid(), own_start, (int)task, task_start) != 0) {
        int reason = errno;
        kill(task, SIGKILL);
        errno = reason;
        die("writing the process id");
    }
    if (write(gate[1], "g", 1) != 1) die("starting the task");
    close(gate[1]);
    if (write(ready, "r", 1) != 1) { /* the agent is gone; the task goes on */ }
    close(ready);
    if (chdir("/") != 0) { /* only to keep no directory busy */ }
    int null = open("/dev/null", O_RDWR);
    if (null >= 0) {
        for (int descriptor = 0; descriptor < 3; descriptor++) dup2(null, descriptor);
        if (null > 2) close(null);
    }

    int status = keep(task, &signals);
    end_descendants();
    int reason;
    if (read(failure[0], &reason, sizeof reason) == (ssize_t)sizeof reason) {
        write_file("exit", "failed %s\n", strerror(reason));
    } else if (WIFSIGNALED(status)) {
        write_file("exit", "signaled %d\n", WTERMSIG(status));
    } else {
        write_file("exit", "exited %d\n", WEXITSTATUS(status));
    }
    _exit(0);
}

int main(int count, char **arguments) {
    int index = 1;
    for (; index + 1 < count && strcmp(arguments[index], "--") != 0; index += 2) {
        const char *name = arguments[index], *value = arguments[index + 1];
        if (strcmp(name, "--state") == 0) state_directory = value;
        else if (strcmp(name, "--directory") == 0) work_directory = value;
        else if (strcmp(name, "--stdout") == 0) stdout_path = value;
        else if (strcmp(name, "--stderr") == 0) stderr_path = value;
        else if (strcmp(name, "--user") == 0) user_name = value;
        else if (strcmp(name, "--program") == 0) program = value;
        else break;
    }
    if (index + 1 >= count || strcmp(arguments[index], "--") != 0 || state_directory == NULL || work_directory == NULL
        || stdout_path == NULL || stderr_path == NULL) {
        fprintf(stderr, "usage: holdfast-task --state DIR --directory DIR --stdout FILE --stderr FILE [--user NAME] [--program FILE] -- ARGUMENTS...\n");
        return 64;
    }
    if (program == NULL) program = arguments[index + 1];
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) != 0) die("pipe");
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        close(ready[0]);
        keeper(ready[1], arguments + index + 1);
    }
    close(ready[1]);
    char byte;
    return read(ready[0], &byte, 1) == 1 ? 0 : 1;
}
