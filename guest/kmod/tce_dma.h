/* SPDX-License-Identifier: GPL-2.0 */
/* tce_dma: the format of requests and answers, and what its parts share. See tce_dma_main.c. */

#ifndef TCE_DMA_H
#define TCE_DMA_H

#include <linux/dma-mapping.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/rwsem.h>
#include <linux/scatterlist.h>
#include <linux/sizes.h>
#include <linux/types.h>

#define TCE_DMA_VERSION		2
#define TCE_DMA_PARTS		256		/* of one mapping, at most */
#define TCE_DMA_HELD		1024		/* parts of all lists that a file holds, at most */
#define TCE_DMA_PAGES		4096		/* CPU pages of one mapping, at most */
#define TCE_DMA_COHERENT	SZ_2M		/* bytes of one allocation, at most */
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
	TCE_DMA_HOLD,	/* args: parts of each list, direction; parts follow: take hold of their pages, map nothing */
	TCE_DMA_MAPS,	/* map all lists that are held */
	TCE_DMA_UNMAPS,	/* unmap all of them */
	TCE_DMA_LOOP,	/* args: rounds, whether each is checked: map and unmap all of them in each */
	TCE_DMA_DROP,	/* hold none any more */
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

/* Read back: this, then count segments, the bytes that were asked for, or what is told of a loop. */
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

/*
 * What is told of a loop. It is inside while it maps or unmaps a list, which it does without being interrupted by another
 * task: who finds somebody inside is on another CPU. The rest is told of loops that are checked.
 */
struct tce_dma_told {
	u64 cpu;		/* at its end */
	u64 liobn;		/* of the table, 0: there is none */
	u64 met;		/* times that it came inside and found another file's loop there, with the same table */
	u64 beside;		/* with other tables */
	u64 checked;		/* entries that were read while they were mapped */
	u64 wrong;		/* of them: those that did not hold what they should; then the first one */
	u64 wrong_at, seen, expected;
	u64 shared;		/* entries that another list of a loop had at that time; then the first one */
	u64 shared_at;
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

/* A table that lists are held for. */
struct table {
	struct list_head tables;
	struct iommu_table *kernels;
	unsigned int users;
	unsigned int place;	/* among those whose loops are counted */
	unsigned long *had;	/* a bit for each entry that a list of a checked loop has */
};

/* Lists whose pages are held, so that they can be mapped and unmapped over and over. */
struct batch {
	struct target *target;
	struct table *table;	/* NULL: the device has none */
	struct tce_dma_told told;
	u32 count;
	bool mapped;
	bool checks;
	struct mapping *lists[];
};

struct tce_dma_file {
	struct mutex lock;	/* one request at a time */
	struct batch *batch;
	void *answer;
	size_t size;	/* bytes of the answer */
	size_t taken;	/* of which were read */
};

/*
 * Who maps and unmaps goes through the gate beside others, on as many CPUs as there are; who changes masks, or takes or
 * gives a device, goes alone. Behind it, the lock is for lists and their counts alone: nothing is mapped under it.
 * The order is: a file's lock, the gate, the lock.
 */
extern struct rw_semaphore tce_dma_gate;
extern struct mutex tce_dma_lock;
extern struct list_head tce_dma_targets;
extern struct list_head tce_dma_mappings;

/* tce_dma_mapping.c */
struct target *tce_dma_find_target(u32 domain, u32 place);
struct mapping *tce_dma_find_mapping(void *owner, u64 id);
struct mapping *tce_dma_find_owned(void *owner);
void tce_dma_forget_target(struct target *target);
void tce_dma_unmap(struct mapping *mapping);
void tce_dma_put_pages(struct mapping *mapping);
void tce_dma_end(struct mapping *mapping);
int tce_dma_check_parts(const struct tce_dma_part *parts, u32 count, enum tce_dma_how how);
int tce_dma_take_pages(struct mapping *mapping, const struct tce_dma_part *parts, u32 count);
int tce_dma_map(struct mapping *mapping);
struct mapping *tce_dma_new_mapping(struct tce_dma_file *file, struct target *target, u64 id);
void tce_dma_keep(struct mapping *mapping);
int tce_dma_prepare(struct tce_dma_file *file, struct target *target, const struct tce_dma_part *parts, u32 count,
		    struct mapping **made);

/* tce_dma_batch.c */
int tce_dma_hold(struct tce_dma_file *file, struct target *target, const struct tce_dma_request *request);
int tce_dma_map_batch(struct batch *batch);
void tce_dma_unmap_batch(struct batch *batch);
int tce_dma_loop(struct batch *batch, u64 rounds, bool checks, u64 *ticks);
void tce_dma_drop_batch(struct tce_dma_file *file);

/* tce_dma_tables.c */
int tce_dma_use_table(struct batch *batch);
void tce_dma_leave_table(struct batch *batch);
bool tce_dma_is_its_table(const struct batch *batch);
void tce_dma_enter(struct batch *batch);
void tce_dma_leave(struct batch *batch);
void tce_dma_claim(struct batch *batch, struct mapping *list);
void tce_dma_release(struct batch *batch, struct mapping *list);
void tce_dma_check(struct batch *batch, struct mapping *list);

/* tce_dma_requests.c */
bool tce_dma_is_alone(const struct tce_dma_request *request);
int tce_dma_perform(struct tce_dma_file *file, const struct tce_dma_request *request, size_t size);

#endif
