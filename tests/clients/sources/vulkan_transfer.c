/* Copies and fills buffers on a queue that can do nothing else, and reads the bytes back.
 *
 * vulkan_transfer [NAME]: on the first device that is no CPU and has NAME in its name. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vulkan.h>

#define SIZE (1 << 20)
#define DEVICES_MAX 8
#define FAMILIES_MAX 8
#define COUNT(array) (sizeof(array) / sizeof(*(array)))
#define CHECK(call) check(#call, call)

enum { SOURCE, MIDDLE, TARGET, BUFFERS };

struct machine {
	VkPhysicalDevice physical;
	VkPhysicalDeviceProperties properties;
	uint32_t family;
	VkDevice device;
	VkQueue queue;
};

struct buffer {
	VkBuffer handle;
	VkDeviceMemory memory;
	unsigned char *bytes;
};

static void fail(const char *what)
{
	fprintf(stderr, "vulkan_transfer: %s\n", what);
	exit(1);
}

static void check(const char *call, VkResult result)
{
	if (result == VK_SUCCESS)
		return;
	fprintf(stderr, "vulkan_transfer: %.60s gave %d\n", call, result);
	exit(1);
}

static VkInstance make_instance(void)
{
	VkApplicationInfo application = {
		.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
		.apiVersion = VK_API_VERSION_1_1,
	};
	VkInstanceCreateInfo info = {
		.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
		.pApplicationInfo = &application,
	};
	VkInstance instance;

	CHECK(vkCreateInstance(&info, NULL, &instance));
	return instance;
}

static void find_device(VkInstance instance, const char *name, struct machine *machine)
{
	VkPhysicalDevice found[DEVICES_MAX];
	uint32_t count = DEVICES_MAX;

	CHECK(vkEnumeratePhysicalDevices(instance, &count, found));
	for (uint32_t i = 0; i < count; i++) {
		machine->physical = found[i];
		vkGetPhysicalDeviceProperties(found[i], &machine->properties);
		if (machine->properties.deviceType != VK_PHYSICAL_DEVICE_TYPE_CPU &&
		    strstr(machine->properties.deviceName, name))
			return;
	}
	fail("no such device");
}

static void find_family(struct machine *machine)
{
	VkQueueFamilyProperties families[FAMILIES_MAX];
	uint32_t count = FAMILIES_MAX;
	VkQueueFlags other = VK_QUEUE_GRAPHICS_BIT | VK_QUEUE_COMPUTE_BIT;

	vkGetPhysicalDeviceQueueFamilyProperties(machine->physical, &count, families);
	for (uint32_t i = 0; i < count; i++) {
		machine->family = i;
		if (families[i].queueFlags & VK_QUEUE_TRANSFER_BIT &&
		    !(families[i].queueFlags & other))
			return;
	}
	fail("no queue family that only transfers");
}

static void make_device(struct machine *machine)
{
	float priority = 1;
	VkDeviceQueueCreateInfo queue = {
		.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
		.queueFamilyIndex = machine->family,
		.queueCount = 1,
		.pQueuePriorities = &priority,
	};
	VkDeviceCreateInfo info = {
		.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
		.queueCreateInfoCount = 1,
		.pQueueCreateInfos = &queue,
	};

	CHECK(vkCreateDevice(machine->physical, &info, NULL, &machine->device));
	vkGetDeviceQueue(machine->device, machine->family, 0, &machine->queue);
}

static uint32_t memory_type(struct machine *machine, uint32_t allowed, VkMemoryPropertyFlags wanted)
{
	VkPhysicalDeviceMemoryProperties memory;

	vkGetPhysicalDeviceMemoryProperties(machine->physical, &memory);
	for (uint32_t i = 0; i < memory.memoryTypeCount; i++)
		if (allowed & 1u << i &&
		    (memory.memoryTypes[i].propertyFlags & wanted) == wanted)
			return i;
	fail("no such memory");
	return 0;
}

static void make_buffer(struct machine *machine, int number, struct buffer *buffer)
{
	VkMemoryPropertyFlags on_host =
		VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
	VkMemoryPropertyFlags wanted =
		number == MIDDLE ? VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT : on_host;
	VkBufferCreateInfo info = {
		.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
		.size = SIZE,
		.usage = VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT,
	};
	VkMemoryRequirements needs;
	VkMemoryAllocateInfo allocation = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO};

	CHECK(vkCreateBuffer(machine->device, &info, NULL, &buffer->handle));
	vkGetBufferMemoryRequirements(machine->device, buffer->handle, &needs);
	allocation.allocationSize = needs.size;
	allocation.memoryTypeIndex = memory_type(machine, needs.memoryTypeBits, wanted);
	CHECK(vkAllocateMemory(machine->device, &allocation, NULL, &buffer->memory));
	CHECK(vkBindBufferMemory(machine->device, buffer->handle, buffer->memory, 0));
	if (number != MIDDLE)
		CHECK(vkMapMemory(machine->device, buffer->memory, 0, SIZE, 0,
				  (void **)&buffer->bytes));
}

static void barrier(VkCommandBuffer commands)
{
	VkMemoryBarrier memory = {
		.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
		.srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT,
		.dstAccessMask = VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT |
				 VK_ACCESS_HOST_READ_BIT,
	};
	VkPipelineStageFlags before = VK_PIPELINE_STAGE_TRANSFER_BIT;
	VkPipelineStageFlags after = before | VK_PIPELINE_STAGE_HOST_BIT;

	vkCmdPipelineBarrier(commands, before, after, 0, 1, &memory, 0, NULL, 0, NULL);
}

/* What the GPU is to do, with offsets and sizes that are no multiples of anything. */
static const VkBufferCopy WHOLE[] = {{0, 0, SIZE}};
static const VkBufferCopy PIECES[] = {{1, 4099, 777}, {70001, 200003, 123457}};
static const struct {
	VkDeviceSize offset, size;
	uint32_t data;
} FILLS[] = {{1024, 2048, 0xdeadbeef}, {SIZE / 2, SIZE / 4, 0x01020304}};

