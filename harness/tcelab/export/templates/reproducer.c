/*
 * {{ title }}
 *
{% for line in about %}
 *{{ " " if line }}{{ line }}
{% endfor %}
 *
 * Exit status: 0 every answer is as it should be; 1 one is not; 2 it could not be tried.
 * Written by tcelab {{ version }}. It needs nothing of tcelab: README.md says how to build and run it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
{% if spawns %}
#include <grp.h>
#include <semaphore.h>
{% endif %}
{% if "registers" in uses %}
#include <endian.h>
{% endif %}
{% if "group_of" in uses %}
#include <limits.h>
{% endif %}
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
{% if spawns %}
#include <sys/prctl.h>
#include <sys/resource.h>
{% if "end" in uses %}
#include <sys/wait.h>
{% endif %}
{% endif %}
{% if "dma" in uses %}
#include <time.h>
{% endif %}
#include <unistd.h>

#define LIMIT {{ limit }} /* seconds for all of it */
#define SOMETHING (-4096l) /* of an answer: any descriptor */
#define NO_OPERATION (-1)

struct tally {
	int compared, wrong, known, impossible;
};
{% if spawns %}
static struct tally *tally; /* shared by all processes */

/*
 * Every process goes through all operations, and does its own. Between two operations of different processes the turn
 * is passed on.
 */
enum { FIRST{% for each in processes %}, {{ each }}{% endfor %}, PROCESSES };

static sem_t *turns;
static int me = FIRST, acting = FIRST;
static pid_t pids[PROCESSES];
{% else %}
static struct tally the_tally, *tally = &the_tally;
{% endif %}
static long pins_before;
static int kernel_log = -1;

{% for name, address in devices %}
static const char {{ name }}[] = "{{ address }}";
{% endfor %}
{% for each in files %}
static int {{ each }} = -1;
{% endfor %}
{% for each in buffers %}
static char *{{ each }};
{% endfor %}

static void __attribute__((noreturn)) impossible(int operation, const char *what, const char *why)
{
	if (operation >= 0)
		printf("operation %d: ", operation);
	printf("%s: %s: it could not be tried\n", what, why);
	fflush(stdout);
	tally->impossible = 1;
{% if spawns %}
	if (me != FIRST)
		sem_post(&turns[FIRST]);
{% endif %}
	_exit(2);
}

static void too_long(int sig)
{
	static const char text[] = "it took too long: it could not be tried\n";

	(void)sig;
	if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0)
		_exit(2);
	_exit(2);
}

/* What a call returned, or its errno, negative. */
static long result(long returned)
{
	return returned == -1 ? -errno : returned;
}

/* A number, or the name of an errno. */
static const char *named(long value)
{
	static char texts[4][64];
	static int turn;
	char *text = texts[turn++ % 4];

	if (value == SOMETHING)
		return "a descriptor";
	if (value < 0 && value > -4096 && strerrorname_np(-value))
		return strerrorname_np(-value);
	snprintf(text, sizeof(texts[0]), value < 0x10000 ? "%ld" : "%ld (%#lx)", value, value);
	return text;
}

static int same(long got, long right)
{
	return right == SOMETHING ? got >= 0 : got == right;
}

/* An answer that must be `right`. */
static int expect(int operation, const char *what, long got, long right)
{
	tally->compared++;
	if (same(got, right))
		return 1;
	tally->wrong++;
	printf("operation %d: %s: got %s, expected %s\n", operation, what, named(got), named(right));
	fflush(stdout);
	return 0;
}
{% if "expect_but" in uses %}

/* An answer that must be `right`; a kernel with the defect gives `defect`. */
static void expect_but(int operation, const char *what, long got, long right, long defect)
{
	if (expect(operation, what, got, right) || !same(got, defect))
		return;
	tally->known++;
	printf("operation %d: that is the defect\n", operation);
	fflush(stdout);
}
{% endif %}
{% if "need" in uses %}

/* An answer without which nothing can be tried. */
static void need(int operation, const char *what, long got, long right)
{
	char why[192];

	tally->compared++;
	if (same(got, right))
		return;
	snprintf(why, sizeof(why), "got %s, expected %s", named(got), named(right));
	impossible(operation, what, why);
}
{% endif %}

