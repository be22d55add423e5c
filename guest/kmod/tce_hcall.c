// SPDX-License-Identifier: GPL-2.0
/*
 * tce_hcall: TCE hypercalls with any arguments, for testing the hypervisor's TCE tables from a guest.
 *
 * One write to /dev/tce_hcall hands over a batch of calls and makes them; what they gave is read back. For root alone:
 * a hypercall can let a device reach any memory of the guest. See struct tce_hcall_batch for the format, which is in
 * native byte order with natural alignment.
 *
 * Sources: PAPR, H_GET_TCE, H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT and ibm,query-pe-dma-window;
 * arch/powerpc/include/asm/hvcall.h for how they are made.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include <asm/firmware.h>
#include <asm/hvcall.h>
#include <asm/page.h>
#include <asm/rtas.h>
#include <asm/time.h>

#define TCE_HCALL_VERSION	1
#define TCE_HCALL_CALLS		1024		/* in one batch, at most */
#define TCE_HCALL_ROUNDS	10000000	/* of one batch, at most */
#define TCE_HCALL_BYTES		SZ_8M		/* in one write, at most */
#define TCE_HCALL_LIST		SZ_4K		/* what H_PUT_TCE_INDIRECT reads is in one page of this size */
#define TCE_HCALL_QUERY		0x1000		/* no hypercall: RTAS ibm,query-pe-dma-window */
#define TCE_HCALL_BREATH	256		/* calls between two looks at the scheduler and at signals */

/* A write begins with this. Behind it: count calls, then the bytes of the lists. */
struct tce_hcall_batch {
	u32 version;
	u32 count;
	u32 rounds;	/* how often to make all the calls */
	u32 reserved;	/* 0 */
};

/*
 * With list_size, args[2] counts from the real address of a page that begins with the list and is zero behind it.
 * list_offset counts from the end of the calls. Of the query, the arguments are config_addr and the BUID's halves.
 */
struct tce_hcall_call {
	u64 opcode;
	u64 args[4];
	u32 list_offset;
	u32 list_size;
};

/* What is read: one for each call. r4 to r7 of the last round, or what RTAS gave. With rounds, ticks are of them all. */
struct tce_hcall_result {
	s64 status;
	u64 out[4];
	u64 ticks;
};

struct tce_hcall_file {
	struct mutex lock;
	struct tce_hcall_result *results;
	size_t size;	/* bytes of results */
	size_t taken;	/* of which were read */
};

static bool allowed(u64 opcode)
{
	switch (opcode) {
	case H_GET_TCE:
	case H_PUT_TCE:
	case H_STUFF_TCE:
	case H_PUT_TCE_INDIRECT:
	case TCE_HCALL_QUERY:
		return true;
	}
	return false;
}

/* Is the batch as it must be? size: bytes of the whole write. */
static int check(const struct tce_hcall_batch *batch, size_t size)
{
	const struct tce_hcall_call *calls = (const void *)(batch + 1);
	size_t lists;
	u32 i;

	if (batch->version != TCE_HCALL_VERSION || batch->reserved)
		return -EINVAL;
	if (!batch->count || batch->count > TCE_HCALL_CALLS)
		return -EINVAL;
	if (!batch->rounds || batch->rounds > TCE_HCALL_ROUNDS)
		return -EINVAL;
	if (size - sizeof(*batch) < batch->count * sizeof(*calls))
		return -EINVAL;
	lists = size - sizeof(*batch) - batch->count * sizeof(*calls);
	for (i = 0; i < batch->count; i++) {
		if (!allowed(calls[i].opcode))
			return -EINVAL;
		if (calls[i].list_size > TCE_HCALL_LIST)
			return -EINVAL;
		if (calls[i].list_size && (u64)calls[i].list_offset + calls[i].list_size > lists)
			return -EINVAL;
		if (calls[i].opcode == TCE_HCALL_QUERY && calls[i].list_size)
			return -EINVAL;
		if (calls[i].opcode == TCE_HCALL_QUERY && rtas_token("ibm,query-pe-dma-window") == RTAS_UNKNOWN_SERVICE)
			return -EOPNOTSUPP;
	}
	return 0;
}

/* Give every list a page, and have args[2] count from there. pages: one slot for each call, to be freed by the caller. */
static int place_lists(struct tce_hcall_batch *batch, void **pages)
{
	struct tce_hcall_call *calls = (void *)(batch + 1);
	const u8 *lists = (const u8 *)(calls + batch->count);
	u32 i;

	for (i = 0; i < batch->count; i++) {
		if (!calls[i].list_size)
			continue;
		/* Of a power of two, so it is aligned to its size, also where the kernel's pages are larger. */
		pages[i] = kzalloc(TCE_HCALL_LIST, GFP_KERNEL);
		if (!pages[i])
			return -ENOMEM;
		memcpy(pages[i], lists + calls[i].list_offset, calls[i].list_size);
		calls[i].args[2] += __pa(pages[i]);
	}
	return 0;
}

static void query(const struct tce_hcall_call *call, struct tce_hcall_result *result)
{
	int out[4] = { 0 };
	int i;

	result->status = rtas_call(rtas_token("ibm,query-pe-dma-window"), 3, 5, out, (u32)call->args[0],
				   (u32)call->args[1], (u32)call->args[2]);
	for (i = 0; i < 4; i++)
		result->out[i] = (u32)out[i];
}

