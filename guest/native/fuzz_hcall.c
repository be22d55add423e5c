/*
 * fuzz_hcall TIMES SEED: throws malformed requests at /dev/tce_hcall, and good ones between them.
 *
 * Every write is held against rules of its own here: it must fail with the errno that they say, and nothing else, or be
 * accepted and give one result for each call. All calls name LIOBNs that no platform has, so that a good one changes
 * nothing and must answer H_PARAMETER (PAPR). One in sixteen comes from a process that may not ask at all.
 *
 * Ends with one line: how many writes there were, how many were refused with each errno, accepted, and wrong; after the
 * first wrong one, which it was and what came. Exit status: 0; 1 if any was wrong; 2 for wrong usage. A dot now and then
 * says that it goes on.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DEVICE "/dev/tce_hcall"
#define MOST_CALLS 1024u
#define MOST_ROUNDS 10000000u
#define MOST_BYTES (8ul << 20)
#define LIST 4096u
#define QUERY 0x1000u
#define H_PARAMETER (-4)
#define RTAS_PARAMETER (-3)
#define NO_LIOBN 0x5a5a0000u
#define NOBODY 65534
#define GUARD 65536ul
#define BATCH 16ul
#define CALL 48ul
#define RESULT 48ul

struct batch {
	uint32_t version, count, rounds, reserved;
};

struct call {
	uint64_t opcode, args[4];
	uint32_t list_offset, list_size;
};

struct result {
	int64_t status;
	uint64_t out[4], ticks;
};

static const uint64_t opcodes[] = { 0x1c, 0x20, 0x138, 0x13c };

static uint64_t seed;
static char *end; /* of the memory that can be read; behind it, none can */
static char work[BATCH + MOST_CALLS * CALL + 2 * LIST];
static struct result results[MOST_CALLS];
static unsigned long writes, accepted, calls, einval, efault, eperm, eintr, eopnotsupp, wrong, first, expected, came;
static double beat;

static uint64_t draw(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1d;
}

static uint64_t below(uint64_t n)
{
	return (draw() >> 11) % n;
}

static uint64_t odd_number(void)
{
	static const uint64_t odd[] = { 0, 1, 2, 4095, 4096, 4097, MOST_CALLS, MOST_CALLS + 1, MOST_ROUNDS + 1,
					0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x7fffffffffffffff, ~0ull };

	return below(4) ? odd[below(sizeof(odd) / sizeof(*odd))] : draw();
}

static void note(int is_wrong, long wanted, long got)
{
	if (!is_wrong)
		return;
	if (!wrong++) {
		first = writes;
		expected = wanted;
		came = got;
	}
}

/* What the rules say of a write that can be read: an errno, or 0. */
static int rule(const char *from, size_t size)
{
	struct batch batch;
	struct call call;
	size_t lists;
	int query = 0;
	unsigned i, j;

	if (size < BATCH || size > MOST_BYTES)
		return EINVAL;
	memcpy(&batch, from, BATCH);
	if (batch.version != 1 || batch.reserved || batch.count < 1 || batch.count > MOST_CALLS || batch.rounds < 1 ||
	    batch.rounds > MOST_ROUNDS || size < BATCH + batch.count * CALL)
		return EINVAL;
	lists = size - BATCH - batch.count * CALL;
	for (i = 0; i < batch.count; i++) {
		memcpy(&call, from + BATCH + i * CALL, CALL);
		for (j = 0; j < 4 && opcodes[j] != call.opcode; j++)
			;
		if (j == 4 && call.opcode != QUERY)
			return EINVAL;
		if (call.list_size > LIST)
			return EINVAL;
		if (call.list_size && (call.list_offset > lists || call.list_size > lists - call.list_offset))
			return EINVAL;
		if (call.list_size && call.opcode == QUERY)
			return EINVAL;
		query |= call.opcode == QUERY;
	}
	return query ? EOPNOTSUPP : 0; /* which is as good as 0: not every platform has the call */
}

