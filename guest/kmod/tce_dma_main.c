// SPDX-License-Identifier: GPL-2.0
/*
 * tce_dma: does on command what drivers do with the DMA API, and tells the bus addresses ("handles") that they get.
 *
 * A PCI driver for QEMU's edu and iommu-testdev. It binds to no device by itself: driver_override must name it. One
 * write to /dev/tce_dma is one request; its answer is read back. What a process maps is pages of its own memory, which
 * stay where they are until they are unmapped. What a file has mapped is unmapped when it is closed, at the latest.
 * For root alone. See struct tce_dma_request in tce_dma.h for the format, which is in native byte order with natural
 * alignment.
 *
 * A request that would make the kernel stumble is refused by an errno of the write. What the DMA API itself refuses is
 * the value of an answer.
 *
 * Source: Documentation/core-api/dma-api.rst.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "tce_dma.h"

static const struct pci_device_id known[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },	/* edu */
	{ PCI_DEVICE(0x1b36, 0x0005) },	/* iommu-testdev */
	{ }
};

static void forget(struct tce_dma_file *file)
{
	kvfree(file->answer);
	file->answer = NULL;
	file->size = 0;
	file->taken = 0;
}

static int perform(struct tce_dma_file *file, const struct tce_dma_request *request, size_t size)
{
	int error;

	if (tce_dma_is_alone(request)) {
		if (down_write_killable(&tce_dma_gate))
			return -EINTR;
		error = tce_dma_perform(file, request, size);
		up_write(&tce_dma_gate);
	} else {
		if (down_read_interruptible(&tce_dma_gate))
			return -EINTR;
		error = tce_dma_perform(file, request, size);
		up_read(&tce_dma_gate);
	}
	return error;
}

static ssize_t tce_dma_write(struct file *filp, const char __user *from, size_t size, loff_t *pos)
{
	struct tce_dma_file *file = filp->private_data;
	struct tce_dma_request *request;
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
	if (!error && mutex_lock_interruptible(&file->lock))
		error = -EINTR;
	if (!error) {
		forget(file);
		error = perform(file, request, size);
		mutex_unlock(&file->lock);
	}
	kvfree(request);
	return error ? error : size;
}

/* The answer to the last request, each byte once. */
static ssize_t tce_dma_read(struct file *filp, char __user *to, size_t size, loff_t *pos)
{
	struct tce_dma_file *file = filp->private_data;
	ssize_t taken;

	if (mutex_lock_interruptible(&file->lock))
		return -EINTR;
	taken = min(size, file->size - file->taken);
	if (taken && copy_to_user(to, (const u8 *)file->answer + file->taken, taken))
		taken = -EFAULT;
	else
		file->taken += taken;
	mutex_unlock(&file->lock);
	return taken;
}

static int tce_dma_open(struct inode *inode, struct file *filp)
{
	struct tce_dma_file *file;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	file = kzalloc(sizeof(*file), GFP_KERNEL);
	if (!file)
		return -ENOMEM;
	mutex_init(&file->lock);
	filp->private_data = file;
	return 0;
}

static int tce_dma_close(struct inode *inode, struct file *filp)
{
	struct tce_dma_file *file = filp->private_data;
	struct mapping *mapping;

	down_read(&tce_dma_gate);
	while ((mapping = tce_dma_find_owned(file)))
		tce_dma_end(mapping);
	tce_dma_drop_batch(file);
	up_read(&tce_dma_gate);
	forget(file);
	kfree(file);
	return 0;
}

static const struct file_operations tce_dma_operations = {
	.owner = THIS_MODULE,
	.open = tce_dma_open,
	.release = tce_dma_close,
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
	down_write(&tce_dma_gate);
	list_add(&target->targets, &tce_dma_targets);
	up_write(&tce_dma_gate);
	pci_set_drvdata(pdev, target);
	return 0;
}

static void tce_dma_remove(struct pci_dev *pdev)
{
	struct target *target = pci_get_drvdata(pdev);
	struct mapping *mapping, *next;

	/* Nobody else is here: the list is its alone. */
	down_write(&tce_dma_gate);
	/* Also what was mapped before the driver let go of the device and got it again. */
	list_for_each_entry_safe(mapping, next, &tce_dma_mappings, mappings)
		if (mapping->target->pdev == pdev && !target->keep)
			tce_dma_end(mapping);
	mutex_lock(&tce_dma_lock);
	target->bound = false;
	tce_dma_forget_target(target);
	mutex_unlock(&tce_dma_lock);
	up_write(&tce_dma_gate);
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
