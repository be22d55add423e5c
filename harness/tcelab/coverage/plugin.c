/*
 * A TCG plugin: which instructions of a guest's kernel were executed, and where its conditional branches went.
 *
 *     -plugin plugin.so,fd=NUMBER
 *
 * The descriptor, inherited, is of a file that the harness has made (coverage/covermap.py): a header of one page, then a
 * byte for each instruction of each range. Bits are only ever set here; the harness clears them whenever it likes. A file
 * of which no range fits leaves QEMU as it is.
 *
 * No header of QEMU's or the C library's: whoever has a C compiler can build it. What is declared here is the part of the
 * plugin API that is used; what differs by its version says so (QEMU: include/qemu/qemu-plugin.h).
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

struct tb;
struct insn;
struct info { const char *target_name; struct { int min, cur; } version; _Bool system_emulation; };

typedef void (*translated_fn)(u64, u64);
typedef void (*executed_fn)(u32, void *);
void qemu_plugin_register_vcpu_tb_trans_cb(u64 id, translated_fn, void *data); /* data: from 7 on */
void qemu_plugin_register_vcpu_tb_exec_cb(struct tb *, executed_fn, int flags, void *data);
u64 qemu_plugin_tb_n_insns(const struct tb *);
u64 qemu_plugin_tb_vaddr(const struct tb *);
struct insn *qemu_plugin_tb_get_insn(const struct tb *, u64 index);
u64 qemu_plugin_insn_data(const struct insn *, void *data, u64 size); /* up to 2: returns where the data is */
void *mmap(void *, u64, int, int, int, long);
void *malloc(u64);
u64 strtoul(const char *, char **, int);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = API;
#define NEWEST 7 /* whose calls are known */
#define COPIES 3 /* from this one on data is copied */
#define WITHOUT_ID 7 /* from this one on a callback gets no id */

enum { EXECUTED = 1, FELL = 2, TOOK = 4 };
enum { MAGIC = 0x54434543, RANGES = 64, CPUS = 1024 };

struct range { u64 start, end, offset; };
struct header { u64 magic, size, count, loaded; struct range range[RANGES]; };
struct block { u8 *at; u64 n, start, fall, target; u32 branches; };

static struct header *head;
static struct block *last[CPUS];
static int version;

static void set(u8 *at, u8 bits)
{
    if ((*at & bits) != bits)
        __atomic_fetch_or(at, bits, __ATOMIC_RELAXED);
}

static void executed(u32 cpu, void *data)
{
    struct block *b = data, *before = last[cpu % CPUS];
    for (u64 i = 0; i < b->n; i++)
        set(b->at + i, EXECUTED);
    /* After an interrupt, or a fault in the midst of it, the block before did not lead here: then neither fits. */
    if (before && before->branches) {
        if (b->start == before->fall)
            set(before->at + before->n - 1, FELL);
        else if (b->start == before->target)
            set(before->at + before->n - 1, TOOK);
    }
    last[cpu % CPUS] = b;
}

static u32 word(const struct insn *insn)
{
    u32 value = 0;
    u64 given = qemu_plugin_insn_data(insn, &value, sizeof value);
    return version < COPIES ? *(const u32 *)given : value;
}

static void translated(u64 first, u64 second)
{
    struct tb *tb = (struct tb *)(version < WITHOUT_ID ? second : first);
    u64 start = qemu_plugin_tb_vaddr(tb);
    for (u64 r = 0; r < head->count; r++) {
        const struct range *range = &head->range[r];
        if (start < range->start || start >= range->end)
            continue;
        u64 n = qemu_plugin_tb_n_insns(tb), room = (range->end - start) / 4;
        if (n > room)
            n = room;
        struct block *b = n ? malloc(sizeof *b) : 0;
        if (!b)
            return;
        u64 end = start + 4 * (n - 1);
        u32 w = word(qemu_plugin_tb_get_insn(tb, n - 1));
        *b = (struct block){(u8 *)head + range->offset + (start - range->start) / 4, n, start, end + 4, 0, 0};
        if (w >> 26 == 16 && (w >> 21 & 0x14) != 0x14) { /* bc, and not always */
            b->branches = 1;
            b->target = (w & 2 ? 0 : end) + (u64)(long)(short)(w & 0xfffc);
        }
        qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, b);
        return;
    }
}

EXPORT int qemu_plugin_install(u64 id, const struct info *info, int argc, char **argv)
{
    version = info->version.cur;
    if (version > NEWEST)
        return 3;
    if (argc == 0) /* only asked whether it loads */
        return 0;
    if (argc != 1 || argv[0][0] != 'f' || argv[0][1] != 'd' || argv[0][2] != '=')
        return 1;
    int fd = (int)strtoul(argv[0] + 3, 0, 10);
    struct header *page = mmap(0, 4096, 1, 1, fd, 0);
    if (page == (void *)-1 || page->magic != MAGIC || page->count > RANGES)
        return 2;
    head = mmap(0, page->size, 3, 1, fd, 0);
    if (head == (void *)-1)
        return 2;
    head->loaded = (u64)version;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated, 0);
    return 0;
}
