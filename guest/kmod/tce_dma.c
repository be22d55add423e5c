// SPDX-License-Identifier: GPL-2.0
/*
 * tce_dma: does on command what drivers do with the DMA API, and tells the bus addresses ("handles") that they get.
 *
 * A PCI driver for QEMU's edu and iommu-testdev. It binds to no device by itself: driver_override must name it. One
 * write to /dev/tce_dma is one request; its answer is read back. What a process maps is pages of its own memory, which
 * stay where they are until they are unmapped. What a file has mapped is unmapped when it is closed, at the latest.
 * For root alone. See struct tce_dma_request for the format, which is in native byte order with natural alignment.
 *
 * A request that would make the kernel stumble is refused by an errno of the write. What the DMA API itself refuses is
 * the value of an answer.
 *
 * Source: Documentation/core-api/dma-api.rst.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include <asm/time.h>

#define TCE_DMA_VERSION		1
#define TCE_DMA_PARTS		256		/* of one mapping, at most */
#define TCE_DMA_PAGES		4096		/* CPU pages of one mapping, at most */
#define TCE_DMA_COHERENT	SZ_1M		/* bytes of one allocation, at most */
#define TCE_DMA_ROUNDS		1000000
#define TCE_DMA_BYTES		SZ_2M		/* in one write, at most */
#define TCE_DMA_BREATH		64		/* rounds between two looks at the scheduler and at signals */

enum tce_dma_command {
	TCE_DMA_STATE,	/* nothing: tells the device's masks */
	TCE_DMA_MASK,	/* args: which (bit 0 streaming, bit 1 coherent), bits */
	TCE_DMA_ALLOC,	/* args: id, bytes */
	TCE_DMA_MAP,	/* args: id, how, direction; parts follow */
	TCE_DMA_SYNC,	/* args: id, whom for (0 CPU, 1 device), offset, bytes */
	TCE_DMA_UNMAP,	/* args: id; of an allocation as well */
	TCE_DMA_READ,	/* args: id of an allocation, offset, bytes */
	TCE_DMA_WRITE,	/* args: id of an allocation, offset, bytes; data follow */
	TCE_DMA_KEEP,	/* args: whether mappings outlive the driver's next unbinding */
	TCE_DMA_LOOP,	/* args: rounds, how, direction; parts follow: map and unmap them in each round */
};

enum tce_dma_how { TCE_DMA_SINGLE, TCE_DMA_PAGE, TCE_DMA_SG };

struct tce_dma_request {
	u32 version;
	u32 command;
	u32 domain;
	u32 place;	/* bus << 8 | devfn */
	u64 args[4];
	u32 count;	/* parts that follow */
	u32 reserved;	/* 0 */
};

struct tce_dma_part {
	u64 address;	/* in the process */
	u64 size;
};

/* Read back: this, then count segments, or the bytes that were asked for. */
struct tce_dma_answer {
	s64 value;	/* 0, or what the DMA API refused it with; of a map, the number of segments */
	u64 streaming;	/* the masks afterwards */
	u64 coherent;
	u64 direct;	/* dma_ops_bypass */
	u64 extra;	/* of an allocation, the real address of its memory; of a loop, its ticks */
};

struct tce_dma_segment {
	u64 handle;
	u64 size;
};

/* A device that the driver has or had. */
struct target {
	struct pci_dev *pdev;
	struct list_head targets;
	unsigned int live;	/* mappings */
	bool bound;
	bool keep;
};

struct mapping {
	struct list_head mappings;
	struct target *target;
	void *owner;
	u64 id;
	enum tce_dma_how how;
	enum dma_data_direction direction;
	size_t size;
	dma_addr_t handle;
	void *memory;		/* of an allocation; otherwise NULL */
	struct page **pages;
	unsigned int pinned;
	struct sg_table list;
};

struct tce_dma_file {
	void *answer;
	size_t size;	/* bytes of the answer */
	size_t taken;	/* of which were read */
};

static DEFINE_MUTEX(lock);	/* for all that follows, and the files */
static LIST_HEAD(targets);
static LIST_HEAD(mappings);

static const struct pci_device_id known[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },	/* edu */
	{ PCI_DEVICE(0x1b36, 0x0005) },	/* iommu-testdev */
	{ }
};

static struct target *find_target(u32 domain, u32 place)
{
	struct target *target;

	list_for_each_entry(target, &targets, targets)
		if (target->bound && pci_domain_nr(target->pdev->bus) == domain && pci_dev_id(target->pdev) == place)
			return target;
	return NULL;
}

static struct mapping *find_mapping(void *owner, u64 id)
{
	struct mapping *mapping;

