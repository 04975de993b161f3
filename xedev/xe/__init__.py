"""The Xe driver, one module for each file of drivers/gpu/drm/xe."""
