// SPDX-License-Identifier: GPL-2.0
/* tce_dma: scatter-gather lists that are mapped and unmapped over and over, by one request each time, or in a loop. */

#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include <asm/iommu.h>
#include <asm/time.h>

#include "tce_dma.h"

/* As drivers do whose memory is their own: the pages are taken once, however often they are mapped. */
int tce_dma_hold(struct tce_dma_file *file, struct target *target, const struct tce_dma_request *request)
{
	const struct tce_dma_part *parts = (const void *)(request + 1);
	u64 each = request->args[0];
	struct batch *batch;
	int error = 0;
	u32 count;

	if (file->batch)
		return -EBUSY;
	if (!each || each > TCE_DMA_PARTS || request->args[1] > DMA_FROM_DEVICE || request->count % each)
		return -EINVAL;
	error = tce_dma_check_parts(parts, request->count, TCE_DMA_SG);
	if (error)
		return error;
	count = request->count / each;
	batch = kzalloc(struct_size(batch, lists, count), GFP_KERNEL);
	if (!batch)
		return -ENOMEM;
	batch->target = target;
	mutex_lock(&tce_dma_lock);
	target->live++;
	mutex_unlock(&tce_dma_lock);
	file->batch = batch;
	error = tce_dma_use_table(batch);
	if (error) {
		tce_dma_drop_batch(file);
		return error;
	}
	for (; batch->count < count; batch->count++) {
		struct mapping **made = batch->lists + batch->count;

		error = tce_dma_prepare(file, target, parts + batch->count * each, each, made);
		if (error) {
			tce_dma_drop_batch(file);
			return error;
		}
		(*made)->how = TCE_DMA_SG;
		(*made)->direction = request->args[1];
	}
	return 0;
}

static int map_list(struct batch *batch, struct mapping *list)
{
	int value;

	tce_dma_enter(batch);
	value = tce_dma_map(list);
	tce_dma_leave(batch);
	if (!value && batch->checks)
		tce_dma_claim(batch, list);
	return value;
}

static void unmap_list(struct batch *batch, struct mapping *list)
{
	if (batch->checks)
		tce_dma_release(batch, list);
	tce_dma_enter(batch);
	tce_dma_unmap(list);
	tce_dma_leave(batch);
}

/* All lists, or none. */
int tce_dma_map_batch(struct batch *batch)
{
	int value;
	u32 i;

	for (i = 0; i < batch->count; i++) {
		value = map_list(batch, batch->lists[i]);
		if (!value)
			continue;
		while (i--)
			unmap_list(batch, batch->lists[i]);
		return value;
	}
	batch->mapped = true;
	return 0;
}

void tce_dma_unmap_batch(struct batch *batch)
{
	u32 i;

	for (i = 0; i < batch->count; i++)
		unmap_list(batch, batch->lists[i]);
	batch->mapped = false;
}

/* What is to be told of it is in the batch afterwards. */
int tce_dma_loop(struct batch *batch, u64 rounds, bool checks, u64 *ticks)
{
	struct tce_dma_told *told = &batch->told;
	u64 began = mftb(), round;
	int value = 0;
	u32 i;

	memset(told, 0, sizeof(*told));
	batch->checks = checks;
	for (round = 0; round < rounds && !value; round++) {
		value = tce_dma_map_batch(batch);
		for (i = 0; checks && !value && i < batch->count; i++)
			tce_dma_check(batch, batch->lists[i]);
		if (!value)
			tce_dma_unmap_batch(batch);
		if (round % TCE_DMA_BREATH)
			continue;
		cond_resched();
		if (signal_pending(current))
			value = -EINTR;
	}
	batch->checks = false;
	*ticks = mftb() - began;
	told->cpu = raw_smp_processor_id();
	if (batch->table)
		told->liobn = batch->table->kernels->it_index;
	return value;
}

void tce_dma_drop_batch(struct tce_dma_file *file)
{
	struct batch *batch = file->batch;
	u32 i;

	if (!batch)
		return;
	if (batch->mapped)
		tce_dma_unmap_batch(batch);
	for (i = 0; i < batch->count; i++)
		tce_dma_put_pages(batch->lists[i]);
	tce_dma_leave_table(batch);
	mutex_lock(&tce_dma_lock);
	batch->target->live--;
	tce_dma_forget_target(batch->target);
	mutex_unlock(&tce_dma_lock);
	file->batch = NULL;
	kfree(batch);
}
