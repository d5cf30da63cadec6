/* A disk in a Redis server: the bytes of one string, in C.
 *
 * The plugin speaks RESP, Redis's protocol (redis.io, "Redis serialization protocol
 * specification"): a command is an array of bulk strings, answers come in the order
 * of the commands. The disk is the string at option `key`:
 *
 *   read    GETRANGE key first last   -> $n, the bytes (fewer behind the string's end)
 *   write   SETRANGE key offset data  -> :length
 *   flush   SAVE                      -> +OK, when a snapshot has been written
 *
 * What the string lacks at its end are zeroes, so a new disk needs no memory. The
 * disk's identity is a random number that the first login leaves at `key`:id.
 */
#define BE_IMPLEMENTATION
#include "blockengine.h"

enum {
	DEPTH = 128,
	LINE = 512,          /* the longest line of an answer that is looked at */
	MAX_KEY = 200,
	MAX_DISK = 512 << 20 /* the longest string that Redis has by default */
};

const char be_manifest_json[] =
	"{\"kind\":\"protocol\",\"name\":\"redis\",\"version\":\"0.1.0\",\"abi\":\"1.0\",\"payload\":\"direct\",\"options\":["
	"{\"name\":\"key\",\"type\":\"string\",\"required\":true,\"help\":\"the string that is the disk\"},"
	"{\"name\":\"size\",\"type\":\"size\",\"required\":true,\"help\":\"how large the disk is, a multiple of 512 up to 512MiB\"},"
	"{\"name\":\"password\",\"type\":\"string\",\"secret\":true,\"help\":\"of the server's default user\"},"
	"{\"name\":\"durable\",\"type\":\"bool\",\"help\":\"the server has appendfsync always: an answered write is on its disk, and no flush is needed\"}]}";

/* What is awaited: answers come in order, so a ring will do. The commands of the
 * login are in it too. */
enum step { READ = BE_OP_READ, WRITE = BE_OP_WRITE, FLUSH = BE_OP_FLUSH, AUTH, SET_ID, GET_ID };
struct expected {
	uint64_t tag;
	uint64_t length; /* of a read; of a write, where it ends */
	enum step step;
};

static struct expected ring[DEPTH];
static uint32_t first, count;
static char key[MAX_KEY + 1], id_key[MAX_KEY + 4];
static uint32_t key_len;
static uint64_t size;
static int durable, logged_in;

static void fail(uint32_t status, const char *text) { be_fail(BE_FAIL_CONN, status, text); }

static void expect(enum step step, uint64_t tag, uint64_t length) {
	if (count == DEPTH) __builtin_trap(); /* the limits promise less */
	ring[(first + count++) % DEPTH] = (struct expected){tag, length, step};
}

/* ---- commands ------------------------------------------------------------- */

/* A command is put together here before it is sent. */
static char text[LINE + MAX_KEY + 1024];
static uint32_t text_len;

static void add(const void *b, uint32_t n) {
	memcpy(text + text_len, b, n);
	text_len += n;
}

static uint32_t digits(char *to, uint64_t v) {
	char d[20];
	uint32_t n = 0;
	do d[n++] = (char)('0' + v % 10);
	while (v /= 10);
	for (uint32_t i = 0; i < n; i++) to[i] = d[n - 1 - i];
	return n;
}

/* "*3\r\n" and "$12\r\n" begin an array and a bulk string. */
static void count_line(char kind, uint64_t n) {
	text[text_len++] = kind;
	text_len += digits(text + text_len, n);
	add("\r\n", 2);
}

static void bulk(const void *b, uint32_t n) {
	count_line('$', n);
	add(b, n);
	add("\r\n", 2);
}

static void number(uint64_t v) {
	char d[20];
	bulk(d, digits(d, v));
}

static void command(uint32_t words, const char *name) {
	text_len = 0;
	count_line('*', words);
	bulk(name, be_strlen(name));
}

static void send(void) { be_send(text, text_len); }

/* ---- login ---------------------------------------------------------------- */

