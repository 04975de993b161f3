"""How the device is presented: files over FUSE, the frames of the write/read protocol."""
