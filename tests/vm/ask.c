/* ask PATH: sends standard input to a Unix socket, says what comes back. `ask PATH hold` sends it
 * and then only waits. Statically linked into the image of the machines in these tests. */
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static char buffer[65536];

static int copy(int from, int to) {
    ssize_t count, done, step;
    while ((count = read(from, buffer, sizeof buffer)) > 0)
        for (done = 0; done < count; done += step)
            if ((step = write(to, buffer + done, count - done)) <= 0)
                return -1;
    return count;
}

int main(int count, char **words) {
    struct sockaddr_un there = {.sun_family = AF_UNIX};
    int socket_fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (count < 2 || socket_fd < 0)
        return 2;
    strncpy(there.sun_path, words[1], sizeof there.sun_path - 1);
    if (connect(socket_fd, (struct sockaddr *)&there, sizeof there) < 0)
        return 3;
    copy(0, socket_fd);
    if (count > 2)
        return sleep(1000);
    return copy(socket_fd, 1) < 0;
}