static int options(const struct be_opened *o) {
	const char *k = be_option(o, "key");
	key_len = be_strlen(k);
	size = be_number(be_option(o, "size"), 0);
	durable = be_equal(be_option(o, "durable"), "true", 5);
	if (key_len == 0 || key_len > MAX_KEY || size == 0 || size % 512 || size > MAX_DISK) {
		be_fail(BE_FAIL_FOREVER, BE_EINVAL, "options: key has 1 to 200 bytes, size is a multiple of 512 up to 512MiB");
		return 0;
	}
	memcpy(key, k, key_len);
	memcpy(id_key, k, key_len);
	memcpy(id_key + key_len, ":id", 3);
	return 1;
}

/* Two answers are awaited after this, or three: whether the identity was set does
 * not matter, only what it is. */
static void log_in(const struct be_opened *o) {
	const char *password = be_option(o, "password");
	uint32_t n = be_strlen(password);
	if (n > LINE) {
		be_fail(BE_FAIL_FOREVER, BE_EINVAL, "option password is longer than 512 bytes");
		return;
	}
	if (n > 0) {
		command(2, "AUTH");
		bulk(password, n);
		send();
		expect(AUTH, 0, 0);
	}
	char id[32];
	for (int i = 0; i < 16; i++) {
		id[2 * i] = "0123456789abcdef"[o->seed[i] >> 4];
		id[2 * i + 1] = "0123456789abcdef"[o->seed[i] & 15];
	}
	command(3, "SETNX");
	bulk(id_key, key_len + 3);
	bulk(id, sizeof id);
	send();
	expect(SET_ID, 0, 0);
	command(2, "GET");
	bulk(id_key, key_len + 3);
	send();
	expect(GET_ID, 0, 0);
}

/* The login is over. */
static void limits(const uint8_t *id, uint32_t n) {
	struct be_limits *l = be_limits(id, n);
	l->size = size;
	l->block_size = 512;
	l->preferred = 4096;
	l->max_transfer = 1 << 20;
	/* SAVE writes all that any connection has changed. */
	l->caps = durable ? 0 : BE_CAP_FLUSH | BE_CAP_FLUSH_COVERS_ALL;
	l->depth = DEPTH;
	l->max_conns = 4; /* the server carries out one command after the other */
	/* It reads what we sent to the end before it sees that we are gone. */
	l->fence = BE_FENCE_EOF;
	logged_in = 1;
}

void on_opened(const struct be_opened *o) {
	if (!options(o)) return;
	if (o->session == BE_SESSION_RESUMED) {
		fail(BE_EINVAL, "this version takes over no connection of another one");
		return;
	}
	log_in(o);
	be_want(1, 64);
}

/* ---- requests ------------------------------------------------------------- */

int on_request(const struct be_request *r) {
	expect((enum step)r->op, r->tag, r->op == BE_OP_WRITE ? r->offset + r->length : r->length);
	if (r->op == BE_OP_READ) {
		command(4, "GETRANGE");
		bulk(key, key_len);
		number(r->offset);
		number(r->offset + r->length - 1);
		send();
	} else if (r->op == BE_OP_WRITE) {
		command(4, "SETRANGE");
		bulk(key, key_len);
		number(r->offset);
		count_line('$', r->length);
		send();
		be_send_payload(r->tag, 0, r->length);
		be_send("\r\n", 2);
	} else {
		command(1, "SAVE");
		send();
	}
	return 1;
}

/* ---- answers -------------------------------------------------------------- */

/* An errno for an error of the server's. */
static uint32_t errno_of(const uint8_t *b, uint32_t n) {
	static const struct { const char *begins; uint32_t status; } known[] = {
		{"OOM ", BE_ENOSPC}, {"READONLY ", BE_EROFS}, {"NOAUTH ", BE_EACCES}, {"WRONGPASS ", BE_EACCES}, {"NOPERM ", BE_EACCES},
	};
	for (uint32_t i = 0; i < sizeof known / sizeof *known; i++) {
		uint32_t k = be_strlen(known[i].begins);
		if (n >= k && be_equal(b, known[i].begins, k)) return known[i].status;
	}
	return BE_EIO;
}