	list_for_each_entry(mapping, &mappings, mappings)
		if (mapping->owner == owner && mapping->id == id)
			return mapping;
	return NULL;
}

static void forget_target(struct target *target)
{
	if (target->bound || target->live)
		return;
	list_del(&target->targets);
	pci_dev_put(target->pdev);
	kfree(target);
}

static void unmap(struct mapping *mapping)
{
	struct device *device = &mapping->target->pdev->dev;

	if (mapping->memory)
		dma_free_coherent(device, mapping->size, mapping->memory, mapping->handle);
	else if (mapping->how == TCE_DMA_SG)
		dma_unmap_sgtable(device, &mapping->list, mapping->direction, 0);
	else if (mapping->how == TCE_DMA_PAGE)
		dma_unmap_page(device, mapping->handle, mapping->size, mapping->direction);
	else
		dma_unmap_single(device, mapping->handle, mapping->size, mapping->direction);
}

static void put_pages(struct mapping *mapping)
{
	unsigned int i;

	for (i = 0; i < mapping->pinned; i++) {
		set_page_dirty_lock(mapping->pages[i]);
		put_page(mapping->pages[i]);
	}
	kvfree(mapping->pages);
	sg_free_table(&mapping->list);
	kfree(mapping);
}

/* It is not mapped any more. */
static void drop(struct mapping *mapping)
{
	struct target *target = mapping->target;

	list_del(&mapping->mappings);
	target->live--;
	put_pages(mapping);
	forget_target(target);
}

static unsigned long pages_of(const struct tce_dma_part *part)
{
	return ((part->address & ~PAGE_MASK) + part->size + PAGE_SIZE - 1) >> PAGE_SHIFT;
}

static int check_parts(const struct tce_dma_part *parts, u32 count, enum tce_dma_how how)
{
	unsigned long pages = 0;
	u32 i;

	if (!count || count > TCE_DMA_PARTS || (how != TCE_DMA_SG && count != 1))
		return -EINVAL;
	for (i = 0; i < count; i++) {
		if (!parts[i].size || parts[i].size > (u64)TCE_DMA_PAGES << PAGE_SHIFT)
			return -EINVAL;
		if (parts[i].address + parts[i].size < parts[i].address)
			return -EINVAL;
		pages += pages_of(&parts[i]);
	}
	return pages > TCE_DMA_PAGES ? -EINVAL : 0;
}

/* Take hold of the pages of all parts. Each part must be contiguous in real memory: there is no other way to map it. */
static int take_pages(struct mapping *mapping, const struct tce_dma_part *parts, u32 count)
{
	unsigned long pages = 0, n, j;
	struct scatterlist *entry;
	u32 i;
	int error, got;

	for (i = 0; i < count; i++)
		pages += pages_of(&parts[i]);
	mapping->pages = kvcalloc(pages, sizeof(*mapping->pages), GFP_KERNEL);
	if (!mapping->pages)
		return -ENOMEM;
	error = sg_alloc_table(&mapping->list, count, GFP_KERNEL);
	if (error)
		return error;
	entry = mapping->list.sgl;
	for (i = 0; i < count; i++, entry = sg_next(entry)) {
		struct page **own = mapping->pages + mapping->pinned;

		n = pages_of(&parts[i]);
		got = get_user_pages_fast(parts[i].address & PAGE_MASK, n, FOLL_WRITE, own);
		if (got < 0)
			return got;
		mapping->pinned += got;
		if (got != n)
			return -EFAULT;
		for (j = 1; j < n; j++)
			if (page_to_pfn(own[j]) != page_to_pfn(own[0]) + j)
				return -EXDEV;
		sg_set_page(entry, own[0], parts[i].size, parts[i].address & ~PAGE_MASK);
		mapping->size += parts[i].size;
	}
	return 0;
}

/* What the DMA API said. */
static int map(struct mapping *mapping)
{
	struct device *device = &mapping->target->pdev->dev;
	struct scatterlist *one = mapping->list.sgl;

	switch (mapping->how) {
	case TCE_DMA_SG:
		return dma_map_sgtable(device, &mapping->list, mapping->direction, 0);
	case TCE_DMA_PAGE:
		mapping->handle = dma_map_page(device, sg_page(one), one->offset, mapping->size, mapping->direction);
		break;
	case TCE_DMA_SINGLE:
		mapping->handle = dma_map_single(device, sg_virt(one), mapping->size, mapping->direction);
		break;
	}
	return dma_mapping_error(device, mapping->handle);
}

