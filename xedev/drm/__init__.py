"""The DRM core: files, handles, dispatch, PRIME, GPU address spaces, memory managers."""
