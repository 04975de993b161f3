/* SPDX-License-Identifier: MIT */
/* The functions that this library takes the place of. */
#include "shim.h"

#include <dlfcn.h>

/* Before glibc 2.34 they are in libdl, which not all programs have. */
#pragma weak dlsym
#pragma weak dlerror

/*
 * The oldest versions that there are, so that the library loads beside a C library older than the
 * one it was built with.
 */
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 34)
#if defined(__x86_64__)
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
__asm__(".symver dlerror, dlerror@GLIBC_2.2.5");
#else
__asm__(".symver dlsym, dlsym@GLIBC_2.17");
__asm__(".symver dlerror, dlerror@GLIBC_2.17");
#endif
#endif

void *next_function(const char *name, void *fallback)
{
	void *found = dlsym ? dlsym(RTLD_NEXT, name) : NULL;

	if (found)
		return found;
	/* Not that the program takes it for its own error. */
	if (dlerror)
		dlerror();
	return fallback;
}