static void record(VkCommandBuffer commands, struct buffer *buffers)
{
	VkBuffer source = buffers[SOURCE].handle, middle = buffers[MIDDLE].handle;
	VkBuffer target = buffers[TARGET].handle;

	vkCmdCopyBuffer(commands, source, middle, COUNT(WHOLE), WHOLE);
	barrier(commands);
	for (size_t i = 0; i < COUNT(FILLS); i++)
		vkCmdFillBuffer(commands, middle, FILLS[i].offset, FILLS[i].size, FILLS[i].data);
	barrier(commands);
	vkCmdCopyBuffer(commands, middle, target, COUNT(WHOLE), WHOLE);
	barrier(commands);
	vkCmdCopyBuffer(commands, source, target, COUNT(PIECES), PIECES);
	barrier(commands);
}

static void run(struct machine *machine, struct buffer *buffers)
{
	VkCommandPoolCreateInfo pool_info = {
		.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
		.queueFamilyIndex = machine->family,
	};
	VkCommandBufferAllocateInfo commands_info = {
		.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
		.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
		.commandBufferCount = 1,
	};
	VkCommandBufferBeginInfo begin = {
		.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
	};
	VkFenceCreateInfo fence_info = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
	VkSubmitInfo submit = {
		.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
		.commandBufferCount = 1,
	};
	VkCommandPool pool;
	VkCommandBuffer commands;
	VkFence fence;

	CHECK(vkCreateCommandPool(machine->device, &pool_info, NULL, &pool));
	commands_info.commandPool = pool;
	CHECK(vkAllocateCommandBuffers(machine->device, &commands_info, &commands));
	CHECK(vkBeginCommandBuffer(commands, &begin));
	record(commands, buffers);
	CHECK(vkEndCommandBuffer(commands));
	CHECK(vkCreateFence(machine->device, &fence_info, NULL, &fence));
	submit.pCommandBuffers = &commands;
	CHECK(vkQueueSubmit(machine->queue, 1, &submit, fence));
	CHECK(vkWaitForFences(machine->device, 1, &fence, VK_TRUE, 60000000000));
	vkDestroyFence(machine->device, fence, NULL);
	vkDestroyCommandPool(machine->device, pool, NULL);
}

/* The same by the CPU. */
static void expect(const unsigned char *source, unsigned char *target)
{
	memcpy(target, source, SIZE);
	for (size_t i = 0; i < COUNT(FILLS); i++)
		for (size_t at = 0; at < FILLS[i].size; at += 4)
			memcpy(target + FILLS[i].offset + at, &FILLS[i].data, 4);
	for (size_t i = 0; i < COUNT(PIECES); i++)
		memcpy(target + PIECES[i].dstOffset, source + PIECES[i].srcOffset, PIECES[i].size);
}

static size_t first_difference(const unsigned char *one, const unsigned char *other)
{
	size_t at = 0;

	while (at < SIZE && one[at] == other[at])
		at++;
	return at;
}

int main(int argc, char **argv)
{
	struct machine machine;
	struct buffer buffers[BUFFERS] = {0};
	unsigned char *expected = malloc(SIZE);
	VkInstance instance = make_instance();
	size_t at;

	find_device(instance, argc > 1 ? argv[1] : "Intel", &machine);
	find_family(&machine);
	make_device(&machine);
	for (int i = 0; i < BUFFERS; i++)
		make_buffer(&machine, i, &buffers[i]);
	for (size_t i = 0; i < SIZE; i++)
		buffers[SOURCE].bytes[i] = i * 31 ^ i >> 8;
	memset(buffers[TARGET].bytes, 0x5a, SIZE);
	run(&machine, buffers);
	expect(buffers[SOURCE].bytes, expected);
	at = first_difference(expected, buffers[TARGET].bytes);
	if (at < SIZE) {
		printf("byte %zu is %#x, not %#x\n", at, buffers[TARGET].bytes[at], expected[at]);
		return 1;
	}
	printf("%s: %d bytes are right, queue family %u\n", machine.properties.deviceName, SIZE,
	       machine.family);
	for (int i = 0; i < BUFFERS; i++) {
		vkDestroyBuffer(machine.device, buffers[i].handle, NULL);
		vkFreeMemory(machine.device, buffers[i].memory, NULL);
	}
	vkDestroyDevice(machine.device, NULL);
	vkDestroyInstance(instance, NULL);
	free(expected);
	return 0;
}