static size_t good(void)
{
	unsigned count = below(64) ? 1 + below(8) : 1 + below(MOST_CALLS), i, j;
	struct batch batch = { 1, count, 1 + below(3), 0 };
	size_t lists = below(3) ? 0 : 1 + below(2 * LIST);
	struct call call;

	memcpy(work, &batch, BATCH);
	for (i = 0; i < count; i++) {
		memset(&call, 0, sizeof(call));
		call.opcode = below(512) ? opcodes[below(4)] : QUERY;
		for (j = 1; j < 4; j++)
			call.args[j] = below(2) ? below(1024) : odd_number();
		if (lists && call.opcode == 0x13c) {
			call.list_offset = below(lists);
			call.list_size = 1 + below(lists - call.list_offset);
			if (call.list_size > LIST)
				call.list_size = LIST;
		}
		memcpy(work + BATCH + i * CALL, &call, CALL);
	}
	for (i = 0; i < lists; i++)
		work[BATCH + count * CALL + i] = draw();
	return BATCH + count * CALL + lists;
}

static void put(size_t at, uint64_t value, size_t size)
{
	memcpy(work + at, &value, size); /* little-endian, as the guest is */
}

static size_t spoilt(size_t size)
{
	unsigned times = 1 + below(2), count = (size - BATCH) / CALL;
	size_t at;

	while (times--) {
		at = BATCH + below(count) * CALL;
		switch (below(8)) {
		case 0: put(0, odd_number(), 4); break;
		case 1: put(4, odd_number(), 4); break;
		case 2: put(8, below(2) ? 0 : MOST_ROUNDS + 1 + below(1u << 30), 4); break;
		case 3: put(12, odd_number(), 4); break;
		case 4: put(at, below(2) ? below(0x500) & ~3ull : odd_number(), 8); break;
		case 5: put(at + 40, odd_number(), 4); break;
		case 6: put(at + 44, odd_number(), 4); break;
		case 7: size = below(size + 1); break;
		}
		if (size < BATCH + CALL)
			break;
	}
	return size;
}

/* Whatever is taken for a call names a LIOBN that is none: nothing that is accepted changes a table. */
static void make_harmless(size_t size)
{
	size_t at;

	for (at = BATCH; at + CALL <= size; at += CALL)
		put(at + 8, NO_LIOBN + below(0x10000), 8);
}

static void read_results(int fd, unsigned count)
{
	const struct call *asked = (const struct call *)(work + BATCH);
	size_t size = count * RESULT, got = 0, piece;
	unsigned i;
	ssize_t n;

	if (!below(8)) {
		n = read(fd, end, 64);
		note(n != -1 || errno != EFAULT, EFAULT, n < 0 ? errno : 0);
	}
	while (got < size) {
		piece = below(2) ? size : 1 + below(size);
		if (piece > size - got)
			piece = size - got;
		n = read(fd, (char *)results + got, piece);
		if (n <= 0)
			break;
		got += n;
	}
	note(got != size, size, got);
	n = read(fd, results + count, 0);
	note(n != 0, 0, n);
	n = count < MOST_CALLS ? read(fd, results + count, RESULT) : 0;
	note(n != 0, 0, n);
	for (i = 0; got == size && i < count; i++) {
		int64_t status = asked[i].opcode == QUERY ? RTAS_PARAMETER : H_PARAMETER;

		note(results[i].status != status, status, results[i].status);
	}
	calls += count;
}

static void count_errno(int number)
{
	switch (number) {
	case EINVAL: einval++; break;
	case EFAULT: efault++; break;
	case EPERM: eperm++; break;
	case EINTR: eintr++; break;
	case EOPNOTSUPP: eopnotsupp++; break;
	}
}

/* One write, most of them malformed. allowed: this process may ask. */
static void one(int fd, int allowed)
{
	static const uint64_t nowhere[] = { 0, 1, 0xc000000000000000, 0xffffffffffff0000, 0x7fffffff00000000 };
	size_t size = good();
	int wanted, got, either;
	const char *from;
	unsigned count;
	uint64_t kind = below(16);
	ssize_t n;

	if (kind < 9)
		size = spoilt(size);
	else if (kind == 9)
		size = below(BATCH);
	make_harmless(size);
	from = end - size;
	memcpy(end - size, work, size);
	wanted = rule(work, size);
	memcpy(&count, work + 4, 4);
	either = wanted == EOPNOTSUPP ? 0 : wanted;
	if (kind == 10 && size >= BATCH) { /* its end cannot be read, or none of it */
		from = below(2) ? end - below(size) : (const char *)nowhere[below(5)];
		wanted = either = EFAULT;
	} else if (kind == 11 && !below(64)) {
		size = MOST_BYTES + 1 + below(GUARD);
		from = end - size;
		wanted = either = EINVAL;
	} else if (kind == 11) {
		/* The kernel looks first whether all of it lies below the end of a process's addresses, 4 PiB or less. */
		either = below(2) ? EFAULT : EINVAL;
		size = MOST_BYTES + 1 + (either == EFAULT ? 1ull << (53 + below(9)) : below(64ul << 20));
		from = end - BATCH;
		wanted = either;
	}
	if (!allowed) {
		either = wanted == EFAULT ? EFAULT : EPERM;
		wanted = EPERM;
	}
	writes++;
	n = write(fd, from, size);
	got = n < 0 ? errno : 0;
	note(got != wanted && got != either, wanted, got);
	note(!got && n != (ssize_t)size, size, n);
	count_errno(got);
	if (!got) {
		accepted++;
		read_results(fd, count);
	} else if (!below(16) && allowed) {
		n = read(fd, results, RESULT);
		note(n != 0, 0, n);
	}
}