static int answer_with(struct tce_dma_file *file, struct target *target, s64 value, u64 extra, size_t more)
{
	struct tce_dma_answer *answer = kvzalloc(sizeof(*answer) + more, GFP_KERNEL);

	if (!answer)
		return -ENOMEM;
	answer->value = value;
	answer->streaming = dma_get_mask(&target->pdev->dev);
	answer->coherent = target->pdev->dev.coherent_dma_mask;
#ifdef CONFIG_DMA_OPS_BYPASS
	answer->direct = target->pdev->dev.dma_ops_bypass;
#endif
	answer->extra = extra;
	file->answer = answer;
	file->size = sizeof(*answer) + more;
	return 0;
}

static int set_masks(struct tce_dma_file *file, struct target *target, u64 which, u64 bits)
{
	struct device *device = &target->pdev->dev;
	int value = 0;

	if (!which || which > 3 || bits < 24 || bits > 64)
		return -EINVAL;
	/* A mapping is unmapped the way that the masks of that moment say. */
	if (target->live)
		return -EBUSY;
	if (which & 1)
		value = dma_set_mask(device, DMA_BIT_MASK(bits));
	if (!value && which & 2)
		value = dma_set_coherent_mask(device, DMA_BIT_MASK(bits));
	return answer_with(file, target, value, 0, 0);
}

static struct mapping *new_mapping(struct tce_dma_file *file, struct target *target, u64 id)
{
	struct mapping *mapping = kzalloc(sizeof(*mapping), GFP_KERNEL);

	if (mapping) {
		mapping->target = target;
		mapping->owner = file;
		mapping->id = id;
	}
	return mapping;
}

static void keep(struct mapping *mapping)
{
	list_add(&mapping->mappings, &mappings);
	mapping->target->live++;
}

static int allocate(struct tce_dma_file *file, struct target *target, const u64 *args)
{
	struct tce_dma_segment *segment;
	struct mapping *mapping;
	int error;

	if (!args[1] || args[1] > TCE_DMA_COHERENT || find_mapping(file, args[0]))
		return -EINVAL;
	mapping = new_mapping(file, target, args[0]);
	if (!mapping)
		return -ENOMEM;
	mapping->size = args[1];
	mapping->direction = DMA_BIDIRECTIONAL;
	mapping->memory = dma_alloc_coherent(&target->pdev->dev, mapping->size, &mapping->handle, GFP_KERNEL | __GFP_NOWARN);
	if (!mapping->memory) {
		kfree(mapping);
		return answer_with(file, target, -ENOMEM, 0, 0);
	}
	error = answer_with(file, target, 1, __pa(mapping->memory), sizeof(*segment));
	if (error) {
		unmap(mapping);
		kfree(mapping);
		return error;
	}
	segment = file->answer + sizeof(struct tce_dma_answer);
	segment->handle = mapping->handle;
	segment->size = mapping->size;
	keep(mapping);
	return 0;
}

static void tell_segments(struct tce_dma_file *file, struct mapping *mapping)
{
	struct tce_dma_segment *segment = file->answer + sizeof(struct tce_dma_answer);
	struct scatterlist *entry;
	int i;

	if (mapping->how != TCE_DMA_SG) {
		segment->handle = mapping->handle;
		segment->size = mapping->size;
		return;
	}
	for_each_sgtable_dma_sg(&mapping->list, entry, i) {
		segment->handle = sg_dma_address(entry);
		segment->size = sg_dma_len(entry);
		segment++;
	}
}

static int prepare(struct tce_dma_file *file, struct target *target, const struct tce_dma_request *request,
		   struct mapping **made)
{
	const struct tce_dma_part *parts = (const void *)(request + 1);
	struct mapping *mapping;
	int error;

	if (request->args[1] > TCE_DMA_SG || request->args[2] > DMA_FROM_DEVICE)
		return -EINVAL;
	error = check_parts(parts, request->count, request->args[1]);
	if (error)
		return error;
	mapping = new_mapping(file, target, request->args[0]);
	if (!mapping)
		return -ENOMEM;
	mapping->how = request->args[1];
	mapping->direction = request->args[2];
	error = take_pages(mapping, parts, request->count);
	if (error)
		put_pages(mapping);
	else
		*made = mapping;
	return error;
}

static int map_parts(struct tce_dma_file *file, struct target *target, const struct tce_dma_request *request)
{
	struct mapping *mapping;
	unsigned int segments;
	int error, value;

	if (find_mapping(file, request->args[0]))
		return -EINVAL;
	error = prepare(file, target, request, &mapping);
	if (error)
		return error;
	value = map(mapping);
	segments = value ? 0 : mapping->how == TCE_DMA_SG ? mapping->list.nents : 1;
	error = answer_with(file, target, value ?: segments, 0, segments * sizeof(struct tce_dma_segment));
	if (value || error) {
		if (!value)
			unmap(mapping);
		put_pages(mapping);
		return error;
	}
	tell_segments(file, mapping);
	keep(mapping);
	return 0;
}

