// SPDX-License-Identifier: GPL-2.0
/* tce_dma: devices that the driver has or had, and what is mapped for them. */

#include <linux/mm.h>
#include <linux/slab.h>

#include "tce_dma.h"

DECLARE_RWSEM(tce_dma_gate);
DEFINE_MUTEX(tce_dma_lock);
LIST_HEAD(tce_dma_targets);
LIST_HEAD(tce_dma_mappings);

struct target *tce_dma_find_target(u32 domain, u32 place)
{
	struct target *target, *found = NULL;

	mutex_lock(&tce_dma_lock);
	list_for_each_entry(target, &tce_dma_targets, targets)
		if (target->bound && pci_domain_nr(target->pdev->bus) == domain && pci_dev_id(target->pdev) == place)
			found = target;
	mutex_unlock(&tce_dma_lock);
	return found;
}

struct mapping *tce_dma_find_mapping(void *owner, u64 id)
{
	struct mapping *mapping, *found = NULL;

	mutex_lock(&tce_dma_lock);
	list_for_each_entry(mapping, &tce_dma_mappings, mappings)
		if (mapping->owner == owner && mapping->id == id)
			found = mapping;
	mutex_unlock(&tce_dma_lock);
	return found;
}

/* One of those that a file has; NULL: it has none any more. */
struct mapping *tce_dma_find_owned(void *owner)
{
	struct mapping *mapping, *found = NULL;

	mutex_lock(&tce_dma_lock);
	list_for_each_entry(mapping, &tce_dma_mappings, mappings)
		if (mapping->owner == owner)
			found = mapping;
	mutex_unlock(&tce_dma_lock);
	return found;
}

/* Under the lock. */
void tce_dma_forget_target(struct target *target)
{
	if (target->bound || target->live)
		return;
	list_del(&target->targets);
	pci_dev_put(target->pdev);
	kfree(target);
}

void tce_dma_unmap(struct mapping *mapping)
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

void tce_dma_put_pages(struct mapping *mapping)
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

/* It is in no list, and not mapped any more. */
static void drop(struct mapping *mapping)
{
	struct target *target = mapping->target;

	tce_dma_put_pages(mapping);
	mutex_lock(&tce_dma_lock);
	target->live--;
	tce_dma_forget_target(target);
	mutex_unlock(&tce_dma_lock);
}

/* Unmap it, and forget it. */
void tce_dma_end(struct mapping *mapping)
{
	mutex_lock(&tce_dma_lock);
	list_del(&mapping->mappings);
	mutex_unlock(&tce_dma_lock);
	tce_dma_unmap(mapping);
	drop(mapping);
}

static unsigned long pages_of(const struct tce_dma_part *part)
{
	return ((part->address & ~PAGE_MASK) + part->size + PAGE_SIZE - 1) >> PAGE_SHIFT;
}

int tce_dma_check_parts(const struct tce_dma_part *parts, u32 count, enum tce_dma_how how)
{
	unsigned long pages = 0;
	u32 i;

	if (!count || count > TCE_DMA_HELD || (how != TCE_DMA_SG && count != 1))
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
int tce_dma_take_pages(struct mapping *mapping, const struct tce_dma_part *parts, u32 count)
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
int tce_dma_map(struct mapping *mapping)
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

struct mapping *tce_dma_new_mapping(struct tce_dma_file *file, struct target *target, u64 id)
{
	struct mapping *mapping = kzalloc(sizeof(*mapping), GFP_KERNEL);

	if (mapping) {
		mapping->target = target;
		mapping->owner = file;
		mapping->id = id;
	}
	return mapping;
}

void tce_dma_keep(struct mapping *mapping)
{
	mutex_lock(&tce_dma_lock);
	list_add(&mapping->mappings, &tce_dma_mappings);
	mapping->target->live++;
	mutex_unlock(&tce_dma_lock);
}

/* Of these parts, with their pages, and not mapped yet. */
int tce_dma_prepare(struct tce_dma_file *file, struct target *target, const struct tce_dma_part *parts, u32 count,
		    struct mapping **made)
{
	struct mapping *mapping = tce_dma_new_mapping(file, target, 0);
	int error;

	if (!mapping)
		return -ENOMEM;
	error = tce_dma_take_pages(mapping, parts, count);
	if (error)
		tce_dma_put_pages(mapping);
	else
		*made = mapping;
	return error;
}