static void ring(int number)
{
	(void)number;
}

/* A loop of seconds, ended by a signal. */
static void interrupted(int fd)
{
	long after = 1000 + below(4000);
	/* Again and again: the first may come before the write. */
	struct itimerval soon = { .it_value = { .tv_usec = after }, .it_interval = { .tv_usec = after } };
	struct itimerval never = { 0 };
	struct batch batch = { 1, 1, MOST_ROUNDS, 0 };
	struct call call = { .opcode = opcodes[below(2)], .args = { NO_LIOBN } };
	ssize_t n;

	memcpy(work, &batch, BATCH);
	memcpy(work + BATCH, &call, CALL);
	setitimer(ITIMER_REAL, &soon, NULL);
	writes++;
	n = write(fd, work, BATCH + CALL);
	after = n < 0 ? errno : 0;
	setitimer(ITIMER_REAL, &never, NULL);
	note(after != EINTR, EINTR, after);
	count_errno(after);
	n = read(fd, results, RESULT);
	note(n != 0, 0, n);
}

static void go_on(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	if (t.tv_sec + t.tv_nsec / 1e9 - beat < 1)
		return;
	beat = t.tv_sec + t.tv_nsec / 1e9;
	if (write(STDOUT_FILENO, ".", 1) != 1)
		exit(2);
}

/* A process that has the file, and may neither use it nor open it: another user, or root without the capability. */
static void outsider(int fd, int as_root, unsigned long times)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];
	unsigned long i;
	int status = 0;
	pid_t child = fork();

	if (child) {
		if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) == 2)
			exit(2);
		note(WEXITSTATUS(status), EPERM, 0);
		writes += times;
		eperm += times;
		return;
	}
	wrong = 0;
	if (as_root) {
		if (syscall(SYS_capget, &header, data))
			_exit(2);
		data[0].effective &= ~(1u << CAP_SYS_ADMIN);
		if (syscall(SYS_capset, &header, data))
			_exit(2);
	} else if (setgid(NOBODY) || setuid(NOBODY)) {
		_exit(2);
	}
	note(open(DEVICE, O_RDWR) >= 0, as_root ? EPERM : EACCES, 0);
	note(errno != (as_root ? EPERM : EACCES), as_root ? EPERM : EACCES, errno);
	for (i = 0; i < times; i++)
		one(fd, 0);
	_exit(!!wrong);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = ring };
	unsigned long times, i;
	char *area;
	int fd;

	if (argc != 3)
		return 2;
	times = strtoul(argv[1], NULL, 10);
	seed = strtoull(argv[2], NULL, 10) | 1;
	for (i = 0; i < 8; i++)
		draw();
	area = mmap(NULL, MOST_BYTES + 3 * GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED || mprotect(area + MOST_BYTES + 2 * GUARD, GUARD, PROT_NONE))
		return 2;
	end = area + MOST_BYTES + 2 * GUARD;
	sigaction(SIGALRM, &action, NULL);
	fd = open(DEVICE, O_RDWR);
	if (fd < 0) {
		printf("errno=%d\n", errno);
		return 1;
	}
	for (i = 0; i < times; i++) {
		if (i % 4096 == 2048)
			outsider(fd, i / 4096 % 2, 256);
		else if (i % 1024 == 512)
			interrupted(fd);
		else
			one(fd, 1);
		if (i % 256 == 0)
			go_on();
	}
	printf("writes=%lu accepted=%lu calls=%lu einval=%lu efault=%lu eperm=%lu eintr=%lu eopnotsupp=%lu wrong=%lu "
	       "first=%lu expected=%ld came=%ld\n",
	       writes, accepted, calls, einval, efault, eperm, eintr, eopnotsupp, wrong, first, (long)expected, (long)came);
	return !!wrong;
}
