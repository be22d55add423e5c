// SPDX-License-Identifier: GPL-2.0
/* tce_dma: what each request does. */

#include <linux/mm.h>
#include <linux/slab.h>

#include <asm/page.h>

#include "tce_dma.h"

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

static int allocate(struct tce_dma_file *file, struct target *target, const u64 *args)
{
	struct tce_dma_segment *segment;
	struct mapping *mapping;
	int error;

	if (!args[1] || args[1] > TCE_DMA_COHERENT || tce_dma_find_mapping(file, args[0]))
		return -EINVAL;
	mapping = tce_dma_new_mapping(file, target, args[0]);
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
		tce_dma_unmap(mapping);
		kfree(mapping);
		return error;
	}
	segment = file->answer + sizeof(struct tce_dma_answer);
	segment->handle = mapping->handle;
	segment->size = mapping->size;
	tce_dma_keep(mapping);
	return 0;
}

/* Returns where the next one's begin. */
static struct tce_dma_segment *tell_segments(struct tce_dma_segment *segment, struct mapping *mapping)
{
	struct scatterlist *entry;
	int i;

	if (mapping->how != TCE_DMA_SG) {
		segment->handle = mapping->handle;
		segment->size = mapping->size;
		return segment + 1;
	}
	for_each_sgtable_dma_sg(&mapping->list, entry, i) {
		segment->handle = sg_dma_address(entry);
		segment->size = sg_dma_len(entry);
		segment++;
	}
	return segment;
}

static int map_parts(struct tce_dma_file *file, struct target *target, const struct tce_dma_request *request)
{
	const struct tce_dma_part *parts = (const void *)(request + 1);
	struct mapping *mapping;
	int error, value, segments;

	if (tce_dma_find_mapping(file, request->args[0]))
		return -EINVAL;
	if (request->args[1] > TCE_DMA_SG || request->args[2] > DMA_FROM_DEVICE)
		return -EINVAL;
	if (request->count > TCE_DMA_PARTS)
		return -EINVAL;
	error = tce_dma_check_parts(parts, request->count, request->args[1]);
	if (error)
		return error;
	error = tce_dma_prepare(file, target, parts, request->count, &mapping);
	if (error)
		return error;
	mapping->id = request->args[0];
	mapping->how = request->args[1];
	mapping->direction = request->args[2];
	value = tce_dma_map(mapping);
	segments = value ? 0 : mapping->how == TCE_DMA_SG ? mapping->list.nents : 1;
	error = answer_with(file, target, value ? value : (s64)segments, 0, segments * sizeof(struct tce_dma_segment));
	if (value || error) {
		if (!value)
			tce_dma_unmap(mapping);
		tce_dma_put_pages(mapping);
		return error;
	}
	tell_segments(file->answer + sizeof(struct tce_dma_answer), mapping);
	tce_dma_keep(mapping);
	return 0;
}

/* How many segments all lists of a batch have. */
static unsigned int segments_of(const struct batch *batch)
{
	unsigned int segments = 0;
	u32 i;

	for (i = 0; i < batch->count; i++)
		segments += batch->lists[i]->list.nents;
	return segments;
}

static int map_batch(struct tce_dma_file *file)
{
	struct batch *batch = file->batch;
	struct tce_dma_segment *segment;
	int error, value;
	u32 i;

	if (batch->mapped)
		return -EBUSY;
	value = tce_dma_map_batch(batch);
	error = answer_with(file, batch->target, value ? value : (s64)batch->count, 0,
			    value ? 0 : segments_of(batch) * sizeof(*segment));
	if (error && !value)
		tce_dma_unmap_batch(batch);
	if (error || value)
		return error;
	segment = file->answer + sizeof(struct tce_dma_answer);
	for (i = 0; i < batch->count; i++)
		segment = tell_segments(segment, batch->lists[i]);
	return 0;
}

static int loop(struct tce_dma_file *file, u64 rounds, u64 checks)
{
	struct batch *batch = file->batch;
	int error, value;
	u64 ticks = 0;

	if (batch->mapped)
		return -EBUSY;
	if (!rounds || rounds > TCE_DMA_ROUNDS || checks > 1)
		return -EINVAL;
	if (!batch->target->bound)
		return -ENODEV;
	if (!tce_dma_is_its_table(batch))
		return -ESTALE;
	value = tce_dma_loop(batch, rounds, checks, &ticks);
	error = answer_with(file, batch->target, value, ticks, sizeof(batch->told));
	if (!error)
		memcpy(file->answer + sizeof(struct tce_dma_answer), &batch->told, sizeof(batch->told));
	return error;
}

/* Requests for the lists that a file holds. */
static int of_batch(struct tce_dma_file *file, const struct tce_dma_request *request)
{
	struct target *target;

	if (!file->batch)
		return -ENOENT;
	target = file->batch->target;
	switch (request->command) {
	case TCE_DMA_MAPS:
		return target->bound ? map_batch(file) : -ENODEV;
	case TCE_DMA_UNMAPS:
		if (!file->batch->mapped)
			return -ENOENT;
		tce_dma_unmap_batch(file->batch);
		break;
	case TCE_DMA_LOOP:
		return loop(file, request->args[0], request->args[1]);
	}
	return answer_with(file, target, 0, 0, 0);
}

static int drop_batch(struct tce_dma_file *file)
{
	int error;

	if (!file->batch)
		return -ENOENT;
	error = answer_with(file, file->batch->target, 0, 0, 0);
	if (!error)
		tce_dma_drop_batch(file);
	return error;
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
	struct mapping *mapping = tce_dma_find_mapping(file, request->args[0]);
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
	tce_dma_end(mapping);
	return 0;
}

/* It must not be done while others map. */
bool tce_dma_is_alone(const struct tce_dma_request *request)
{
	return request->command == TCE_DMA_MASK || request->command == TCE_DMA_KEEP;
}

int tce_dma_perform(struct tce_dma_file *file, const struct tce_dma_request *request, size_t size)
{
	struct target *target = tce_dma_find_target(request->domain, request->place);
	size_t rest = size - sizeof(*request);
	int error;

	if (request->version != TCE_DMA_VERSION || request->reserved || request->count > TCE_DMA_HELD)
		return -EINVAL;
	if (request->count * sizeof(struct tce_dma_part) > rest)
		return -EINVAL;
	switch (request->command) {
	case TCE_DMA_SYNC:
	case TCE_DMA_UNMAP:
	case TCE_DMA_READ:
	case TCE_DMA_WRITE:
		return of_mapping(file, request, rest);
	case TCE_DMA_MAPS:
	case TCE_DMA_UNMAPS:
	case TCE_DMA_LOOP:
		return of_batch(file, request);
	case TCE_DMA_DROP:
		return drop_batch(file);
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
	case TCE_DMA_HOLD:
		error = tce_dma_hold(file, target, request);
		return error ? error : answer_with(file, target, file->batch->count, 0, 0);
	case TCE_DMA_KEEP:
		target->keep = request->args[0];
		return answer_with(file, target, 0, 0, 0);
	}
	return -EINVAL;
}
