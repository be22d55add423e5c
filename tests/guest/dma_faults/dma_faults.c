// SPDX-License-Identifier: GPL-2.0
/*
 * dma_faults: what the kernel's DMA API does with the table of one device is done wrongly, in one of several ways, so that
 * tests can see whether that is found. All of it ends when the module goes.
 */

#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/pci.h>

#include <asm/hvcall.h>
#include <asm/iommu.h>

static int slot = -1;
module_param(slot, int, 0);
MODULE_PARM_DESC(slot, "of the device, which it has alone of all PHBs");

static char *fault = "";
module_param(fault, charp, 0);
MODULE_PARM_DESC(fault, "both-ways, read-only, swapped, large-stuff, shared, part-off, one-short, one-left, one-more, "
		 "given-twice, mixed-up");

#define LARGE	600	/* IOMMU pages: more than one hypercall may name */
#define SEVERAL	16

static struct pci_dev *device;
static struct iommu_table *table;
static struct iommu_table_ops ours, *theirs;
static long frees_more;
static unsigned int sets;	/* calls of set */

static unsigned long scratch;	/* of all CPUs: it should be one's own */

static bool is(const char *name)
{
	return !strcmp(fault, name);
}

/* What the second CPU gets counts as free, and the search for more begins there. */
static void give_again(struct iommu_table *tbl, long index, long npages)
{
	if (!(raw_smp_processor_id() & 1))
		return;
	bitmap_clear(tbl->it_map, index - tbl->it_offset, npages);
	tbl->pools[0].hint = index - tbl->it_offset;
}

static int set(struct iommu_table *tbl, long index, long npages, unsigned long uaddr, enum dma_data_direction direction,
	       unsigned long attrs)
{
	if (is("both-ways"))
		direction = DMA_BIDIRECTIONAL;
	if (is("read-only"))
		direction = DMA_TO_DEVICE;
	if (is("swapped") && direction != DMA_BIDIRECTIONAL)
		direction = direction == DMA_TO_DEVICE ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	/* Every second call: the second part of a list of two. */
	if (is("part-off") && sets++ % 2)
		uaddr += 1ul << tbl->it_page_shift;
	if (is("one-short") && npages >= 512)
		npages--;
	if (is("given-twice"))
		give_again(tbl, index, npages);
	/* As if each CPU had no list of its own for what it is about to store. */
	if (is("mixed-up")) {
		WRITE_ONCE(scratch, uaddr);
		udelay(20);
		uaddr = READ_ONCE(scratch);
	}
	return theirs->set(tbl, index, npages, uaddr, direction, attrs);
}

static void clear(struct iommu_table *tbl, long index, long npages)
{
	if (is("large-stuff") && npages > LARGE / 2)
		plpar_hcall_norets(H_STUFF_TCE, tbl->it_index, index << tbl->it_page_shift, 0, npages);
	else if (is("one-left") && npages > 1)
		theirs->clear(tbl, index, npages - 1);
	else
		theirs->clear(tbl, index, npages + (is("one-more") && npages > 1));
	if (frees_more)
		clear_bit(index + npages - tbl->it_offset, tbl->it_map);
}

static dma_addr_t map(struct page *page, unsigned int pages)
{
	return dma_map_page(&device->dev, page, 0, pages << table->it_page_shift, DMA_TO_DEVICE);
}

static void unmap(dma_addr_t address, unsigned int pages)
{
	if (!dma_mapping_error(&device->dev, address))
		dma_unmap_page(&device->dev, address, pages << table->it_page_shift, DMA_TO_DEVICE);
}

/*
 * One that frees a bit too many, and a mapping that is given what its neighbour still has. No device uses any of them. All
 * are large enough for the pool that gives what comes next to what was given last.
 */
static void share(struct page *page)
{
	dma_addr_t first = map(page, SEVERAL), second = map(page, SEVERAL), third;

	frees_more = 1;
	unmap(first, SEVERAL);
	frees_more = 0;
	table->large_pool.hint = (first >> table->it_page_shift) - table->it_offset;
	third = map(page, SEVERAL + 1);
	unmap(third, SEVERAL + 1);
	unmap(second, SEVERAL);
}

static int __init dma_faults_init(void)
{
	struct page *page = alloc_pages(GFP_KERNEL | __GFP_ZERO, get_order(LARGE << 12));

	if (!page)
		return -ENOMEM;
	for_each_pci_dev(device)
		if (PCI_SLOT(device->devfn) == slot)
			break;
	if (!device) {
		__free_pages(page, get_order(LARGE << 12));
		return -ENODEV;
	}
	table = get_iommu_table_base(&device->dev);
	theirs = table->it_ops;
	ours = *theirs;
	ours.set = set;
	ours.clear = clear;
	table->it_ops = &ours;
	if (is("large-stuff"))
		unmap(map(page, LARGE), LARGE);
	if (is("shared"))
		share(page);
	__free_pages(page, get_order(LARGE << 12));
	return 0;
}

static void __exit dma_faults_exit(void)
{
	table->it_ops = theirs;
	pci_dev_put(device);
}

module_init(dma_faults_init);
module_exit(dma_faults_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Faults in the DMA API's use of one TCE table");
