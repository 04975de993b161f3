/* Allocates each kind of memory, fills and copies it on an engine that only copies, and looks at
 * the bytes. */

#include <level_zero/ze_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE (1 << 20)
#define GROUPS_MAX 8
#define CHECK(call) check(#call, call)

struct machine {
	ze_driver_handle_t driver;
	ze_device_handle_t device;
	ze_context_handle_t context;
	uint32_t group;
};

static void check(const char *call, ze_result_t result)
{
	if (result == ZE_RESULT_SUCCESS)
		return;
	fprintf(stderr, "level_zero: %.60s gave %#x\n", call, result);
	exit(1);
}

static void find_copy_group(struct machine *machine)
{
	ze_command_queue_group_properties_t groups[GROUPS_MAX] = {0};
	uint32_t count = GROUPS_MAX;

	for (int i = 0; i < GROUPS_MAX; i++)
		groups[i].stype = ZE_STRUCTURE_TYPE_COMMAND_QUEUE_GROUP_PROPERTIES;
	CHECK(zeDeviceGetCommandQueueGroupProperties(machine->device, &count, groups));
	for (machine->group = 0; machine->group < count; machine->group++)
		if (groups[machine->group].flags & ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COPY &&
		    !(groups[machine->group].flags & ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COMPUTE))
			return;
	fprintf(stderr, "level_zero: no engine that only copies\n");
	exit(1);
}

static void open_machine(struct machine *machine)
{
	ze_context_desc_t description = {ZE_STRUCTURE_TYPE_CONTEXT_DESC};
	uint32_t one = 1;

	CHECK(zeInit(ZE_INIT_FLAG_GPU_ONLY));
	CHECK(zeDriverGet(&one, &machine->driver));
	CHECK(zeDeviceGet(machine->driver, &one, &machine->device));
	CHECK(zeContextCreate(machine->driver, &description, &machine->context));
	find_copy_group(machine);
}

static void *allocate(struct machine *machine, int on_device, int on_host)
{
	ze_device_mem_alloc_desc_t device = {ZE_STRUCTURE_TYPE_DEVICE_MEM_ALLOC_DESC};
	ze_host_mem_alloc_desc_t host = {ZE_STRUCTURE_TYPE_HOST_MEM_ALLOC_DESC};
	void *memory = NULL;

	if (on_device && on_host)
		CHECK(zeMemAllocShared(machine->context, &device, &host, SIZE, 64, machine->device,
				       &memory));
	else if (on_device)
		CHECK(zeMemAllocDevice(machine->context, &device, SIZE, 64, machine->device, &memory));
	else
		CHECK(zeMemAllocHost(machine->context, &host, SIZE, 64, &memory));
	return memory;
}

static void run(struct machine *machine, void *host, void *device, void *shared)
{
	ze_command_queue_desc_t queue_description = {
		.stype = ZE_STRUCTURE_TYPE_COMMAND_QUEUE_DESC,
		.ordinal = machine->group,
	};
	ze_command_list_desc_t list_description = {
		.stype = ZE_STRUCTURE_TYPE_COMMAND_LIST_DESC,
		.commandQueueGroupOrdinal = machine->group,
	};
	ze_command_queue_handle_t queue;
	ze_command_list_handle_t list;
	unsigned char byte = 0xa5;

	CHECK(zeCommandQueueCreate(machine->context, machine->device, &queue_description, &queue));
	CHECK(zeCommandListCreate(machine->context, machine->device, &list_description, &list));
	CHECK(zeCommandListAppendMemoryCopy(list, device, host, SIZE, NULL, 0, NULL));
	CHECK(zeCommandListAppendBarrier(list, NULL, 0, NULL));
	CHECK(zeCommandListAppendMemoryFill(list, device, &byte, 1, 4096, NULL, 0, NULL));
	CHECK(zeCommandListAppendBarrier(list, NULL, 0, NULL));
	CHECK(zeCommandListAppendMemoryCopy(list, shared, device, SIZE, NULL, 0, NULL));
	CHECK(zeCommandListClose(list));
	CHECK(zeCommandQueueExecuteCommandLists(queue, 1, &list, NULL));
	CHECK(zeCommandQueueSynchronize(queue, UINT64_MAX));
	CHECK(zeCommandListDestroy(list));
	CHECK(zeCommandQueueDestroy(queue));
}

static int differ(const unsigned char *wanted, const unsigned char *found)
{
	for (size_t at = 0; at < SIZE; at++) {
		if (wanted[at] == found[at])
			continue;
		printf("byte %zu is %#x, not %#x\n", at, found[at], wanted[at]);
		return 1;
	}
	return 0;
}

int main(void)
{
	ze_device_properties_t properties = {ZE_STRUCTURE_TYPE_DEVICE_PROPERTIES};
	struct machine machine;
	unsigned char *host, *shared;
	void *device;
	int failed;

	open_machine(&machine);
	CHECK(zeDeviceGetProperties(machine.device, &properties));
	host = allocate(&machine, 0, 1);
	device = allocate(&machine, 1, 0);
	shared = allocate(&machine, 1, 1);
	for (size_t i = 0; i < SIZE; i++)
		host[i] = i * 31 ^ i >> 8;
	memset(shared, 0x5a, SIZE);
	run(&machine, host, device, shared);
	memset(host, 0xa5, 4096);
	failed = differ(host, shared);
	if (!failed)
		printf("%s: %u slices, %d bytes are right\n", properties.name, properties.numSlices,
		       SIZE);
	CHECK(zeMemFree(machine.context, shared));
	CHECK(zeMemFree(machine.context, device));
	CHECK(zeMemFree(machine.context, host));
	CHECK(zeContextDestroy(machine.context));
	return failed;
}
