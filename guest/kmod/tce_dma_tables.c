// SPDX-License-Identifier: GPL-2.0
/*
 * tce_dma: the tables that loops use: who is in the kernel's allocator at the same time, which entries lists have while
 * they are mapped, and what these hold.
 *
 * Two lists that are mapped at the same time never have the same entry. A loop that is checked marks the entries of a list
 * once it is mapped, and takes the marks away before it is unmapped; so a mark that it finds is another mapping's.
 */

#include <linux/mm.h>
#include <linux/slab.h>

#include <asm/hvcall.h>
#include <asm/iommu.h>

#include "tce_dma.h"

#define PLACES	8		/* tables whose loops are counted at the same time */
#define COUNTER	8		/* bits of each one's counter */
#define FEW	((1 << COUNTER) - 1)
#define READ	1
#define WRITE	2

static LIST_HEAD(tables);
/* How many loops are inside, for each table: in one word, so that they are read at the same time. */
static atomic64_t inside = ATOMIC64_INIT(0);

static struct table *find(struct iommu_table *kernels)
{
	struct table *table;

	list_for_each_entry(table, &tables, tables)
		if (table->kernels == kernels)
			return table;
	return NULL;
}

/* A place that no table has; PLACES: there is none. */
static unsigned int free_place(void)
{
	unsigned long taken = 0;
	struct table *table;

	list_for_each_entry(table, &tables, tables)
		taken |= 1ul << table->place;
	return find_first_zero_bit(&taken, PLACES);
}

static struct table *make(struct iommu_table *kernels)
{
	struct table *table = kzalloc(sizeof(*table), GFP_KERNEL);

	if (!table)
		return NULL;
	table->kernels = kernels;
	table->place = free_place();
	table->had = kvcalloc(BITS_TO_LONGS(kernels->it_size), sizeof(long), GFP_KERNEL);
	if (!table->had || table->place == PLACES) {
		kvfree(table->had);
		kfree(table);
		return NULL;
	}
	list_add(&table->tables, &tables);
	return table;
}

/* The table of its device, as it is now. */
int tce_dma_use_table(struct batch *batch)
{
	struct iommu_table *kernels = get_iommu_table_base(&batch->target->pdev->dev);
	struct table *table;

	if (!kernels)
		return 0;
	mutex_lock(&tce_dma_lock);
	table = find(kernels);
	if (!table)
		table = make(kernels);
	/* More files than can be counted, too, get none. */
	if (table && table->users < FEW) {
		table->users++;
		batch->table = table;
	}
	mutex_unlock(&tce_dma_lock);
	return batch->table ? 0 : -ENOMEM;
}

void tce_dma_leave_table(struct batch *batch)
{
	struct table *table = batch->table;

	if (!table)
		return;
	batch->table = NULL;
	mutex_lock(&tce_dma_lock);
	if (!--table->users) {
		list_del(&table->tables);
		kvfree(table->had);
		kfree(table);
	}
	mutex_unlock(&tce_dma_lock);
}

bool tce_dma_is_its_table(const struct batch *batch)
{
	struct iommu_table *kernels = get_iommu_table_base(&batch->target->pdev->dev);

	return kernels == (batch->table ? batch->table->kernels : NULL);
}

/* No other task of this CPU comes between this and the end of it. */
void tce_dma_enter(struct batch *batch)
{
	unsigned int shift;
	u64 now, here;

	preempt_disable();
	if (!batch->table)
		return;
	shift = batch->table->place * COUNTER;
	now = atomic64_add_return(1ull << shift, &inside);
	here = now >> shift & FEW;
	batch->told.met += here > 1;
	batch->told.beside += (now & ~((u64)FEW << shift)) != 0;
}

void tce_dma_leave(struct batch *batch)
{
	if (batch->table)
		atomic64_sub(1ull << batch->table->place * COUNTER, &inside);
	preempt_enable();
}

/* The device goes around its table. */
static bool is_direct(const struct batch *batch)
{
#ifdef CONFIG_DMA_OPS_BYPASS
	return batch->target->pdev->dev.dma_ops_bypass;
#else
	return false;
#endif
}

/* Mark or unmark the entries of a list. */
static void mark(struct batch *batch, struct mapping *list, bool on)
{
	struct iommu_table *table = batch->table->kernels;
	struct scatterlist *entry;
	unsigned long first, last;
	int i;

	for_each_sgtable_dma_sg(&list->list, entry, i) {
		first = sg_dma_address(entry) >> table->it_page_shift;
		last = (sg_dma_address(entry) + sg_dma_len(entry) - 1) >> table->it_page_shift;
		for (; first <= last; first++) {
			if (first - table->it_offset >= table->it_size)
				continue;
			if (!on)
				clear_bit(first - table->it_offset, batch->table->had);
			else if (test_and_set_bit(first - table->it_offset, batch->table->had) && !batch->told.shared++)
				batch->told.shared_at = first << table->it_page_shift;
		}
	}
}

void tce_dma_claim(struct batch *batch, struct mapping *list)
{
	if (batch->table && !is_direct(batch))
		mark(batch, list, true);
}

void tce_dma_release(struct batch *batch, struct mapping *list)
{
	if (batch->table && !is_direct(batch))
		mark(batch, list, false);
}

static void is_wrong(struct tce_dma_told *told, u64 at, u64 seen, u64 expected)
{
	if (told->wrong++)
		return;
	told->wrong_at = at;
	told->seen = seen;
	told->expected = expected;
}

/* The entry of a handle leads to this place, with what the direction gives. */
static void check_entry(struct batch *batch, struct mapping *list, u64 handle, u64 real)
{
	struct iommu_table *table = batch->table->kernels;
	u64 page = IOMMU_PAGE_MASK(table), expected = real & page, seen;
	unsigned long out[PLPAR_HCALL_BUFSIZE];

	expected |= list->direction == DMA_TO_DEVICE ? READ : READ | WRITE;
	seen = plpar_hcall(H_GET_TCE, out, table->it_index, handle & page) == H_SUCCESS ? out[0] : 0;
	batch->told.checked++;
	if ((seen & (page | READ | WRITE)) != expected)
		is_wrong(&batch->told, handle & page, seen, expected);
}

/* A mapped list: each byte of its parts, in order, is reached at the byte of its segments. */
void tce_dma_check(struct batch *batch, struct mapping *list)
{
	struct scatterlist *part, *segment = list->list.sgl;
	unsigned int left = list->list.nents, at, done = 0, size;
	u64 handle, page;
	int i;

	if (!batch->table || is_direct(batch))
		return;
	page = IOMMU_PAGE_SIZE(batch->table->kernels);
	for_each_sgtable_sg(&list->list, part, i) {
		for (at = 0; at < part->length; at += size) {
			if (!left || done >= sg_dma_len(segment)) {
				is_wrong(&batch->told, left ? sg_dma_address(segment) : 0, 0, sg_phys(part) + at);
				return;
			}
			handle = sg_dma_address(segment) + done;
			size = min3((u64)(part->length - at), (u64)(sg_dma_len(segment) - done), page - (handle & (page - 1)));
			check_entry(batch, list, handle, sg_phys(part) + at);
			done += size;
			if (done < sg_dma_len(segment) || !--left)
				continue;
			segment = sg_next(segment);
			done = 0;
		}
	}
}