static void make(const struct tce_hcall_call *call, struct tce_hcall_result *result)
{
	unsigned long out[PLPAR_HCALL_BUFSIZE];

	if (call->opcode == TCE_HCALL_QUERY) {
		query(call, result);
		return;
	}
	result->status = plpar_hcall(call->opcode, out, call->args[0], call->args[1], call->args[2], call->args[3]);
	memcpy(result->out, out, sizeof(result->out));
}

static int make_all(const struct tce_hcall_batch *batch, struct tce_hcall_result *results)
{
	const struct tce_hcall_call *calls = (const void *)(batch + 1);
	u64 began = mftb(), start;
	u32 round, i, breath = 0;

	for (round = 0; round < batch->rounds; round++) {
		for (i = 0; i < batch->count; i++) {
			if (++breath == TCE_HCALL_BREATH) {
				breath = 0;
				cond_resched();
				if (signal_pending(current))
					return -EINTR;
			}
			if (batch->rounds == 1) {
				start = mftb();
				make(&calls[i], &results[i]);
				results[i].ticks = mftb() - start;
			} else {
				make(&calls[i], &results[i]);
			}
		}
	}
	if (batch->rounds > 1) {
		began = mftb() - began;
		for (i = 0; i < batch->count; i++)
			results[i].ticks = began;
	}
	return 0;
}

static int perform(struct tce_hcall_file *file, struct tce_hcall_batch *batch)
{
	struct tce_hcall_result *results;
	void **pages;
	int error;
	u32 i;

	results = kvcalloc(batch->count, sizeof(*results), GFP_KERNEL);
	pages = kvcalloc(batch->count, sizeof(*pages), GFP_KERNEL);
	error = results && pages ? place_lists(batch, pages) : -ENOMEM;
	if (!error)
		error = make_all(batch, results);
	for (i = 0; pages && i < batch->count; i++)
		kfree(pages[i]);
	kvfree(pages);
	if (error) {
		kvfree(results);
		return error;
	}
	file->results = results;
	file->size = batch->count * sizeof(*results);
	return 0;
}

static void forget(struct tce_hcall_file *file)
{
	kvfree(file->results);
	file->results = NULL;
	file->size = 0;
	file->taken = 0;
}

static ssize_t tce_hcall_write(struct file *filp, const char __user *from, size_t size, loff_t *pos)
{
	struct tce_hcall_file *file = filp->private_data;
	void *batch;
	int error;

	/* Again: the file may have been handed to somebody else. */
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (size < sizeof(struct tce_hcall_batch) || size > TCE_HCALL_BYTES)
		return -EINVAL;
	batch = kvmalloc(size, GFP_KERNEL);
	if (!batch)
		return -ENOMEM;
	error = copy_from_user(batch, from, size) ? -EFAULT : check(batch, size);
	if (!error && mutex_lock_interruptible(&file->lock))
		error = -EINTR;
	if (!error) {
		forget(file);
		error = perform(file, batch);
		mutex_unlock(&file->lock);
	}
	kvfree(batch);
	return error ? error : size;
}

/* The results of the last batch, each byte once. */
static ssize_t tce_hcall_read(struct file *filp, char __user *to, size_t size, loff_t *pos)
{
	struct tce_hcall_file *file = filp->private_data;
	ssize_t taken;

	if (mutex_lock_interruptible(&file->lock))
		return -EINTR;
	taken = min(size, file->size - file->taken);
	if (taken && copy_to_user(to, (const u8 *)file->results + file->taken, taken))
		taken = -EFAULT;
	else
		file->taken += taken;
	mutex_unlock(&file->lock);
	return taken;
}

static int tce_hcall_open(struct inode *inode, struct file *filp)
{
	struct tce_hcall_file *file;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	file = kzalloc(sizeof(*file), GFP_KERNEL);
	if (!file)
		return -ENOMEM;
	mutex_init(&file->lock);
	filp->private_data = file;
	return 0;
}

static int tce_hcall_release(struct inode *inode, struct file *filp)
{
	struct tce_hcall_file *file = filp->private_data;

	forget(file);
	kfree(file);
	return 0;
}

static const struct file_operations tce_hcall_operations = {
	.owner = THIS_MODULE,
	.open = tce_hcall_open,
	.release = tce_hcall_release,
	.read = tce_hcall_read,
	.write = tce_hcall_write,
	.llseek = noop_llseek,
};

static struct miscdevice tce_hcall_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "tce_hcall",
	.mode = 0600,
	.fops = &tce_hcall_operations,
};

static int __init tce_hcall_init(void)
{
	if (!firmware_has_feature(FW_FEATURE_LPAR))
		return -ENODEV;
	return misc_register(&tce_hcall_device);
}

static void __exit tce_hcall_exit(void)
{
	misc_deregister(&tce_hcall_device);
}

module_init(tce_hcall_init);
module_exit(tce_hcall_exit);

MODULE_DESCRIPTION("TCE hypercalls with any arguments, for tests");
MODULE_LICENSE("GPL");