/* The number behind a name in a file of /proc. */
static long number_in(const char *path, const char *name)
{
	FILE *file = fopen(path, "re");
	char line[256];

	if (!file)
		impossible(NO_OPERATION, path, strerror(errno));
	while (fgets(line, sizeof(line), file)) {
		if (!strncmp(line, name, strlen(name))) {
			fclose(file);
			return strtol(line + strlen(name), NULL, 10);
		}
	}
	impossible(NO_OPERATION, name, "this kernel does not count it");
}

static void ask(const char *path)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, "1", 1) != 1)
		impossible(NO_OPERATION, path, strerror(errno));
	close(fd);
}

/* Pages that the kernel keeps pinned: those that an entry of a TCE table leads to, and registered memory. */
static long pins(void)
{
	ask("/sys/module/rcutree/parameters/do_rcu_barrier"); /* registered memory is let go by RCU */
	ask("/proc/sys/vm/stat_refresh"); /* counters are kept by CPU */
	return number_in("/proc/vmstat", "nr_foll_pin_acquired ") - number_in("/proc/vmstat", "nr_foll_pin_released ");
}

static long pinned(void)
{
	return pins() - pins_before;
}

/* KiB of locked memory that this process is charged for. */
static long locked(void)
{
	return number_in("/proc/self/status", "VmLck:");
}

/* How often the kernel has warned since this was called last. */
static long warnings(void)
{
	char record[8192], *text;
	long count = 0;
	ssize_t size;

	while ((size = read(kernel_log, record, sizeof(record) - 1)) > 0 || (size < 0 && errno == EPIPE)) {
		record[size < 0 ? 0 : size] = 0;
		text = strchr(record, ';');
		if (!text || !strstr(text, "WARNING: "))
			continue;
		text[strcspn(text, "\n")] = 0;
		printf("the kernel says: %s\n", text + 1);
		count++;
	}
	return count;
}
{% if "group_of" in uses %}

/* The number of a device's IOMMU group. */
static int group_of(const char *device)
{
	static const char *const links[] = { "driver", "iommu_group" };
	char path[128], link[PATH_MAX], *last = NULL;
	ssize_t size;
	int i;

	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", device, links[i]);
		size = readlink(path, link, sizeof(link) - 1);
		link[size < 0 ? 0 : size] = 0;
		last = strrchr(link, '/');
		if (!last || (!i && strcmp(last, "/vfio-pci")))
			impossible(NO_OPERATION, path, "vfio-pci does not have it, see README.md");
	}
	return atoi(last + 1);
}
{% endif %}
{% if "open_path" in uses %}

static long open_path(const char *form, int group)
{
	char path[128];

	snprintf(path, sizeof(path), form, group);
	return result(open(path, O_RDWR | O_CLOEXEC));
}
{% endif %}
{% if "whole" in uses or "buffer" in uses %}

/* Bytes of whole pages of the kernel that hold so many IOMMU pages. */
static size_t whole(size_t pages)
{
	return (pages * {{ iommu_page }} + {{ page_size - 1 }}) & -{{ page_size }}ul;
}
{% endif %}
{% if "buffer" in uses %}

/* Memory that is present, in small pages, with nothing mapped right behind it; no child has it. */
static char *buffer(int operation, size_t pages)
{
	size_t i, size = whole(pages);
	char *at = mmap(NULL, size + {{ page_size }}, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED || munmap(at + size, {{ page_size }}) || madvise(at, size, MADV_DONTFORK))
		impossible(operation, "mmap", strerror(errno));
	if (madvise(at, size, MADV_NOHUGEPAGE) && errno != EINVAL)
		impossible(operation, "madvise", strerror(errno));
	for (i = 0; i < size; i += {{ page_size }})
		at[i] = 0;
	return at;
}
{% endif %}
{% if "tag" in uses %}

