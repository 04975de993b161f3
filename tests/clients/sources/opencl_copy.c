/* Writes, copies and reads buffers of an OpenCL device, and looks at the bytes.
 *
 * No kernel of its own.  A fill is one of the runtime's: of that only the times are looked at. */

#define CL_TARGET_OPENCL_VERSION 300

#include <CL/cl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE (1 << 20)
#define CHECK(call) check(#call, call)

static void check(const char *call, cl_int result)
{
	if (result == CL_SUCCESS)
		return;
	fprintf(stderr, "opencl_copy: %.60s gave %d\n", call, result);
	exit(1);
}

static cl_mem make_buffer(cl_context context)
{
	cl_int result;
	cl_mem buffer = clCreateBuffer(context, CL_MEM_READ_WRITE, SIZE, NULL, &result);

	check("clCreateBuffer", result);
	return buffer;
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

static int fill(cl_command_queue queue, cl_mem buffer)
{
	cl_ulong queued, began, ended;
	cl_event event;
	char byte = 1;

	CHECK(clEnqueueFillBuffer(queue, buffer, &byte, 1, 0, SIZE, 0, NULL, &event));
	CHECK(clFinish(queue));
	CHECK(clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_QUEUED, 8, &queued, NULL));
	CHECK(clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, 8, &began, NULL));
	CHECK(clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, 8, &ended, NULL));
	CHECK(clReleaseEvent(event));
	if (queued <= began && began < ended)
		return 0;
	printf("queued at %lu, began at %lu, ended at %lu\n", queued, began, ended);
	return 1;
}

int main(void)
{
	static unsigned char kilobyte[1024];
	cl_queue_properties profiled[] = {CL_QUEUE_PROPERTIES, CL_QUEUE_PROFILING_ENABLE, 0};
	unsigned char *source = malloc(SIZE), *target = malloc(SIZE), *wanted = malloc(SIZE);
	cl_platform_id platform;
	cl_device_id device;
	cl_context context;
	cl_command_queue queue;
	cl_mem first, second;
	cl_int result;
	char name[128];
	int failed;

	CHECK(clGetPlatformIDs(1, &platform, NULL));
	CHECK(clGetDeviceIDs(platform, CL_DEVICE_TYPE_GPU, 1, &device, NULL));
	CHECK(clGetDeviceInfo(device, CL_DEVICE_NAME, sizeof(name), name, NULL));
	context = clCreateContext(NULL, 1, &device, NULL, NULL, &result);
	check("clCreateContext", result);
	queue = clCreateCommandQueueWithProperties(context, device, profiled, &result);
	check("clCreateCommandQueueWithProperties", result);
	first = make_buffer(context);
	second = make_buffer(context);

	for (size_t i = 0; i < SIZE; i++)
		source[i] = i * 31 ^ i >> 8;
	memset(target, 0x5a, SIZE);
	memset(kilobyte, 0xa5, sizeof(kilobyte));
	memcpy(wanted, source, SIZE);
	memcpy(wanted + 70001, source + 5003, 123457);
	memcpy(wanted, kilobyte, sizeof(kilobyte));

	CHECK(clEnqueueWriteBuffer(queue, first, CL_FALSE, 0, SIZE, source, 0, NULL, NULL));
	CHECK(clEnqueueCopyBuffer(queue, first, second, 0, 0, SIZE, 0, NULL, NULL));
	CHECK(clEnqueueCopyBuffer(queue, first, second, 5003, 70001, 123457, 0, NULL, NULL));
	CHECK(clEnqueueWriteBuffer(queue, second, CL_FALSE, 0, sizeof(kilobyte), kilobyte, 0, NULL,
				   NULL));
	CHECK(clEnqueueReadBuffer(queue, second, CL_FALSE, 0, SIZE, target, 0, NULL, NULL));
	CHECK(clFinish(queue));
	failed = differ(wanted, target) || fill(queue, first);
	if (!failed)
		printf("%s: %d bytes are right\n", name, SIZE);

	CHECK(clReleaseMemObject(second));
	CHECK(clReleaseMemObject(first));
	CHECK(clReleaseCommandQueue(queue));
	CHECK(clReleaseContext(context));
	return failed;
}