static int loop(struct tce_dma_file *file, struct target *target, const struct tce_dma_request *request)
{
	struct mapping *mapping;
	int error, value = 0;
	u64 round, began;

	if (!request->args[0] || request->args[0] > TCE_DMA_ROUNDS)
		return -EINVAL;
	error = prepare(file, target, request, &mapping);
	if (error)
		return error;
	began = mftb();
	for (round = 0; round < request->args[0] && !value; round++) {
		value = map(mapping);
		if (!value)
			unmap(mapping);
		if (round % TCE_DMA_BREATH)
			continue;
		cond_resched();
		if (signal_pending(current))
			value = -EINTR;
	}
	put_pages(mapping);
	return answer_with(file, target, value, mftb() - began, 0);
}

static int sync(struct tce_dma_file *file, struct mapping *mapping, const u64 *args)
{
	struct device *device = &mapping->target->pdev->dev;
	dma_addr_t from = mapping->handle + args[2];

	if (mapping->memory || args[1] > 1)
		return -EINVAL;
	if (mapping->how == TCE_DMA_SG) {
		if (args[1])
			dma_sync_sgtable_for_device(device, &mapping->list, mapping->direction);
		else
			dma_sync_sgtable_for_cpu(device, &mapping->list, mapping->direction);
	} else if (!args[3] || args[2] >= mapping->size || args[3] > mapping->size - args[2]) {
		return -EINVAL;
	} else if (args[1]) {
		dma_sync_single_for_device(device, from, args[3], mapping->direction);
	} else {
		dma_sync_single_for_cpu(device, from, args[3], mapping->direction);
	}
	return answer_with(file, mapping->target, 0, 0, 0);
}

/* The memory of an allocation, as the driver reads and writes it. */
static int transfer(struct tce_dma_file *file, struct mapping *mapping, const struct tce_dma_request *request, size_t rest)
{
	u64 offset = request->args[1], size = request->args[2];
	bool reads = request->command == TCE_DMA_READ;
	int error;

	if (!mapping->memory || offset > mapping->size || size > mapping->size - offset || (!reads && size != rest))
		return -EINVAL;
	error = answer_with(file, mapping->target, 0, 0, reads ? size : 0);
	if (error)
		return error;
	if (reads)
		memcpy(file->answer + sizeof(struct tce_dma_answer), mapping->memory + offset, size);
	else
		memcpy(mapping->memory + offset, request + 1, size);
	return 0;
}

/* Requests for a mapping, whether its device still has this driver or not. */
static int of_mapping(struct tce_dma_file *file, const struct tce_dma_request *request, size_t rest)
{
	struct mapping *mapping = find_mapping(file, request->args[0]);
	int error;

	if (!mapping)
		return -ENOENT;
	if (request->command == TCE_DMA_SYNC)
		return sync(file, mapping, request->args);
	if (request->command != TCE_DMA_UNMAP)
		return transfer(file, mapping, request, rest);
	error = answer_with(file, mapping->target, 0, 0, 0);
	if (error)
		return error;
	unmap(mapping);
	drop(mapping);
	return 0;
}

static int perform(struct tce_dma_file *file, const struct tce_dma_request *request, size_t size)
{
	struct target *target = find_target(request->domain, request->place);
	size_t rest = size - sizeof(*request);

	if (request->version != TCE_DMA_VERSION || request->reserved || request->count > TCE_DMA_PARTS)
		return -EINVAL;
	if (request->count * sizeof(struct tce_dma_part) > rest)
		return -EINVAL;
	switch (request->command) {
	case TCE_DMA_SYNC:
	case TCE_DMA_UNMAP:
	case TCE_DMA_READ:
	case TCE_DMA_WRITE:
		return of_mapping(file, request, rest);
	}
	if (!target)
		return -ENODEV;
	switch (request->command) {
	case TCE_DMA_STATE:
		return answer_with(file, target, 0, target->live, 0);
	case TCE_DMA_MASK:
		return set_masks(file, target, request->args[0], request->args[1]);
	case TCE_DMA_ALLOC:
		return allocate(file, target, request->args);
	case TCE_DMA_MAP:
		return map_parts(file, target, request);
	case TCE_DMA_LOOP:
		return loop(file, target, request);
	case TCE_DMA_KEEP:
		target->keep = request->args[0];
		return answer_with(file, target, 0, 0, 0);
	}
	return -EINVAL;
}