/* Each page says which page of which table it is meant for. */
static void tag(char *at, size_t pages, __u64 liobn, __u64 ioba, __u64 sequence)
{
	size_t i;

	for (i = 0; i < pages * {{ iommu_page }}; i += {{ tag_size }}) {
		__u64 words[{{ tag_size // 8 }}] = { [3] = liobn, ioba + i / {{ iommu_page }} * {{ iommu_page }}, sequence };

		memcpy(words, "{{ magic }}", 8);
		memcpy(at + i, words, sizeof(words));
	}
}
{% endif %}
{% if "fill" in uses %}

/* Data that differs in every word, and between seeds. */
static void fill(char *at, size_t size, __u64 seed)
{
	__u64 mixed = (seed + 1) * {{ golden }}ul, word;
	size_t i;

	mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9ul;
	mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebul;
	mixed ^= mixed >> 31;
	for (i = 0; i < size; i += 8) {
		word = (i / 8 * {{ golden }}ul ^ mixed) | 0x0101010101010101ul;
		memcpy(at + i, &word, size - i < 8 ? size - i : 8);
	}
}
{% endif %}
{% if "crc32" in uses %}

static long crc32(const char *at, size_t size)
{
	unsigned int crc = ~0u;
	int bit;

	while (size--) {
		crc ^= (unsigned char)*at++;
		for (bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}
{% endif %}
{% if "region" in uses %}

static struct vfio_region_info region(int fd, unsigned int index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	if (ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &info))
		impossible(NO_OPERATION, "VFIO_DEVICE_GET_REGION_INFO", strerror(errno));
	return info;
}
{% endif %}
{% if "registers" in uses %}

/* BAR 0 of each device's file, once it is mapped. */
static struct {
	char *at;
	size_t size;
} bars[1024];

static volatile char *registers(int fd)
{
	if (fd < 0 || fd >= 1024)
		impossible(NO_OPERATION, "the device's registers", "it is not open");
	if (!bars[fd].at) {
		struct vfio_region_info info = region(fd, VFIO_PCI_BAR0_REGION_INDEX);

		bars[fd].size = info.size;
		bars[fd].at = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, info.offset);
		if (bars[fd].at == MAP_FAILED)
			impossible(NO_OPERATION, "the device's registers", strerror(errno));
	}
	return bars[fd].at;
}
{% endif %}
{% if "bus_master" in uses or "command" in uses %}

/* The bits of the PCI command register for memory and bus master. */
static long command(int fd)
{
	unsigned char bytes[2];

	if (pread(fd, bytes, 2, region(fd, VFIO_PCI_CONFIG_REGION_INDEX).offset + 4) != 2)
		impossible(NO_OPERATION, "the device's command register", strerror(errno));
	return bytes[0] & 6;
}
{% endif %}
{% if "bus_master" in uses %}

static long bus_master(int fd, int on)
{
	off_t at = region(fd, VFIO_PCI_CONFIG_REGION_INDEX).offset + 4;
	unsigned char bytes[2];

	if (pread(fd, bytes, 2, at) != 2)
		impossible(NO_OPERATION, "the device's command register", strerror(errno));
	bytes[0] = on ? bytes[0] | 4 : bytes[0] & ~4;
	if (pwrite(fd, bytes, 2, at) != 2)
		impossible(NO_OPERATION, "the device's command register", strerror(errno));
	return command(fd);
}
{% endif %}
{% if "identity" in uses %}

static long identity(int fd)
{
	return be32toh(*(volatile unsigned int *)(registers(fd) + {{ edu.IDENTITY }}));
}
{% endif %}
{% if "dma" in uses %}

enum { FROM_MEMORY, TO_MEMORY };

/* Have an edu transfer between bus address `iova` and its own buffer, and wait for the end (QEMU docs/specs/edu.rst). */
static long dma(int fd, __u64 iova, __u64 size, __u64 offset, int to_memory)
{
	volatile char *at = registers(fd);
	const struct timespec pause = { .tv_nsec = 1000000 };
	__u64 inside = {{ "%#x" % edu.BUFFER }} + offset;
	int turns_left = 2000;

	*(volatile __u64 *)(at + {{ "%#x" % edu.SOURCE }}) = htobe64(to_memory ? inside : iova);
	*(volatile __u64 *)(at + {{ "%#x" % edu.DESTINATION }}) = htobe64(to_memory ? iova : inside);
	*(volatile __u64 *)(at + {{ "%#x" % edu.COUNT }}) = htobe64(size);
	*(volatile __u64 *)(at + {{ "%#x" % edu.COMMAND }}) = htobe64({{ edu.RUN }} | (to_memory ? {{ edu.TO_MEMORY }} : 0));
	while (be64toh(*(volatile __u64 *)(at + {{ "%#x" % edu.COMMAND }})) & {{ edu.RUN }}) {
		if (!turns_left--)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
}
{% endif %}
{% if "shut" in uses %}

static long shut(int *fd)
{
	int old = *fd;

	*fd = -1;
{% if "registers" in uses %}
	if (old >= 0 && old < 1024 && bars[old].at) {
		munmap(bars[old].at, bars[old].size);
		bars[old].at = NULL;
	}
{% endif %}
	return result(close(old));
}
{% endif %}
{% if spawns %}

static void wait_for_turn(void)
{
	while (sem_wait(&turns[me]))
		;
	if (tally->impossible)
		_exit(2);
}

/* Is the next operation mine? Whoever did the one before passes the turn on. */
static int turn_of(int who)
{
	int before = acting;

	acting = who;
	if (before == who)
		return me == who;
	if (me == before)
		sem_post(&turns[who]);
	if (me == who)
		wait_for_turn();
	return me == who;
}

/* A process with the files of the first one, and none of its buffers. */
static void start(int process, int uid, long memlock)
{
	pids[process] = fork();
	if (pids[process] < 0)
		impossible(NO_OPERATION, "fork", strerror(errno));
	if (pids[process]) {
		wait_for_turn();
		return;
	}
	me = process;
{% if "registers" in uses %}
	for (int fd = 0; fd < 1024; fd++) {
		if (bars[fd].at)
			munmap(bars[fd].at, bars[fd].size);
		bars[fd].at = NULL;
	}
{% endif %}
	if (memlock >= 0 && setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){ memlock, memlock }))
		impossible(NO_OPERATION, "setrlimit", strerror(errno));
	if (uid >= 0 && (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid)))
		impossible(NO_OPERATION, "setresuid", strerror(errno));
	if (prctl(PR_SET_PDEATHSIG, SIGKILL))
		impossible(NO_OPERATION, "prctl", strerror(errno));
	sem_post(&turns[FIRST]);
}
{% if "end" in uses %}

static void end(int process)
{
	int status;

	if (turn_of(process))
		_exit(0);
	acting = FIRST;
	if (me != FIRST)
		return;
	if (waitpid(pids[process], &status, 0) != pids[process] || status)
		impossible(NO_OPERATION, "a process", "it has died");
}
{% endif %}
{% endif %}
{% for part in parts %}

/* {{ part.about }} */
static void part_{{ part.number }}(void)
{
{% for line in part.lines %}
{{ line }}
{% endfor %}
}
{% endfor %}

int main(int argc, char **argv)
{
	int part = argc > 1 ? atoi(argv[1]) : {{ parts[0].number }};
{% if spawns %}
	size_t size = sizeof(*tally) + PROCESSES * sizeof(*turns);
	int i;

	tally = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (tally == MAP_FAILED)
		return 2;
	turns = (sem_t *)(tally + 1);
	for (i = 0; i < PROCESSES; i++)
		sem_init(&turns[i], 1, 0);
{% endif %}

	if (argc > 2{% for part in parts %}{{ " || (" if loop.first else " && " }}part != {{ part.number }}{{ ")" if loop.last }}{% endfor %}) {
		fprintf(stderr, "usage: %s [{{ parts | map(attribute="number") | join("|") }}]\n", argv[0]);
		return 2;
	}
	signal(SIGALRM, too_long);
	alarm(LIMIT);
	if (geteuid())
		impossible(NO_OPERATION, "the user", "only root may try it");
	if (sysconf(_SC_PAGESIZE) != {{ page_size }})
		impossible(NO_OPERATION, "the kernel", "its pages are not of {{ page_size }} bytes");
	kernel_log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (kernel_log < 0 || lseek(kernel_log, 0, SEEK_END) < 0)
		impossible(NO_OPERATION, "/dev/kmsg", strerror(errno));
{% if warns %}
	if (number_in("/proc/sys/kernel/tainted", "") & 1 << 9)
		impossible(NO_OPERATION, "the kernel", "it has warned since its boot, and may not warn again: boot it anew");
{% endif %}
	pins_before = pins();
	switch (part) {
{% for part in parts %}
	case {{ part.number }}:
		part_{{ part.number }}();
		break;
{% endfor %}
	}
{% if spawns %}
	if (me != FIRST)
		pause(); /* until the first process ends */
{% endif %}
	printf("%d answers compared, %d of them wrong", tally->compared, tally->wrong);
	if (tally->known)
		printf(", %d as the known defect gives them", tally->known);
	printf("\n");
	return tally->wrong ? 1 : 0;
}
