"""The emulator held against this machine's kernel, packet by packet: needs root, and network namespaces of its own."""