static void forget(struct tce_dma_file *file)
{
	kvfree(file->answer);
	file->answer = NULL;
	file->size = 0;
	file->taken = 0;
}

static ssize_t tce_dma_write(struct file *filp, const char __user *from, size_t size, loff_t *pos)
{
	struct tce_dma_file *file = filp->private_data;
	void *request;
	int error;

	/* Again: the file may have been handed to somebody else. */
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (size < sizeof(struct tce_dma_request) || size > TCE_DMA_BYTES)
		return -EINVAL;
	request = kvmalloc(size, GFP_KERNEL);
	if (!request)
		return -ENOMEM;
	error = copy_from_user(request, from, size) ? -EFAULT : 0;
	if (!error && mutex_lock_interruptible(&lock))
		error = -EINTR;
	if (!error) {
		forget(file);
		error = perform(file, request, size);
		mutex_unlock(&lock);
	}
	kvfree(request);
	return error ? error : size;
}

/* The answer to the last request, each byte once. */
static ssize_t tce_dma_read(struct file *filp, char __user *to, size_t size, loff_t *pos)
{
	struct tce_dma_file *file = filp->private_data;
	ssize_t taken;

	if (mutex_lock_interruptible(&lock))
		return -EINTR;
	taken = min(size, file->size - file->taken);
	if (taken && copy_to_user(to, (const u8 *)file->answer + file->taken, taken))
		taken = -EFAULT;
	else
		file->taken += taken;
	mutex_unlock(&lock);
	return taken;
}

static int tce_dma_open(struct inode *inode, struct file *filp)
{
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	filp->private_data = kzalloc(sizeof(struct tce_dma_file), GFP_KERNEL);
	return filp->private_data ? 0 : -ENOMEM;
}

static int tce_dma_release(struct inode *inode, struct file *filp)
{
	struct tce_dma_file *file = filp->private_data;
	struct mapping *mapping, *next;

	mutex_lock(&lock);
	list_for_each_entry_safe(mapping, next, &mappings, mappings)
		if (mapping->owner == file) {
			unmap(mapping);
			drop(mapping);
		}
	mutex_unlock(&lock);
	forget(file);
	kfree(file);
	return 0;
}

static const struct file_operations tce_dma_operations = {
	.owner = THIS_MODULE,
	.open = tce_dma_open,
	.release = tce_dma_release,
	.read = tce_dma_read,
	.write = tce_dma_write,
	.llseek = noop_llseek,
};

static struct miscdevice tce_dma_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "tce_dma",
	.mode = 0600,
	.fops = &tce_dma_operations,
};

static int tce_dma_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct target *target;
	int error;

	/* Of no other device is it known what it does once it masters the bus. */
	if (!pci_match_id(known, pdev))
		return -ENODEV;
	target = kzalloc(sizeof(*target), GFP_KERNEL);
	if (!target)
		return -ENOMEM;
	error = pci_enable_device(pdev);
	if (error) {
		kfree(target);
		return error;
	}
	pci_set_master(pdev);
	target->pdev = pci_dev_get(pdev);
	target->bound = true;
	mutex_lock(&lock);
	list_add(&target->targets, &targets);
	mutex_unlock(&lock);
	pci_set_drvdata(pdev, target);
	return 0;
}

static void tce_dma_remove(struct pci_dev *pdev)
{
	struct target *target = pci_get_drvdata(pdev);
	struct mapping *mapping, *next;

	mutex_lock(&lock);
	list_for_each_entry_safe(mapping, next, &mappings, mappings)
		if (mapping->target == target && !target->keep) {
			unmap(mapping);
			drop(mapping);
		}
	target->bound = false;
	forget_target(target);
	mutex_unlock(&lock);
	pci_clear_master(pdev);
	pci_disable_device(pdev);
}

static struct pci_driver tce_dma_driver = {
	.name = "tce_dma",
	.probe = tce_dma_probe,
	.remove = tce_dma_remove,
};

static int __init tce_dma_init(void)
{
	int error = pci_register_driver(&tce_dma_driver);

	if (error)
		return error;
	error = misc_register(&tce_dma_device);
	if (error)
		pci_unregister_driver(&tce_dma_driver);
	return error;
}

static void __exit tce_dma_exit(void)
{
	misc_deregister(&tce_dma_device);
	pci_unregister_driver(&tce_dma_driver);
}

module_init(tce_dma_init);
module_exit(tce_dma_exit);

MODULE_DESCRIPTION("What drivers do with the DMA API, on command, for tests");
MODULE_LICENSE("GPL");
