/* A server for the plugin to be tried with: a disk of 64 MiB in memory, on the
 * unix socket that is named on the command line. One process serves all clients,
 * each until it has nothing more to say. It is for little-endian machines. */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BLOCK = 512, CLIENTS = 256, MOST = 64 << 20 };

static uint8_t *disk;
static const uint64_t size = 64 << 20;

struct client {
	int fd;
	uint8_t *in;
	size_t n, room;
} clients[CLIENTS];

static void end(struct client *c) {
	close(c->fd);
	free(c->in);
	memset(c, 0, sizeof *c);
	c->fd = -1;
}

/* Sends all of it; the client reads as long as it lives. */
static int say(int fd, const void *b, size_t n) {
	for (const uint8_t *p = b; n > 0;) {
		ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
		if (k <= 0) return 0;
		p += k;
		n -= (size_t)k;
	}
	return 1;
}

static int greet(int fd) {
	uint8_t b[24] = "plain01\n";
	uint32_t block = BLOCK;
	memcpy(b + 8, &size, 8);
	memcpy(b + 16, &block, 4);
	return say(fd, b, sizeof b);
}

static int reply(int fd, uint32_t status, uint64_t cookie, const uint8_t *data, uint32_t n) {
	uint8_t b[16];
	memcpy(b, &status, 4);
	memcpy(b + 4, &n, 4);
	memcpy(b + 8, &cookie, 8);
	return say(fd, b, sizeof b) && say(fd, data, n);
}

/* Carries out the first request, if it is there: -1 for a client to be ended,
 * else how many bytes it was. */
static long request(struct client *c) {
	uint32_t op, length;
	uint64_t cookie, offset;
	if (c->n < 24) return 0;
	memcpy(&op, c->in, 4);
	memcpy(&length, c->in + 4, 4);
	memcpy(&cookie, c->in + 8, 8);
	memcpy(&offset, c->in + 16, 8);
	size_t whole = 24 + (op == 2 ? length : 0);
	if (length > MOST) return -1;
	if (c->n < whole) return 0;
	uint32_t status = op < 1 || op > 3 || offset > size || length > size - offset ? 22 /* EINVAL */ : 0;
	if (status == 0 && op == 2) memcpy(disk + offset, c->in + 24, length);
	int data = status == 0 && op == 1;
	if (!reply(c->fd, status, cookie, data ? disk + offset : disk, data ? length : 0)) return -1;
	return (long)whole;
}

static void serve(struct client *c) {
	if (c->room - c->n < 65536) {
		c->room = c->room ? 2 * c->room : 1 << 17;
		c->in = realloc(c->in, c->room);
		if (!c->in) abort();
	}
	ssize_t k = recv(c->fd, c->in + c->n, c->room - c->n, 0);
	if (k <= 0) {
		end(c);
		return;
	}
	c->n += (size_t)k;
	size_t at = 0, all = c->n;
	uint8_t *start = c->in;
	for (long done; c->n > 0; at += (size_t)done) {
		c->in = start + at;
		c->n = all - at;
		done = request(c);
		c->in = start;
		if (done < 0) {
			end(c);
			return;
		}
		if (done == 0) break;
	}
	c->n = all - at;
	memmove(start, start + at, c->n);
}

static void admit(int listener) {
	int fd = accept(listener, NULL, NULL);
	for (int i = 0; fd >= 0 && i < CLIENTS; i++) {
		if (clients[i].fd >= 0) continue;
		clients[i].fd = fd;
		if (!greet(fd)) end(&clients[i]);
		return;
	}
	if (fd >= 0) close(fd);
}

int main(int argc, char **argv) {
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	if (argc != 2 || strlen(argv[1]) >= sizeof a.sun_path) {
		fprintf(stderr, "usage: server SOCKET\n");
		return 2;
	}
	strcpy(a.sun_path, argv[1]);
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 64)) {
		perror(argv[1]);
		return 1;
	}
	disk = calloc(1, size);
	for (int i = 0; i < CLIENTS; i++) clients[i].fd = -1;
	for (;;) {
		struct pollfd p[CLIENTS + 1] = {{.fd = listener, .events = POLLIN}};
		for (int i = 0; i < CLIENTS; i++) p[i + 1] = (struct pollfd){.fd = clients[i].fd, .events = POLLIN};
		if (poll(p, CLIENTS + 1, -1) < 0) continue;
		for (int i = 0; i < CLIENTS; i++) {
			if (p[i + 1].revents) serve(&clients[i]);
		}
		if (p[0].revents) admit(listener);
	}
}
