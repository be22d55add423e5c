/*
 * vfio_loop GROUP PAGES TIMES: how fast VFIO maps and unmaps, without an agent's share in it.
 *
 * Does what the agent does to set up a container of type 1 (VFIO_SPAPR_TCE_IOMMU) with one group, then TIMES rounds of
 * MAP_DMA and UNMAP_DMA of PAGES pages of 4 KiB at the window's start. Ends with one line of what it took:
 * calls=N microseconds=N. Exit status: 0; 1 and errno=N step=N if the kernel refuses; 2 for wrong usage. A dot now and then says that it goes on.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define BEAT 1024 /* rounds between two looks at the clock */

static int refused(int step)
{
	printf("errno=%d step=%d\n", errno, step);
	return 1;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	struct vfio_iommu_spapr_tce_info info = { .argsz = sizeof(info) };
	struct vfio_iommu_type1_dma_map map = { .argsz = sizeof(map) };
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap) };
	unsigned long pages, times, round;
	double began, beat;
	int container, group;
	char path[64];
	char *memory;

	if (argc != 4)
		return 2;
	snprintf(path, sizeof(path), "/dev/vfio/%d", atoi(argv[1]));
	pages = strtoul(argv[2], NULL, 10);
	times = strtoul(argv[3], NULL, 10);
	if (!pages || !times)
		return 2;
	container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	if (container < 0)
		return refused(1);
	group = open(path, O_RDWR | O_CLOEXEC);
	if (group < 0)
		return refused(2);
	if (ioctl(group, VFIO_GROUP_GET_STATUS, &status))
		return refused(3);
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container))
		return refused(4);
	if (ioctl(container, VFIO_SET_IOMMU, VFIO_SPAPR_TCE_IOMMU))
		return refused(5);
	if (ioctl(container, VFIO_IOMMU_SPAPR_TCE_GET_INFO, &info))
		return refused(6);
	if (ioctl(container, VFIO_IOMMU_ENABLE))
		return refused(7);
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (memory == MAP_FAILED)
		return refused(8);
	map.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
	map.vaddr = (unsigned long)memory;
	map.iova = info.dma32_window_start;
	map.size = pages * PAGE;
	unmap.iova = map.iova;
	unmap.size = map.size;
	began = beat = now();
	for (round = 0; round < times; round++) {
		if (ioctl(container, VFIO_IOMMU_MAP_DMA, &map))
			return refused(9);
		if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap))
			return refused(10);
		if (round % BEAT == BEAT - 1 && now() - beat > 1) {
			beat = now();
			if (write(STDOUT_FILENO, ".", 1) != 1)
				return 2;
		}
	}
	printf("calls=%lu microseconds=%.0f\n", 2 * times, (now() - began) * 1e6);
	return 0;
}