/* The server refuses a command. For a request that is its result. */
static uint32_t refused(const struct expected *e, const uint8_t *b, uint32_t n, uint32_t line) {
	uint32_t status = errno_of(b + 1, n - 1);
	if (e->step == READ || e->step == WRITE || e->step == FLUSH) {
		be_complete(e->tag, status);
		return line;
	}
	char what[LINE + 64] = "login: the server says: ";
	uint32_t at = be_strlen(what);
	memcpy(what + at, b + 1, n - 1); /* it names no password */
	what[at + n - 1] = 0;
	fail(status, what);
	return line;
}

/* The number of a line such as ":123" or "$123"; -1 if it is none. */
static int64_t line_number(const uint8_t *b, uint32_t n) {
	int64_t v = 0;
	if (n < 2 || n > 12) return -1;
	for (uint32_t i = 1; i < n; i++) {
		if (b[i] < '0' || b[i] > '9') return -1;
		v = v * 10 + (b[i] - '0');
	}
	return v;
}

/* A read's answer: the bytes that there are, zeroes behind them, and the end of
 * the line. */
static uint32_t read_answer(const struct expected *e, int64_t have, uint32_t line) {
	uint64_t n = (uint64_t)have;
	if (n > 0) be_receive(e->tag, 0, n);
	if (n < e->length) be_zero(e->tag, n, e->length);
	be_discard(2);
	be_complete(e->tag, BE_OK);
	return line;
}

/* The answer to e begins with a line of n bytes, `line` with its end. b has
 * `all` bytes. Gives what is consumed, 0 if more is needed. */
static uint32_t answer(const struct expected *e, const uint8_t *b, uint32_t n, uint32_t line, uint32_t all) {
	int64_t v = line_number(b, n);
	if (b[0] == '-') return refused(e, b, n, line);
	if (e->step == READ && b[0] == '$' && v >= 0 && (uint64_t)v <= e->length) return read_answer(e, v, line);
	/* The string is then as long as the write reaches, at least. */
	if (e->step == WRITE && b[0] == ':' && v >= (int64_t)e->length) {
		be_complete(e->tag, BE_OK);
		return line;
	}
	int ok = n == 3 && be_equal(b, "+OK", 3);
	if (e->step == FLUSH && ok) {
		be_complete(e->tag, BE_OK);
		return line;
	}
	if (e->step == AUTH && ok) return line;
	if (e->step == SET_ID && b[0] == ':' && v >= 0 && v <= 1) return line;
	if (e->step == GET_ID && b[0] == '$' && v == 32) {
		if (all < line + 32 + 2) return 0;
		limits(b + line, 32);
		return line + 32 + 2;
	}
	fail(BE_EPROTO, "the server's answer does not fit the command: is this a Redis server, and the key a disk of ours?");
	return line;
}

/* Where the first line ends; n if it is not all there. */
static uint32_t line_end(const uint8_t *b, uint32_t n) {
	uint32_t i = 0;
	while (i + 1 < n && !(b[i] == '\r' && b[i + 1] == '\n')) i++;
	return i + 1 < n ? i : n;
}

static uint32_t wanted = 1;

static void want(uint32_t n) {
	if (n != wanted) be_want(n, n + 63);
	wanted = n;
}

uint32_t on_received(const uint8_t *b, uint32_t n) {
	uint32_t end = line_end(b, n), took = 0;
	if (count == 0) {
		fail(BE_EPROTO, "the server says something that nobody has asked for");
		return n;
	}
	if (end > LINE) {
		fail(BE_EPROTO, "the server's answer begins with a line that is too long: is this a Redis server?");
		return n;
	}
	if (end < n && end > 0) took = answer(&ring[first], b, end, end + 2, n);
	else if (end == 0) fail(BE_EPROTO, "the server's answer is an empty line: is this a Redis server?");
	if (took == 0) {
		want(n + 1);
		return 0;
	}
	first = (first + 1) % DEPTH;
	count--;
	want(1);
	return took;
}
